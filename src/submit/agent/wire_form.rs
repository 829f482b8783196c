//! A request as bytes, for the way to the agent on the same machine.
//!
//! Both ends are of the same version, so fields stand one after the other without names. Damaged bytes are no request.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::proto::client::{Notify, Return};
use crate::proto::secret::Secret;
use crate::submit::Server;
use crate::submit::request::{Request, TrustWish};

/// The request as bytes.
pub(super) fn encode(request: &Request) -> Zeroizing<Vec<u8>> {
    let mut out = Writer(Zeroizing::new(Vec::with_capacity(bytes_at_most(request))));
    out.bytes(request.server.host.as_bytes());
    out.number(u64::from(request.server.port));
    out.number(u64::from(request.implicit_tls));
    match &request.trust {
        TrustWish::Anyone => out.number(0),
        TrustWish::System => out.number(1),
        TrustWish::Roots(roots) => {
            out.number(2);
            out.list(roots.iter().map(Vec::as_slice));
        }
    }
    out.bytes(request.profile.as_bytes());
    out.list(request.login.iter().flat_map(|(user, password)| [user.as_bytes(), password.expose().as_slice()]));
    out.bytes(request.hello_name.as_bytes());
    out.list(request.memory.iter().map(|path| path.as_os_str().as_bytes()));
    out.number(u64::from(request.verbose));
    out.number(u64::from(request.terminal));
    out.number(request.linger_s);
    out.bytes(request.sender.as_bytes());
    out.list(request.recipients.iter().map(String::as_bytes));
    out.number(request.notify.map_or(0, |notify| {
        8 | u64::from(notify.success) | u64::from(notify.failure) << 1 | u64::from(notify.delay) << 2
    }));
    out.number(match request.return_content {
        None => 0,
        Some(Return::Full) => 1,
        Some(Return::Headers) => 2,
    });
    out.list(request.envelope_id.iter().map(String::as_bytes));
    out.bytes(request.token.as_bytes());
    out.bytes(&request.content);
    out.0
}

/// More than all of it takes: a buffer that grows would leave copies of the password behind.
fn bytes_at_most(request: &Request) -> usize {
    const FIELD: usize = 8;
    let list = |parts: &mut dyn Iterator<Item = usize>| parts.map(|bytes| bytes + FIELD).sum::<usize>();
    let roots = match &request.trust {
        TrustWish::Roots(roots) => list(&mut roots.iter().map(Vec::len)),
        TrustWish::Anyone | TrustWish::System => 0,
    };
    let login = request.login.as_ref().map_or(0, |(user, password)| user.len() + password.expose().len());
    let recipients = list(&mut request.recipients.iter().map(String::len));
    let texts = request.server.host.len()
        + request.profile.len()
        + request.hello_name.len()
        + request.memory.as_ref().map_or(0, |path| path.as_os_str().len())
        + request.sender.len()
        + request.envelope_id.as_ref().map_or(0, String::len)
        + request.token.len()
        + request.content.len();
    roots + login + recipients + texts + 64 * FIELD
}

/// The request in these bytes.
pub(super) fn decode(bytes: &[u8]) -> Option<Request> {
    let mut from = Reader(bytes);
    let request = Request {
        server: Server { host: from.text()?, port: u16::try_from(from.number()?).ok()? },
        implicit_tls: from.truth()?,
        trust: match from.number()? {
            0 => TrustWish::Anyone,
            1 => TrustWish::System,
            2 => TrustWish::Roots(from.list()?.into_iter().map(<[u8]>::to_vec).collect()),
            _ => return None,
        },
        profile: from.text()?,
        login: match from.list()?.as_slice() {
            [] => None,
            [user, password] => Some((text(user)?, Secret::new(password.to_vec()))),
            _ => return None,
        },
        hello_name: from.text()?,
        memory: from.list()?.first().map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))),
        verbose: from.truth()?,
        terminal: from.truth()?,
        linger_s: from.number()?,
        sender: from.text()?,
        recipients: from.list()?.into_iter().map(text).collect::<Option<_>>()?,
        notify: match from.number()? {
            0 => None,
            bits @ 8..16 => Some(Notify { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 }),
            _ => return None,
        },
        return_content: match from.number()? {
            0 => None,
            1 => Some(Return::Full),
            2 => Some(Return::Headers),
            _ => return None,
        },
        envelope_id: from.list()?.first().map(|id| text(id)).map_or(Some(None), |id| id.map(Some))?,
        token: from.text()?,
        content: from.bytes()?.to_vec(),
    };
    from.0.is_empty().then_some(request)
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn list<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) {
        self.number(parts.clone().count() as u64);
        parts.for_each(|part| self.bytes(part));
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn truth(&mut self) -> Option<bool> {
        self.number().filter(|&number| number < 2).map(|number| number == 1)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        text(self.bytes()?)
    }

    /// Each part takes some of the bytes that are there, so their number is bounded by those.
    fn list(&mut self) -> Option<Vec<&'a [u8]>> {
        let count = self.number()?;
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(self.bytes()?);
        }
        Some(parts)
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}
