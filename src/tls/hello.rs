//! The one thing about a ClientHello that the TLS library knows and does not tell: whether it offers early data.
//!
//! It is read for counting alone. Must not be relied on for anything else: the library judges the hello, not this.

/// Does the ClientHello at the start of these records offer early data (RFC 8446 §4.1.2, §4.2.10)? `false` if there is no
/// whole ClientHello.
pub(super) fn offers_early_data(records: &[u8]) -> bool {
    offer(handshake_bytes(records)).is_some()
}

/// `Some` if the extension is found.
fn offer(bytes: impl Iterator<Item = u8>) -> Option<()> {
    let mut hello = Reader(bytes);
    if hello.byte()? != CLIENT_HELLO {
        return None;
    }
    hello.skip(LENGTH_BYTES + VERSION_BYTES + RANDOM_BYTES)?;
    let session_id = hello.byte()?;
    hello.skip(session_id.into())?;
    let cipher_suites = hello.pair()?;
    hello.skip(cipher_suites.into())?;
    let compression_methods = hello.byte()?;
    hello.skip(compression_methods.into())?;
    let mut left = hello.pair()?;
    while left > 0 {
        let (kind, length) = (hello.pair()?, hello.pair()?);
        if kind == EARLY_DATA {
            return Some(());
        }
        hello.skip(length.into())?;
        left = left.checked_sub(length.checked_add(EXTENSION_HEADER_BYTES)?)?;
    }
    None
}

/// The content of the handshake records at the start, one behind the other: a message may be spread over several.
fn handshake_bytes(mut records: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let ([HANDSHAKE, _, _, high, low], rest) = records.split_first_chunk()? else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (content, rest) = rest.split_at_checked(length)?;
        records = rest;
        Some(content)
    })
    .flatten()
    .copied()
}

struct Reader<Bytes>(Bytes);

impl<Bytes: Iterator<Item = u8>> Reader<Bytes> {
    fn byte(&mut self) -> Option<u8> {
        self.0.next()
    }

    fn pair(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        if bytes > 0 { self.0.nth(bytes - 1).map(|_| ()) } else { Some(()) }
    }
}

/// Content type of a record with handshake messages (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Type of the message (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;

/// Type of the extension (RFC 8446 §4.2).
const EARLY_DATA: u16 = 42;

const LENGTH_BYTES: usize = 3;
const VERSION_BYTES: usize = 2;
const RANDOM_BYTES: usize = 32;

/// Type and length of an extension.
const EXTENSION_HEADER_BYTES: u16 = 4;

#[cfg(test)]
mod tests {
    use super::offers_early_data;

    /// A ClientHello with these extensions, in records of at most so many bytes.
    fn hello(extensions: &[(u16, &[u8])], record_bytes: usize) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, content) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            list.extend_from_slice(content);
        }
        let mut body = [&[3, 3][..], &[42; 32], &[4, 42, 42, 42, 42], &[0, 4, 0, 42, 0, 42], &[1, 0]].concat();
        body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend(list);
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1, 0, length[0], length[1]][..], &body].concat();
        let mut records = Vec::new();
        for piece in message.chunks(record_bytes) {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            records.extend([&[22, 3, 1, length[0], length[1]][..], piece].concat());
        }
        records
    }

    #[test]
    fn the_offer_is_found_wherever_it_stands_and_however_the_message_is_cut_into_records() {
        let offers: [&[(u16, &[u8])]; 3] =
            [&[(42, b"")], &[(0, b"name"), (42, b""), (41, b"psk")], &[(43, &[0; 300]), (42, b"")]];
        for extensions in offers {
            for record_bytes in [1, 2, 7, 16_384] {
                let mut records = hello(extensions, record_bytes);
                assert!(offers_early_data(&records), "{extensions:?} in pieces of {record_bytes}");
                records.extend_from_slice(b"\x14\x03\x03\x00\x01\x01 and what is behind it");
                assert!(offers_early_data(&records));
            }
        }
    }

    #[test]
    fn a_hello_without_an_offer_and_bytes_that_are_no_hello_offer_nothing() {
        let others: [&[(u16, &[u8])]; 3] = [&[], &[(0, b"name"), (51, &[0, 42, 0, 42])], &[(10_794, &[0; 42])]];
        for extensions in others {
            assert!(!offers_early_data(&hello(extensions, 16_384)), "{extensions:?}");
        }
        let whole = hello(&[(0, b"name"), (42, b"")], 16_384);
        for length in 0..whole.len() {
            assert!(!offers_early_data(&whole[..length]), "the record is not complete at {length}");
        }
        assert!(!offers_early_data(b"QUIT\r\n"));
        assert!(!offers_early_data(&[22, 3, 1, 0, 2, 2, 0]));
    }
}
