//! The text in which a client remembers servers, of any bytes.
//!
//! Promise: what is read is written so that it reads the same, and bounds hold.

use onetrip::limits::REMEMBERED_SERVERS_MAX;
use onetrip::proto::client::Memory;

/// See the [module](self).
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Memory::from_text(text) {
        Ok(memory) => {
            let written = memory.to_text();
            assert_eq!(Memory::from_text(&written).as_ref(), Ok(&memory));
            assert!(written.matches("\nserver ").count() <= REMEMBERED_SERVERS_MAX);
        }
        Err(error) => assert!(error.line >= 1 && !error.to_string().contains('\n')),
    }
}
