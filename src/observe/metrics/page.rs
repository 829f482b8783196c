//! The page of all figures: their names, what they say, and their labels.
//!
//! It reads the cells and changes nothing. The library adds the prefix `onetrip_`, units and the suffix `_total`.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{Count, Counted, Counts, DestinationMetrics, Gauge, Histogram, OnceMetrics, ServiceMetrics, ShardMetrics};
use crate::observe::label::Label;

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = ShardPage { encoder: &mut encoder, counted: self };
        page.encode_connections()?;
        page.encode_tls()?;
        page.encode_commands()?;
        page.encode_messages()?;
        page.encode_spool()?;
        page.encode_queue()?;
        page.encode_destinations()?;
        encode_once(&mut encoder, &self.once)?;
        encode_service(&mut encoder, &self.service)
    }
}

fn encode_once(encoder: &mut DescriptorEncoder<'_>, once: &OnceMetrics) -> fmt::Result {
    let help = "Tokens of stored messages that are known";
    let mut metric = encoder.encode_descriptor("once_tokens", help, None, MetricType::Gauge)?;
    metric.encode_gauge(&once.tokens.value())?;
    let counts = [
        ("once_tokens_forgotten", "Tokens forgotten before their time", &once.forgotten),
        ("once_contended", "Times that two shards met at one part of the table of tokens", &once.contended),
        ("once_waited", "Messages that waited for the first one under their token", &once.waited),
    ];
    for (name, help, count) in counts {
        encode_value(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, count.value())?;
    }
    Ok(())
}

fn encode_service(encoder: &mut DescriptorEncoder<'_>, service: &ServiceMetrics) -> fmt::Result {
    let reloads = [
        ("certificate_reloads", "Reloads of certificates by result", &service.certificate_reloads),
        ("users_reloads", "Reloads of the users file by result", &service.users_reloads),
    ];
    for (name, help, counts) in reloads {
        encode_each(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, &[], counts)?;
    }
    let help = "Log lines dropped because standard error was too slow";
    let mut metric = encoder.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?;
    encode_value(&mut metric, service.log_lines_dropped.value())?;
    let help = "Pieces of the spool found damaged at start";
    let mut metric = encoder.encode_descriptor("spool_damaged", help, None, MetricType::Counter)?;
    encode_value(&mut metric, service.spool_damaged.value())
}

/// Writes the figures that each shard has, shard by shard.
struct ShardPage<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
    counted: &'a Counted,
}

impl ShardPage<'_, '_> {
    fn encode_connections(&mut self) -> fmt::Result {
        self.gauge("connections_open", "Connections open now", |shard| &shard.connections_open)?;
        self.count("connections_accepted", "Connections accepted", |shard| &shard.connections_accepted)?;
        self.counts("connections_refused", "Connections closed at once, by bound", |shard| &shard.connections_refused)?;
        self.counts("connections_ended", "Connections ended, by outcome", |shard| &shard.connections_ended)?;
        self.histogram("connection", "From accept to close", |shard| &shard.connection_seconds)?;
        self.histogram("first_mail", "From accept to the first MAIL", |shard| &shard.first_mail_seconds)?;
        self.histogram("flight_wait", "How long what clients sent waited for the shard", |shard| {
            &shard.flight_wait_seconds
        })?;
        self.count("accept_pauses", "Times that accepting paused", |shard| &shard.accept_pauses)?;
        self.count("sessions_panicked", "Connections lost to a defect", |shard| &shard.sessions_panicked)?;
        self.bytes("received", "Bytes received on ended connections", |shard| &shard.received_bytes)?;
        self.bytes("sent", "Bytes sent on ended connections", |shard| &shard.sent_bytes)?;
        self.count("flights_in", "Receives with data on ended connections", |shard| &shard.flights_in)?;
        self.count("flights_out", "Sends on ended connections", |shard| &shard.flights_out)
    }

    fn encode_tls(&mut self) -> fmt::Result {
        self.counts("tls_handshakes", "TLS handshakes completed", |shard| &shard.tls_handshakes)?;
        self.histogram("tls_handshake", "From ClientHello to the handshake's end", |shard| {
            &shard.tls_handshake_seconds
        })?;
        self.count("tls_failures", "Connections ended because TLS failed", |shard| &shard.tls_failures)?;
        self.counts("early_data", "Connections inside TLS, by what became of their early data", |shard| {
            &shard.early_data
        })
    }

    fn encode_commands(&mut self) -> fmt::Result {
        self.counts("hellos", "Hello commands accepted, by kind", |shard| &shard.hellos)?;
        self.counts("qhlo_ids", "QHLO ids judged, by result", |shard| &shard.qhlo_ids)?;
        self.counts("shortcuts", "Round trips saved before MAIL, by kind", |shard| &shard.shortcuts)?;
        self.counts("auths", "AUTH commands, by result", |shard| &shard.auths)?;
        self.histogram("auth", "From the whole credential to the verdict", |shard| &shard.auth_seconds)
    }

    fn encode_messages(&mut self) -> fmt::Result {
        self.count("messages_stored", "Messages stored durably", |shard| &shard.messages_stored)?;
        self.count("messages_repeated", "Messages acknowledged again and not stored again", |shard| {
            &shard.messages_repeated
        })?;
        self.counts("early_messages", "Messages that came as early data, by when they were stored", |shard| {
            &shard.early_messages
        })?;
        self.counts("messages_refused", "Messages refused, by class of reply", |shard| &shard.messages_refused)?;
        self.count("recipients", "Recipients of stored messages", |shard| &shard.recipients)?;
        self.bytes("message", "Bytes of stored messages", |shard| &shard.message_bytes)?;
        self.histogram("commit", "From the end of a message to its being durable", |shard| &shard.commit_seconds)?;
        self.count("delivery_faults", "Deliveries failed for a fault of ours", |shard| &shard.delivery_faults)
    }

    fn encode_spool(&mut self) -> fmt::Result {
        self.gauge("spool_messages", "Messages in the spool", |shard| &shard.spool_messages)?;
        self.gauge("spool_segments", "Segments of the spool in use", |shard| &shard.spool_segments)?;
        self.gauge("spool_spares", "Segments of the spool ready to be used", |shard| &shard.spool_spares)?;
        self.count("spool_segments_made", "Segments made, of zeroes or of old ones", |shard| {
            &shard.spool_segments_made
        })?;
        self.count("spool_batches", "Batches written and synced", |shard| &shard.spool_batches)?;
        self.count("spool_batch_messages", "Messages in written batches", |shard| &shard.spool_batch_messages)?;
        self.bytes("spool_written", "Bytes written to the spool", |shard| &shard.spool_bytes)?;
        self.count("spool_faults", "Writes to the spool that the system refused", |shard| &shard.spool_faults)?;
        self.count("spool_full", "Minutes in which the spool's disk had no room", |shard| &shard.spool_full)
    }

    fn encode_queue(&mut self) -> fmt::Result {
        self.gauge("queue_messages", "Messages in the queue", |shard| &shard.queue_messages)?;
        self.gauge("queue_oldest_seconds", "Age of the oldest message in the queue", |shard| {
            &shard.queue_oldest_seconds
        })?;
        self.counts("queue_recipients", "Recipients, by what became of them", |shard| &shard.queue_recipients)?;
        self.count("reports", "Reports to senders", |shard| &shard.reports)?;
        self.counts("destination_changes", "Destinations that went away or came back", |shard| {
            &shard.destination_changes
        })
    }

    /// The figures that each destination has on each shard.
    fn encode_destinations(&mut self) -> fmt::Result {
        let gauges: [(&str, &str, DestinationGauge); 2] = [
            ("destination_messages", "Messages that have still to go there", |destination| &destination.messages),
            ("destination_down", "1 if the destination cannot be reached", |destination| &destination.is_down),
        ];
        for (name, help, cell) in gauges {
            let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, destination) in self.counted.destinations() {
                metric.encode_family(&labels)?.encode_gauge(&cell(destination).value())?;
            }
        }
        let help = "Attempts to deliver, by result";
        let mut metric = self.encoder.encode_descriptor("attempts", help, None, MetricType::Counter)?;
        for ([(shard, number), (key, name)], destination) in self.counted.destinations() {
            encode_each(&mut metric, &[(shard, &number), (key, &name)], &destination.attempts)?;
        }
        Ok(())
    }

    fn count(&mut self, name: &str, help: &str, cell: fn(&ShardMetrics) -> &Count) -> fmt::Result {
        let metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        self.counted.encode_counts(metric, cell)
    }

    fn bytes(&mut self, name: &str, help: &str, cell: fn(&ShardMetrics) -> &Count) -> fmt::Result {
        let metric = self.encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?;
        self.counted.encode_counts(metric, cell)
    }

    fn gauge(&mut self, name: &str, help: &str, cell: fn(&ShardMetrics) -> &Gauge) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (label, shard) in self.counted.labelled() {
            metric.encode_family(&[label])?.encode_gauge(&cell(shard).value())?;
        }
        Ok(())
    }

    fn counts<L: Label>(&mut self, name: &str, help: &str, cells: fn(&ShardMetrics) -> &Counts<L>) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((key, shard_name), shard) in self.counted.labelled() {
            encode_each(&mut metric, &[(key, &shard_name)], cells(shard))?;
        }
        Ok(())
    }

    fn histogram<const RANGE: usize>(
        &mut self,
        name: &str,
        help: &str,
        cell: fn(&ShardMetrics) -> &Histogram<RANGE>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (label, shard) in self.counted.labelled() {
            let snapshot = cell(shard).snapshot();
            metric.encode_family(&[label])?.encode_histogram::<NoLabelSet>(
                snapshot.sum_seconds,
                snapshot.count,
                &snapshot.buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Finds one figure of a destination.
type DestinationGauge = fn(&DestinationMetrics) -> &Gauge;

impl Counted {
    /// Each shard with the label that names it.
    fn labelled(&self) -> impl Iterator<Item = ((&'static str, String), &ShardMetrics)> {
        self.shards.iter().enumerate().map(|(number, shard)| (("shard", number.to_string()), shard.as_ref()))
    }

    /// Each destination of each shard with the labels that name it.
    fn destinations(&self) -> impl Iterator<Item = ([(&'static str, String); 2], &DestinationMetrics)> {
        self.labelled().flat_map(|(label, shard)| {
            let named = self.destinations.iter().zip(&shard.destinations);
            named.map(move |(name, cells)| ([label.clone(), ("destination", name.clone())], cells))
        })
    }

    fn encode_counts(&self, mut metric: MetricEncoder<'_>, cell: fn(&ShardMetrics) -> &Count) -> fmt::Result {
        for (label, shard) in self.labelled() {
            encode_value(&mut metric.encode_family(&[label])?, cell(shard).value())?;
        }
        Ok(())
    }
}

/// Writes one sample for each member of the set, with `labels` before its own.
fn encode_each<L: Label>(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str)], counts: &Counts<L>) -> fmt::Result {
    for label in L::ALL {
        let all: Vec<(&str, &str)> = labels.iter().copied().chain(label.pairs()).collect();
        encode_value(&mut metric.encode_family(&all)?, counts.value(*label))?;
    }
    Ok(())
}

fn encode_value(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}
