//! What a session may cost, what it costs, and what it cannot cost less than: each beside the others in one run.
//!
//! Method and results: `benches/README.md`. What it must not do: measure one row after the other and be done; floors and
//! servers take turns, round after round, so that whatever else the machine does meets all of them, and medians count.

#![allow(clippy::print_stdout, reason = "results are for whoever runs this")]

mod exchange;
mod records;
mod server;
mod sockets;

use std::path::{Path, PathBuf};

use exchange::{BDAT, DATA, EARLY, ESMTP, Exchange, QUICKSTART, Turn};
use records::Ends;
use server::{Run, Server};
use sockets::Crowd;

fn main() {
    // Cargo passes --bench, and test runners ask for what there is.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let rounds = variable("ROUNDS", 5);
    let root = std::env::var_os("ONETRIP_BENCH_DIR").map_or_else(|| PathBuf::from("target/budgets"), PathBuf::from);
    let programs = programs();
    let ends = Ends::new();
    let mut figures: Vec<Figures> = ROWS.iter().map(|_| Figures::new(programs.len())).collect();
    for round in 0..rounds {
        println!("round {}", round + 1);
        let servers: Vec<_> = programs
            .iter()
            .enumerate()
            .map(|(number, program)| Server::start(program, &root.join(format!("server-{number}"))))
            .collect();
        for (row, figures) in ROWS.iter().zip(&mut figures) {
            figures.take_turn(row, &ends, &servers);
        }
    }
    println!("\nmedians of {rounds} rounds, µs of the server's processor time");
    println!("{:<44}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}", "row", "budget", "records", "sockets", "floor", "server", "ratio");
    for (row, figures) in ROWS.iter().zip(&mut figures) {
        figures.show(row);
    }
}

/// The servers to measure: this one, and those that `AGAINST` names, for A B A B.
fn programs() -> Vec<PathBuf> {
    let others = std::env::var("AGAINST").unwrap_or_default();
    let others = others.split(':').filter(|path| !path.is_empty()).map(PathBuf::from);
    [Path::new(env!("CARGO_BIN_EXE_onetrip")).to_owned()].into_iter().chain(others).collect()
}

fn variable(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A row of the table.
struct Row {
    name: &'static str,
    budget_us: f64,
    exchange: Exchange,
    run: Run,
    /// If the row is about one more message: what it adds.
    more: Option<&'static [Turn]>,
}

const ROWS: [Row; 5] = [
    Row {
        name: "plain ESMTP, full handshake, 1 message",
        budget_us: 160.0,
        exchange: ESMTP,
        run: Run { scenario: "esmtp", clients: 64, sessions: 6_000, messages: 1 },
        more: None,
    },
    Row {
        name: "full QUICKSTART, resumed, 1 message",
        budget_us: 110.0,
        exchange: QUICKSTART,
        run: Run { scenario: "full-resumed", clients: 64, sessions: 6_000, messages: 1 },
        more: None,
    },
    Row {
        name: "early data, 1 message",
        budget_us: 95.0,
        exchange: EARLY,
        run: Run { scenario: "early-data", clients: 64, sessions: 6_000, messages: 1 },
        more: None,
    },
    Row {
        name: "one more message, MAIL to the end in a flight",
        budget_us: 18.0,
        exchange: QUICKSTART,
        run: Run { scenario: "full-resumed", clients: 16, sessions: 160, messages: MESSAGES },
        more: Some(BDAT),
    },
    Row {
        name: "one more message, with DATA",
        budget_us: 18.0,
        exchange: ESMTP,
        run: Run { scenario: "esmtp", clients: 16, sessions: 160, messages: MESSAGES },
        more: Some(DATA),
    },
];

/// What was measured for a row.
struct Figures {
    records: Vec<f64>,
    sockets: Vec<f64>,
    servers: Vec<Vec<f64>>,
}

impl Figures {
    fn new(servers: usize) -> Self {
        Self { records: Vec::new(), sockets: Vec::new(), servers: vec![Vec::new(); servers] }
    }

    fn take_turn(&mut self, row: &Row, ends: &Ends, servers: &[Server]) {
        let (run, added) = (row.run, MESSAGES - 1);
        let crowd = Crowd { clients: run.clients, sessions: run.sessions };
        // The first has no session to resume yet.
        ends.play(&row.exchange, &[], 0);
        let flights = |more, times| ends.play(&row.exchange, more, times).1;
        match row.more {
            None => {
                self.records.push(on_core_0(|| ends.median_us(&row.exchange)));
                self.sockets.push(sockets::session_us(&flights(&[], 0), crowd));
                for (server, figures) in servers.iter().zip(&mut self.servers) {
                    figures.push(server.us_per_session(run));
                }
            }
            Some(more) => {
                let one = Crowd { sessions: run.sessions * 10, ..crowd };
                self.records.push(on_core_0(|| ends.more_us(&row.exchange, more)));
                let (many, few) = (flights(more, added), flights(&[], 0));
                let many = sockets::session_us(&many, crowd);
                self.sockets.push((many - sockets::session_us(&few, one)) / added as f64);
                for (server, figures) in servers.iter().zip(&mut self.servers) {
                    let many = server.us_per_session(run);
                    let few = server.us_per_session(Run { messages: 1, sessions: run.sessions * 10, ..run });
                    figures.push((many - few) / added as f64);
                }
            }
        }
        let last = |figures: &[f64]| figures.last().copied().unwrap_or_default();
        let servers: Vec<_> = self.servers.iter().map(|figures| format!("{:.1}", last(figures))).collect();
        let (records, sockets) = (last(&self.records), last(&self.sockets));
        println!("  {:<44} records {records:.1}, sockets {sockets:.1}, server {}", row.name, servers.join(" "));
    }

    fn show(&mut self, row: &Row) {
        let (records, sockets) = (median(&mut self.records), median(&mut self.sockets));
        let floor = records + sockets;
        print!("{:<46}{:>6.0}{records:>9.1}{sockets:>9.1}{floor:>9.1}", row.name, row.budget_us);
        for figures in &mut self.servers {
            let server = median(figures);
            print!("{server:>9.1}{:>9.2}", server / floor);
        }
        println!();
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Runs it on the core of the server.
fn on_core_0(work: impl FnOnce() -> f64 + Send) -> f64 {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
            work()
        });
        thread.join().expect("it ends well")
    })
}

/// Messages of a session with more than one.
const MESSAGES: usize = 101;
