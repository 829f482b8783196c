//! The configuration file of any text.
//!
//! Promise: it is a configuration that keeps to its bounds, or a message of one line.

use std::path::Path;

use onetrip::config::{Config, ConfigFile, Flags, Host};
use onetrip::limits::SHARDS_MAX;

/// See the [module](self).
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let file = ConfigFile { path: Path::new("onetrip.toml"), text };
    let host = Host { name: "mail.example".to_owned(), cores: vec![0, 1, 2, 3] };
    match Config::resolve(&Flags::default(), Some(file), &host) {
        Ok(config) => {
            assert!((1..=SHARDS_MAX).contains(&config.shards));
            assert!((0..config.shards).all(|shard| config.core_of_shard(shard).is_none_or(|core| core < 4)));
            assert!(Config::users_file(&Flags::default(), Some(file)).is_ok());
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}
