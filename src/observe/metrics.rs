//! The figures that operators watch, rendered as OpenMetrics text.
//!
//! Each shard counts into memory of its own: on the way of a message a count is one relaxed atomic addition, with no
//! lock, no lookup and no cache line that another shard writes to. What an event already says is counted by
//! `observe` when the event is emitted; everything else through the public fields. Nothing that a client chooses
//! becomes a label. Each metric has its entry in the manual page "metrics".

mod cell;
mod page;

use std::sync::Arc;

use prometheus_client::{encoding::text::encode, metrics::info::Info, registry::Registry};

pub use cell::{Count, Counts, Gauge, Histogram};

use super::{
    event::{Concerned, ConnectionEnded, Event, MessageStored, Outcome},
    label::{
        AttemptKind, AuthOutcome, Bound, EarlyCommit, EarlyData, Handshake, Hello, OutcomeKind, QhloId, Reachability,
        ReloadResult, ReplyClass, Settlement, Shortcut,
    },
};

/// All figures of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    counted: Arc<Counted>,
}

impl Metrics {
    /// Figures, all zero, for `shards` shards; `version` is told as `onetrip_build_info`.
    pub fn new(version: &str, shards: u16) -> Self {
        Self::with_destinations(version, shards, Vec::new())
    }

    /// The same, with figures for each of the destinations besides. They come from the configuration, by number.
    pub fn with_destinations(version: &str, shards: u16, destinations: Vec<String>) -> Self {
        let count = destinations.len();
        let counted = Arc::new(Counted {
            shards: (0..shards).map(|_| Arc::new(ShardMetrics::new(count))).collect(),
            destinations,
            service: ServiceMetrics::default(),
            once: Arc::default(),
        });
        let mut registry = Registry::with_prefix("onetrip");
        registry.register("build", "The program that runs", Info::new(vec![("version", version.to_owned())]));
        registry.register_collector(Box::new(Arc::clone(&counted)));
        Self { registry, counted }
    }

    /// The figures of one shard, counted from 0; to be asked for once, at the start. None if there is no such shard.
    pub fn shard(&self, shard: u16) -> Option<Arc<ShardMetrics>> {
        self.counted.shards.get(usize::from(shard)).cloned()
    }

    /// The figures of the messages that are taken once.
    pub fn once(&self) -> Arc<OnceMetrics> {
        Arc::clone(&self.counted.once)
    }

    /// Counts an event of the service. Events of a shard go to [`ShardMetrics::observe`], and count nothing here.
    pub fn observe(&self, event: &Event) {
        let service = &self.counted.service;
        match event {
            Event::CertificateReloaded(_) => service.certificate_reloads.count(ReloadResult::Loaded),
            Event::CertificateReloadFailed(_) => service.certificate_reloads.count(ReloadResult::Failed),
            Event::UsersReloaded(_) => service.users_reloads.count(ReloadResult::Loaded),
            Event::UsersReloadFailed(_) => service.users_reloads.count(ReloadResult::Failed),
            Event::SpoolDamaged(_) => service.spool_damaged.increment(),
            Event::LogLinesDropped(event) => service.log_lines_dropped.add(event.lines),
            Event::OnceTokensForgotten(event) => self.counted.once.forgotten.add(event.tokens),
            _ => {}
        }
    }

    /// All figures as OpenMetrics text, `# EOF` included.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

/// The figures of one shard. The alignment is two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Connections open now; see [`OpenConnection`].
    pub connections_open: Gauge,
    /// Connections accepted from the system; see [`OpenConnection`].
    pub connections_accepted: Count,
    /// Connections closed at once because of a bound (counted by `observe`, but those that a late shard turns away).
    pub connections_refused: Counts<Bound>,
    /// Connections by their end (counted by `observe`).
    pub connections_ended: Counts<OutcomeKind>,
    /// From accept to close (counted by `observe`).
    pub connection_seconds: Histogram<LONG>,
    /// From accept to the first MAIL.
    pub first_mail_seconds: Histogram<LONG>,
    /// How long what a client had sent waited for the shard, of some flights.
    pub flight_wait_seconds: Histogram<SHORT>,
    /// Times that accepting paused (counted by `observe`).
    pub accept_pauses: Count,
    /// Connections whose code broke an invariant (counted by `observe`).
    pub sessions_panicked: Count,
    /// Bytes received on connections that have ended (counted by `observe`).
    pub received_bytes: Count,
    /// Bytes sent on connections that have ended (counted by `observe`).
    pub sent_bytes: Count,
    /// Receives that brought data, of connections that have ended (counted by `observe`).
    pub flights_in: Count,
    /// Sends, of connections that have ended (counted by `observe`).
    pub flights_out: Count,
    /// Completed TLS handshakes.
    pub tls_handshakes: Counts<Handshake>,
    /// From the ClientHello to the end of the handshake.
    pub tls_handshake_seconds: Histogram<SHORT>,
    /// Connections that ended because TLS failed (counted by `observe`).
    pub tls_failures: Count,
    /// Connections inside TLS by what became of their early data.
    pub early_data: Counts<EarlyData>,
    /// Messages that came as early data.
    pub early_messages: Counts<EarlyCommit>,
    /// Hello commands accepted.
    pub hellos: Counts<Hello>,
    /// QHLO ids judged.
    pub qhlo_ids: Counts<QhloId>,
    /// Shortcuts taken.
    pub shortcuts: Counts<Shortcut>,
    /// AUTH commands by result (`denied` and `put_off` are counted by `observe`).
    pub auths: Counts<AuthOutcome>,
    /// From the whole credential to the verdict.
    pub auth_seconds: Histogram<SHORT>,
    /// Messages stored (counted by `observe`).
    pub messages_stored: Count,
    /// Messages that had been stored before (counted by `observe`).
    pub messages_repeated: Count,
    /// Messages refused (counted by `observe`).
    pub messages_refused: Counts<ReplyClass>,
    /// Recipients of stored messages (counted by `observe`).
    pub recipients: Count,
    /// Bytes of stored messages (counted by `observe`).
    pub message_bytes: Count,
    /// From the end of the message to its being durable (counted by `observe`).
    pub commit_seconds: Histogram<SHORT>,
    /// Deliveries that failed because something here is broken (counted by `observe`).
    pub delivery_faults: Count,
    /// Messages in the spool.
    pub spool_messages: Gauge,
    /// Segments in use.
    pub spool_segments: Gauge,
    /// Segments that are ready to be used.
    pub spool_spares: Gauge,
    /// Segments made, of zeroes or of old ones.
    pub spool_segments_made: Count,
    /// Batches written: each is one write and one sync.
    pub spool_batches: Count,
    /// Messages in these batches.
    pub spool_batch_messages: Count,
    /// Bytes of these batches.
    pub spool_bytes: Count,
    /// Batches and segments that the system refused (counted by `observe`).
    pub spool_faults: Count,
    /// Minutes in which the disk had no room (counted by `observe`).
    pub spool_full: Count,
    /// Messages in the queue.
    pub queue_messages: Gauge,
    /// Age of the oldest of them in seconds.
    pub queue_oldest_seconds: Gauge,
    /// Recipients by what became of them (counted by `observe`).
    pub queue_recipients: Counts<Settlement>,
    /// Reports to senders (counted by `observe`).
    pub reports: Count,
    /// Destinations that went away or came back (counted by `observe`).
    pub destination_changes: Counts<Reachability>,
    /// By number of the destination.
    pub destinations: Box<[DestinationMetrics]>,
}

/// The figures of one destination on one shard.
#[derive(Debug, Default)]
pub struct DestinationMetrics {
    /// Messages that have still to go there.
    pub messages: Gauge,
    /// 1 if it cannot be reached.
    pub is_down: Gauge,
    /// Attempts by result.
    pub attempts: Counts<AttemptKind>,
}

impl ShardMetrics {
    fn new(destinations: usize) -> Self {
        Self { destinations: (0..destinations).map(|_| DestinationMetrics::default()).collect(), ..Self::default() }
    }

    /// Counts a connection as accepted, and as open until the returned guard is dropped.
    pub fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections_accepted.increment();
        self.connections_open.raise();
        OpenConnection(Arc::clone(self))
    }

    /// Counts what an event of this shard says; to be called once for each. Events of the service count nothing here.
    pub fn observe(&self, event: &Event) {
        match event {
            Event::ConnectionEnded(event) => self.observe_connection_ended(event),
            Event::ConnectionRefused(event) => self.connections_refused.count(event.bound),
            Event::AcceptPaused(_) => self.accept_pauses.increment(),
            Event::SessionPanicked(_) => self.sessions_panicked.increment(),
            Event::AuthFailed(_) => self.auths.count(AuthOutcome::Denied),
            Event::AuthPutOff(_) => self.auths.count(AuthOutcome::PutOff),
            Event::MessageStored(event) => self.observe_message_stored(event),
            Event::MessageRepeated(_) => self.messages_repeated.increment(),
            Event::MessageRefused(event) => self.messages_refused.count(event.class()),
            Event::DeliveryFault(_) => self.delivery_faults.increment(),
            Event::SpoolFault(_) => self.spool_faults.increment(),
            Event::SpoolFull(_) => self.spool_full.increment(),
            Event::MessageDelivered(event) => self.settle(Settlement::Delivered, &event.concerned),
            Event::MessageDeferred(event) => self.settle(Settlement::Deferred, &event.concerned),
            Event::MessageFailed(event) => self.settle(Settlement::Failed, &event.concerned),
            Event::MessageExpired(event) => self.settle(Settlement::Expired, &event.concerned),
            Event::ReportQueued(_) => self.reports.increment(),
            Event::DestinationDown(_) => self.destination_changes.count(Reachability::Down),
            Event::DestinationUp(_) => self.destination_changes.count(Reachability::Up),
            _ => {}
        }
    }

    fn settle(&self, settlement: Settlement, concerned: &Concerned) {
        self.queue_recipients.add(settlement, concerned.recipients.into());
    }

    fn observe_connection_ended(&self, event: &ConnectionEnded) {
        self.connections_ended.count(event.outcome.kind());
        self.connection_seconds.observe(event.duration);
        self.received_bytes.add(event.bytes_in);
        self.sent_bytes.add(event.bytes_out);
        self.flights_in.add(event.flights_in.into());
        self.flights_out.add(event.flights_out.into());
        if let Outcome::TlsFailed(_) = event.outcome {
            self.tls_failures.increment();
        }
    }

    fn observe_message_stored(&self, event: &MessageStored) {
        self.messages_stored.increment();
        self.recipients.add(event.recipients.into());
        self.message_bytes.add(event.bytes);
        self.commit_seconds.observe(event.commit);
    }
}

/// Keeps one connection counted as open; dropped even when the code that serves the connection breaks.
#[derive(Debug)]
pub struct OpenConnection(Arc<ShardMetrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections_open.lower();
    }
}

/// The figures of the messages that are taken once (`XONCE`): one set for the process, as the tokens are.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct OnceMetrics {
    /// Tokens of stored messages that are known now.
    pub tokens: Gauge,
    /// Tokens forgotten before their time (counted by `observe`).
    pub forgotten: Count,
    /// Times that a shard found another one at the same part of the table.
    pub contended: Count,
    /// Messages that waited until it was known what became of the first one under the same token.
    pub waited: Count,
}

/// What is counted once for the whole process.
#[derive(Debug, Default)]
struct ServiceMetrics {
    certificate_reloads: Counts<ReloadResult>,
    users_reloads: Counts<ReloadResult>,
    log_lines_dropped: Count,
    spool_damaged: Count,
}

/// All that is counted, as the registry reads it.
#[derive(Debug)]
struct Counted {
    shards: Vec<Arc<ShardMetrics>>,
    destinations: Vec<String>,
    service: ServiceMetrics,
    once: Arc<OnceMetrics>,
}

/// Names the buckets for what takes from some microseconds to some seconds.
pub const SHORT: usize = 0;

/// Names the buckets for what takes from some milliseconds to an hour.
pub const LONG: usize = 1;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, time::Duration};

    use super::{Metrics, ShardMetrics};
    use crate::observe::{
        event::{Event, LogLinesDropped, Outcome, examples},
        label::{AuthOutcome, Handshake, Hello, Label, OutcomeKind},
    };

    fn metrics() -> (Metrics, Arc<ShardMetrics>) {
        let metrics = Metrics::new("0.1.0", 2);
        let shard = metrics.shard(1).unwrap();
        (metrics, shard)
    }

    /// The value of the sample whose name and labels are `sample`.
    fn value(text: &str, sample: &str) -> f64 {
        let find = |line: &str| line.strip_prefix(sample)?.strip_prefix(' ').map(str::to_owned);
        text.lines().find_map(find).unwrap_or_else(|| panic!("{sample} is missing in\n{text}")).parse().unwrap()
    }

    fn metric_types(text: &str) -> Vec<(&str, &str)> {
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|line| line.split_once(' ')).collect()
    }

    #[test]
    fn every_metric_is_on_its_page_in_the_manual_and_the_page_has_no_other() {
        let page = include_str!("../manual/metrics.md");
        let rendered = metrics().0.render();
        let mut names = BTreeSet::new();
        for (name, kind) in metric_types(&rendered) {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            names.insert(format!("{name}{suffix}"));
        }
        let row = |line: &'static str| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned());
        let documented: BTreeSet<_> = page.lines().filter_map(row).collect();
        assert_eq!(names, documented);
    }

    #[test]
    fn the_text_is_well_formed_open_metrics() {
        let (metrics, shard) = metrics();
        shard.commit_seconds.observe(Duration::from_micros(80));
        let text = metrics.render();
        assert!(text.ends_with("\n# EOF\n"));
        let types = metric_types(&text);
        let unique: BTreeSet<_> = types.iter().map(|(name, _)| name).collect();
        assert_eq!(unique.len(), types.len(), "a metric is described twice");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(sample.starts_with("onetrip_"), "{line}");
            value.parse::<f64>().unwrap();
            let name = sample.split('{').next().unwrap();
            assert!(types.iter().any(|(described, _)| name.starts_with(described)), "{line}");
        }
    }

    #[test]
    fn a_stored_message_counts_as_one_with_its_recipients_bytes_and_commit() {
        let (metrics, shard) = metrics();
        shard.observe(&examples::message_stored().into());
        let text = metrics.render();
        assert_eq!(value(&text, "onetrip_messages_stored_total{shard=\"1\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_messages_stored_total{shard=\"0\"}"), 0.0);
        assert_eq!(value(&text, "onetrip_recipients_total{shard=\"1\"}"), 3.0);
        assert_eq!(value(&text, "onetrip_message_bytes_total{shard=\"1\"}"), 4_096.0);
        assert_eq!(value(&text, "onetrip_commit_seconds_count{shard=\"1\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_commit_seconds_sum{shard=\"1\"}"), 0.000_08);
    }

    #[test]
    fn a_connection_counts_by_its_outcome() {
        let (metrics, shard) = metrics();
        shard.observe(&examples::connection_ended(Outcome::Quit).into());
        shard.observe(&examples::connection_ended(Outcome::TlsFailed("no shared cipher".into())).into());
        let text = metrics.render();
        assert_eq!(value(&text, "onetrip_connections_ended_total{shard=\"1\",outcome=\"quit\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_tls_failures_total{shard=\"1\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_received_bytes_total{shard=\"1\"}"), 10_000.0);
        assert_eq!(value(&text, "onetrip_sent_bytes_total{shard=\"1\"}"), 1_400.0);
        assert_eq!(value(&text, "onetrip_flights_in_total{shard=\"1\"}"), 6.0);
        assert_eq!(value(&text, "onetrip_connection_seconds_count{shard=\"1\"}"), 2.0);
        assert_eq!(shard.connections_ended.value(OutcomeKind::Quit), 1);
    }

    #[test]
    fn refusals_count_by_class_and_failures_by_result() {
        let (metrics, shard) = metrics();
        shard.observe(&examples::message_refused(452).into());
        shard.observe(&examples::message_refused(552).into());
        shard.observe(&examples::auth_failed("ann").into());
        shard.observe(&examples::auth_put_off().into());
        let text = metrics.render();
        assert_eq!(value(&text, "onetrip_messages_refused_total{shard=\"1\",class=\"4xx\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_messages_refused_total{shard=\"1\",class=\"5xx\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_auths_total{shard=\"1\",result=\"denied\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_auths_total{shard=\"1\",result=\"put_off\"}"), 1.0);
    }

    #[test]
    fn every_event_raises_a_figure_of_the_shard_or_of_the_service_but_not_of_both() {
        let uncounted = [
            "spool_opened",
            "listening",
            "shard_late",
            "ready",
            "warning",
            "taking_over",
            "took_over",
            "handed_over",
            "shard_failed",
            "draining",
            "stopped",
        ];
        for event in examples::one_of_each() {
            let (metrics, shard) = metrics();
            let zero = metrics.render();
            metrics.observe(&event);
            let by_service = metrics.render() != zero;
            let before = metrics.render();
            shard.observe(&event);
            let by_shard = metrics.render() != before;
            let counted = usize::from(by_service) + usize::from(by_shard);
            assert_eq!(counted, usize::from(!uncounted.contains(&event.name())), "{}", event.name());
        }
    }

    #[test]
    fn what_is_counted_on_the_way_shows_with_its_labels() {
        let (metrics, shard) = metrics();
        shard.hellos.count(Hello::QhloFull);
        shard.auths.count(AuthOutcome::Remembered);
        shard.tls_handshakes.count(Handshake::ALL[1]);
        let text = metrics.render();
        assert_eq!(value(&text, "onetrip_hellos_total{shard=\"1\",kind=\"qhlo_full\"}"), 1.0);
        assert_eq!(value(&text, "onetrip_auths_total{shard=\"1\",result=\"remembered\"}"), 1.0);
        let handshake = "onetrip_tls_handshakes_total{shard=\"1\",version=\"TLSv1.2\",session=\"resumed\"}";
        assert_eq!(value(&text, handshake), 1.0);
    }

    #[test]
    fn a_connection_is_open_until_its_guard_is_dropped() {
        let (metrics, shard) = metrics();
        let guard = shard.open_connection();
        assert_eq!(value(&metrics.render(), "onetrip_connections_open{shard=\"1\"}"), 1.0);
        drop(guard);
        assert_eq!(value(&metrics.render(), "onetrip_connections_open{shard=\"1\"}"), 0.0);
        assert_eq!(value(&metrics.render(), "onetrip_connections_accepted_total{shard=\"1\"}"), 1.0);
    }

    #[test]
    fn dropped_lines_and_the_version_are_told_without_a_shard() {
        let (metrics, _) = metrics();
        metrics.observe(&Event::from(LogLinesDropped { lines: 7 }));
        let text = metrics.render();
        assert_eq!(value(&text, "onetrip_log_lines_dropped_total"), 7.0);
        assert_eq!(value(&text, "onetrip_build_info{version=\"0.1.0\"}"), 1.0);
    }

    #[test]
    fn there_is_no_shard_beyond_the_last() {
        assert!(metrics().0.shard(2).is_none());
    }
}
