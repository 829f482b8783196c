//! One program for all targets: `FUZZ_TARGET` names the one that is tried. Linking one for each would take longer than
//! trying them.

#![no_main]

use std::sync::LazyLock;

use onetrip_fuzz::{Check, target};

static TARGET: LazyLock<Check> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name:?} names no target; fuzz/src/lib.rs has the list"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
