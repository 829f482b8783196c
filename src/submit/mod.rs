//! `onetrip submit`: a drop-in for sendmail that submits one message in as few round trips as the server allows.
//!
//! Reads the message, makes it fit to be sent, and drives [`crate::proto::client`] over a blocking socket. Takes no
//! protocol decision, and answers for the message with its exit code only.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ArgMatches;
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

pub use arguments::{command, is_sendmail};

use crate::exit::Exit;
use crate::limits::SUBMIT_MESSAGE_BYTES_MAX;
use crate::proto::client::{
    Address, Content, Failure, HelloName, Memory, Message, Outcome, Recipient, ServerMemory, Verdict, Xtext,
};
use arguments::{Settings, Wishes};
use delivery::Delivery;
use header::{Draft, Missing};
use request::Request;
use show::Show;

mod agent;
mod arguments;
mod delivery;
mod files;
mod header;
mod link;
mod request;
mod show;

/// Why a message was not submitted, and the exit code that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmitError {
    exit: Exit,
    message: String,
}

impl SubmitError {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SubmitError {}

/// Submits the message on standard input as the arguments of [`command`] say.
///
/// # Errors
///
/// If the server did not take the message for every recipient; the message has a line for each problem.
pub fn run(matches: &ArgMatches) -> Result<(), SubmitError> {
    if let Some(door) = matches.get_one::<PathBuf>("agent") {
        return agent::serve_first_from_standard_input(door);
    }
    let file = files::configuration(matches.get_one("config"))?;
    let settings = Settings::resolve(matches, file.as_deref())?;
    let wishes = Wishes::from_matches(matches)?;
    let input = read_message(&mut io::stdin().lock(), &wishes)?;
    let result = submit(&settings, &wishes, &input);
    let (Err(error), Some(path)) = (&result, &wishes.dead_letter) else { return result };
    let sender = settings.sender.as_deref().unwrap_or_default();
    let normalised = Content::normalised(&input);
    let kept = files::append_dead_letter(path, sender, &mailbox_date(unix_now()), normalised.as_bytes());
    let note = match kept {
        Ok(()) => format!("the message is in {}", path.display()),
        Err(problem) => format!("the message could not be kept in {}: {problem}", path.display()),
    };
    Err(SubmitError::new(error.exit, format!("{}\n{note}", error.message)))
}

/// As [`run`], for a program that was called by the name `sendmail`: reads the arguments too.
///
/// # Errors
///
/// As [`run`]; and what clap says about arguments that are none.
pub fn run_as_sendmail(arguments: impl IntoIterator<Item = OsString>) -> Result<Result<(), SubmitError>, clap::Error> {
    let matches = command("sendmail").try_get_matches_from(arguments)?;
    Ok(run(&matches))
}

// ── The message ─────────────────────────────────────────────────────────────────────────────────────────────────────

fn read_message(source: &mut impl Read, wishes: &Wishes) -> Result<Vec<u8>, SubmitError> {
    let mut input = Vec::new();
    source
        .take(SUBMIT_MESSAGE_BYTES_MAX + 1)
        .read_to_end(&mut input)
        .map_err(|error| SubmitError::new(Exit::Io, format!("standard input cannot be read: {error}")))?;
    if input.len() as u64 > SUBMIT_MESSAGE_BYTES_MAX {
        let message = format!("the message is larger than {SUBMIT_MESSAGE_BYTES_MAX} bytes, which no server takes");
        return Err(SubmitError::new(Exit::Data, message));
    }
    if !wishes.ignore_dots {
        input.truncate(end_at_dot(&input));
    }
    Ok(input)
}

/// Where the message ends: before the first line that is a single dot.
fn end_at_dot(input: &[u8]) -> usize {
    let mut start = 0;
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        if line.trim_ascii_end() == b"." && line.starts_with(b".") {
            return start;
        }
        start += line.len();
    }
    input.len()
}

/// Names and numbers that a message needs and this host knows.
struct Surroundings {
    host_name: String,
    user_name: String,
    random: String,
    now: Duration,
}

impl Surroundings {
    fn look() -> Result<Self, SubmitError> {
        let mut bytes = [0; 16];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| SubmitError::new(Exit::System, "the kernel gives no random numbers"))?;
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host_name = if HelloName::parse(name.trim()).is_ok() { name.trim() } else { "localhost" }.to_owned();
        let user_name = ["LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok());
        let user_name = user_name.filter(|name| Address::parse(name).is_ok()).unwrap_or_else(|| "nobody".to_owned());
        Ok(Self { host_name, user_name, random: HEXLOWER.encode(&bytes), now: unix_now() })
    }
}

fn prepare(settings: &Settings, wishes: &Wishes, input: &[u8], around: &Surroundings) -> Result<Message, SubmitError> {
    let domain = settings.domain.as_deref().unwrap_or(&around.host_name);
    let mut draft = Draft::parse(Content::normalised(input).as_bytes());
    let mut recipients: Vec<String> = wishes.recipients.iter().flat_map(|list| header::addresses(list)).collect();
    if wishes.recipients_from_header {
        recipients.extend(draft.recipients());
        draft.remove_blind_copies();
    }
    let recipients = recipients_of(recipients, wishes, domain)?;
    let sender = sender(settings, &draft, around, domain)?;
    let author =
        if sender.as_str().is_empty() { format!("MAILER-DAEMON@{domain}") } else { sender.as_str().to_owned() };
    draft.complete(&Missing {
        from: &with_full_name(wishes.full_name.as_deref(), &author),
        date: &message_date(around.now),
        message_id: &format!("{}@{}", around.random, around.host_name),
    });
    let mut message = Message::new(sender, recipients, Content::normalised(&draft.into_bytes()));
    message.return_content = wishes.return_content;
    message.envelope_id = wishes
        .envelope_id
        .as_deref()
        .map(Xtext::envelope_id)
        .transpose()
        .map_err(|problem| SubmitError::new(Exit::Usage, format!("the envelope identifier (-V) {problem}")))?;
    // Whatever has to be sent again within this call is then taken once.
    message.once = Xtext::once_token(&around.random).ok();
    Ok(message)
}

fn recipients_of(texts: Vec<String>, wishes: &Wishes, domain: &str) -> Result<Vec<Recipient>, SubmitError> {
    let mut recipients: Vec<Recipient> = Vec::new();
    for text in texts {
        let mut recipient = Recipient::new(qualified(&text, domain)?);
        recipient.notify = wishes.notify;
        if !recipients.contains(&recipient) {
            recipients.push(recipient);
        }
    }
    if recipients.is_empty() {
        let message = "no recipients: name them as arguments, or in the header with -t";
        return Err(SubmitError::new(Exit::Usage, message));
    }
    Ok(recipients)
}

fn qualified(text: &str, domain: &str) -> Result<Address, SubmitError> {
    let full = if text.contains('@') { text.to_owned() } else { format!("{text}@{domain}") };
    Address::parse(&full).map_err(|problem| SubmitError::new(Exit::Data, format!("the address {text:?} {problem}")))
}

/// -f, or the address that the message says it is from, or this user at this host.
fn sender(settings: &Settings, draft: &Draft, around: &Surroundings, domain: &str) -> Result<Address, SubmitError> {
    match settings.sender.as_deref() {
        Some("" | "<>") => Ok(Address::null()),
        Some(text) => qualified(header::addresses(text).first().map_or(text, String::as_str), domain),
        None => qualified(&draft.author().unwrap_or_else(|| around.user_name.clone()), domain),
    }
}

fn with_full_name(name: Option<&str>, address: &str) -> String {
    let clean: Option<String> = name.map(|name| name.chars().filter(|c| !c.is_control()).collect());
    match clean.filter(|name| !name.is_empty()) {
        Some(name) => format!("\"{}\" <{address}>", name.replace('\\', "\\\\").replace('"', "\\\"")),
        None => address.to_owned(),
    }
}

fn message_date(unix: Duration) -> String {
    let seconds = i64::try_from(unix.as_secs()).unwrap_or_default();
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    date.format(&Rfc2822).expect("a date after 1970 can be written")
}

/// The date of a mailbox file's first line: `Sun Nov 22 17:31:28 2026`.
fn mailbox_date(unix: Duration) -> String {
    let date = message_date(unix);
    let words: Vec<&str> = date.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        [weekday, day, month, year, clock, ..] => format!("{weekday} {month} {day:>2} {clock} {year}"),
        _ => date,
    }
}

// ── The server ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Host and port; the brackets of an IPv6 address are taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    host: String,
    port: u16,
}

impl Server {
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|&port| port > 0))?;
        (!host.is_empty()).then(|| Self { host: host.to_ascii_lowercase(), port })
    }

    /// Its name in the memory.
    fn key(&self) -> String {
        if self.host.contains(':') {
            return format!("[{}]:{}", self.host, self.port);
        }
        format!("{}:{}", self.host, self.port)
    }
}

fn server(settings: &Settings) -> Result<Server, SubmitError> {
    let Some(text) = &settings.server else {
        let message = "no server: name one with --server HOST:PORT, in ONETRIP_SERVER, or in \
                       ~/.config/onetrip/submit.toml (server = \"HOST:PORT\")";
        return Err(SubmitError::new(Exit::Config, message));
    };
    let port = if settings.implicit_tls { IMPLICIT_TLS_PORT } else { SUBMISSION_PORT };
    Server::parse(text, port)
        .ok_or_else(|| SubmitError::new(Exit::Config, format!("{text:?} is no server: say HOST:PORT")))
}

// ── The submission ──────────────────────────────────────────────────────────────────────────────────────────────────

fn submit(settings: &Settings, wishes: &Wishes, input: &[u8]) -> Result<(), SubmitError> {
    let request = Request::new(settings, wishes, input)?;
    if let Some(result) = agent::hand_over(&request) {
        return result;
    }
    alone(&request)
}

/// Submits in this process.
fn alone(request: &Request) -> Result<(), SubmitError> {
    let mut show = Show::new(request, Box::new(io::stderr()));
    let memory = request.memory.as_deref().map_or_else(Memory::default, |path| load_memory(path, &mut show));
    let mut delivery = Delivery::new(request, request.tls()?, memory.server(&request.server.key()))?;
    let result = delivery.run(&mut show);
    save_memory(request, delivery.memory(), &mut show);
    delivery.leave();
    result
}

fn load_memory(path: &Path, show: &mut Show) -> Memory {
    let (memory, warning) = files::load_memory(path);
    warning.iter().for_each(|warning| show.warn(warning));
    memory
}

/// Writes down what is remembered of the server now, beside what others have written meanwhile.
fn save_memory(request: &Request, server: &ServerMemory, show: &mut Show) {
    let Some(path) = &request.memory else { return };
    let (mut memory, _) = files::load_memory(path);
    memory.remember(&request.server.key(), server.clone());
    if let Err(error) = files::save_memory(path, &memory) {
        show.warn(&format!("{}: {error}: the server is not remembered", path.display()));
    }
}

/// One line for each recipient who does not have the message. The exit code is that of the worst that can be helped
/// least: what is refused for good comes before what may work later.
fn judge(outcome: &Outcome, recipients: &[String]) -> Result<(), SubmitError> {
    let verdicts = outcome.messages.iter().flatten();
    let failed: Vec<_> = recipients.iter().zip(verdicts).filter(|(_, verdict)| !verdict.is_accepted()).collect();
    let Some(&(_, first)) = failed.iter().find(|(_, v)| !v.is_temporary()).or_else(|| failed.first()) else {
        return Ok(());
    };
    let same = failed.len() > 1 && failed.iter().all(|(_, verdict)| *verdict == first);
    let lines: Vec<_> = match same {
        true => vec![first.to_string()],
        false => failed.iter().map(|(recipient, verdict)| format!("{recipient}: {verdict}")).collect(),
    };
    Err(SubmitError::new(exit_of(first), lines.join("\n")))
}

fn exit_of(verdict: &Verdict) -> Exit {
    match verdict {
        Verdict::Accepted(_) => Exit::Success,
        Verdict::Refused(reply) if matches!(reply.code(), 550 | 551 | 553) => Exit::NoUser,
        Verdict::Unsent(Failure::LoginRefused(_) | Failure::LoginNotOffered) => Exit::NoPermission,
        Verdict::Unsent(Failure::TooLarge { .. }) => Exit::Data,
        // Not for a queue to try again: somebody has to look at the certificate or the settings.
        Verdict::Unsent(Failure::Tls(_)) | Verdict::Refused(_) => Exit::Unavailable,
        other if other.is_temporary() => Exit::Temporary,
        _ => Exit::Unavailable,
    }
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// RFC 6409 §3.1.
const SUBMISSION_PORT: u16 = 587;

/// RFC 8314 §7.3.
const IMPLICIT_TLS_PORT: u16 = 465;

#[cfg(test)]
mod tests;
