//! The server as a process: what all its shards share, and how a crash ends it. How it starts is in `start.rs`, and how it
//! stops in good order in `ending.rs`.

use std::sync::Arc;
use std::time::Duration;

use onetrip::observe::metrics::OnceMetrics;
use onetrip::runtime::once::{OnceRegistry, ShardOnce};
use onetrip::spool::once::OnceBounds;
use onetrip::tls::config::ServerConfigs;

use crate::ending::Stopping;
use crate::net::{End, LinkName};
use crate::storage::Shard;
use crate::world::{Event, World};

/// The server while it lives.
pub struct Process {
    pub registry: Arc<ShardOnce>,
    /// Its TLS, with the sessions of this life.
    pub configs: Arc<ServerConfigs>,
    pub shards: Vec<Shard>,
    /// It was told to stop.
    pub stopping: Option<Stopping>,
}

impl Process {
    /// A registry that knows no token yet.
    pub fn registry(retention: Duration) -> OnceRegistry {
        let bounds = OnceBounds { retention, tokens_max: 1_000 };
        OnceRegistry::new(bounds, Arc::new(OnceMetrics::default())).expect("random bytes")
    }

    /// A process with these shards, and what its registry has found.
    pub fn new(world: &World, shards: Vec<Shard>, registry: OnceRegistry) -> Self {
        let configs = world.site.restarted().configs;
        Self { registry: Arc::new(ShardOnce::new(&Arc::new(registry))), configs, shards, stopping: None }
    }
}

impl World {
    /// The machine stops. What it was doing is half done, and whoever was connected hears of it, or does not.
    pub fn crash(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.life += 1;
        self.seen.crashes += 1;
        self.lose_everybody();
        for (number, shard) in process.shards.into_iter().enumerate() {
            self.tear(number, shard);
        }
        self.restart_after(50_000, 15_000_000);
    }

    /// Whoever is connected, or waits to be, has nobody at the other end any more.
    pub fn lose_everybody(&mut self) {
        self.stopped_well = false;
        self.doors_are_kept = false;
        let is_told = self.chance.one_in(2);
        let inside = std::mem::take(&mut self.conversations).into_keys();
        let names: Vec<LinkName> = inside.chain(std::mem::take(&mut self.outside)).collect();
        for name in names {
            let link = self.links.get_mut(&name).expect("a link that was made");
            link.kill();
            let at_us = self.now_us + link.delay_us;
            if is_told {
                self.events.push(at_us, Event::Lost { link: name, to: End::Client });
            }
        }
    }

    /// The next process begins after a pause between these microseconds.
    pub fn restart_after(&mut self, shortest_us: u64, longest_us: u64) {
        let pause_us = self.chance.between(shortest_us, longest_us);
        self.events.push(self.now_us + pause_us, Event::Restart);
    }
}
