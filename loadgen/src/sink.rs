//! A receiving SMTP server for relay tests: it throws mail away or keeps it, and misbehaves by rule.
//!
//! One thread serves one connection: what is tested is the sender. No TLS and no AUTH: it stands for the next hop inside a
//! trusted network. The dialog is a state machine without I/O; [`serve`] drives it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::random::Random;

/// Longest command line in bytes. A longer one ends the connection.
const LINE_BYTES_MAX: usize = 4_096;

/// Largest message in bytes.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;

/// Longest wait for a client.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// A place in the dialog where a rule can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Instead of the greeting.
    Connect,
    /// In answer to EHLO or HELO.
    Hello,
    /// In answer to MAIL.
    Mail,
    /// In answer to RCPT.
    Recipient,
    /// In answer to DATA or BDAT.
    Data,
    /// In answer to the end of the message.
    End,
}

const STAGES: [(&str, Stage); 6] = [
    ("connect", Stage::Connect),
    ("hello", Stage::Hello),
    ("mail", Stage::Mail),
    ("rcpt", Stage::Recipient),
    ("data", Stage::Data),
    ("end", Stage::End),
];

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Deed {
    /// Says this instead of the usual answer.
    Reply(String),
    /// Ends the connection without a word.
    Disconnect,
    /// The same, but a message at its end is kept: its sender cannot know.
    Lose,
    /// Waits before the usual answer.
    Delay(Duration),
}

/// One misbehaviour.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    stage: Stage,
    /// What the client's line must contain.
    text: String,
    /// How often it strikes: 0 to 1.
    share: f64,
    deed: Deed,
}

impl Rule {
    /// Reads `STAGE[~TEXT][@PERCENT]=DEED`; a deed is a 4xx or 5xx reply, `disconnect`, `lose` (at
    /// the end of a message: keep it and disconnect), or `delay MS`. For example
    /// `rcpt~bob@10=452 4.2.2 full` refuses a tenth of the recipients whose line contains `bob`.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn parse(rule: &str) -> Result<Self, String> {
        Self::read(rule).ok_or_else(|| {
            format!(
                "{rule:?} is no rule: say STAGE[~TEXT][@PERCENT]=DEED with a stage of connect, hello, mail, rcpt, data, end \
                 and a deed of a 4xx or 5xx reply, disconnect, lose, or delay MS"
            )
        })
    }

    fn read(rule: &str) -> Option<Self> {
        let (condition, deed) = rule.split_once('=')?;
        // The share is behind the last @, because addresses have one too.
        let stated = condition.rsplit_once('@').and_then(|(rest, percent)| Some((rest, percent.parse::<f64>().ok()?)));
        let (condition, percent) = stated.unwrap_or((condition, 100.0));
        let (stage, text) = condition.split_once('~').unwrap_or((condition, ""));
        let (_, stage) = STAGES.into_iter().find(|(name, _)| *name == stage)?;
        let share = (0.0..=100.0).contains(&percent).then_some(percent / 100.0)?;
        Some(Self { stage, text: text.to_ascii_lowercase(), share, deed: read_deed(deed)? })
    }
}

fn read_deed(deed: &str) -> Option<Deed> {
    match deed {
        "disconnect" => return Some(Deed::Disconnect),
        "lose" => return Some(Deed::Lose),
        _ => {}
    }
    if let Some(delay_ms) = deed.strip_prefix("delay ") {
        return Some(Deed::Delay(Duration::from_millis(delay_ms.parse().ok()?)));
    }
    let code: u16 = deed.get(..3)?.parse().ok()?;
    let is_refusal = (400..600).contains(&code) && deed.get(3..4) == Some(" ");
    (is_refusal && deed.is_ascii() && !deed.contains(['\r', '\n'])).then(|| Deed::Reply(deed.to_owned()))
}

/// What a sink does.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Where to keep mail, as a Maildir; `None` throws it away.
    pub(crate) keep: Option<PathBuf>,
    /// Misbehaviours; the first that applies strikes.
    pub(crate) rules: Vec<Rule>,
    /// For the rules that strike now and then.
    pub(crate) seed: u64,
}

/// What has arrived, all connections together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Messages accepted.
    pub(crate) messages: AtomicU64,
    /// Connections made.
    pub(crate) connections: AtomicU64,
}

/// How often a change of the counts is shown.
const TALLY_INTERVAL: Duration = Duration::from_secs(1);

impl Tally {
    /// Shows the counts whenever they have changed, for as long as the process lives.
    pub(crate) fn show_changes(&self) {
        let mut before = (0, 0);
        loop {
            std::thread::sleep(TALLY_INTERVAL);
            let now = (self.messages.load(Ordering::Relaxed), self.connections.load(Ordering::Relaxed));
            if now != before {
                crate::run::say(&format!("{} messages in {} connections", now.0, now.1));
                before = now;
            }
        }
    }
}

/// Serves until the process ends.
///
/// # Errors
///
/// If the address cannot be listened on, or the Maildir cannot be made.
pub(crate) fn serve(settings: Settings, tally: &Arc<Tally>, ready: impl FnOnce(SocketAddr)) -> Result<(), String> {
    if let Some(keep) = &settings.keep {
        ["tmp", "new", "cur"]
            .into_iter()
            .try_for_each(|part| fs::create_dir_all(keep.join(part)))
            .map_err(|error| format!("cannot make a Maildir at {}: {error}", keep.display()))?;
    }
    let words = |error: io::Error| format!("cannot listen on {}: {error}", settings.listen);
    let listener = TcpListener::bind(settings.listen).map_err(words)?;
    ready(listener.local_addr().map_err(words)?);
    let mut random = Random::new(settings.seed);
    let settings = Arc::new(settings);
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        tally.connections.fetch_add(1, Ordering::Relaxed);
        let dialog = Dialog::new(Arc::clone(&settings), random.split());
        let tally = Arc::clone(tally);
        // Without a thread for it the connection is closed, which is what a server at its limit does.
        let _ = std::thread::Builder::new().name("sink".to_owned()).spawn(move || converse(stream, dialog, &tally));
    }
    Ok(())
}

/// One connection. Its end, whatever the reason, concerns the sender only.
fn converse(mut stream: TcpStream, mut dialog: Dialog, tally: &Tally) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE_TIMEOUT));
    let mut buffer = vec![0; 65_536];
    loop {
        if act(&mut stream, &mut dialog, tally).is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => dialog.handle_bytes(&buffer[..bytes]),
        }
    }
}

fn act(stream: &mut TcpStream, dialog: &mut Dialog, tally: &Tally) -> io::Result<()> {
    for action in dialog.poll_actions() {
        match action {
            Action::Send(bytes) => stream.write_all(&bytes)?,
            Action::Wait(delay) => std::thread::sleep(delay),
            Action::Keep(message) => {
                let number = tally.messages.fetch_add(1, Ordering::Relaxed);
                if let Some(keep) = &dialog.settings.keep {
                    keep_message(keep, number, &message)?;
                }
            }
            Action::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
    Ok(())
}

fn keep_message(directory: &std::path::Path, number: u64, message: &[u8]) -> io::Result<()> {
    let name = format!("{}.{number}.sink", std::process::id());
    let temporary = directory.join("tmp").join(&name);
    fs::write(&temporary, message)?;
    fs::rename(temporary, directory.join("new").join(name))
}

/// What the dialog asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Send(Vec<u8>),
    Wait(Duration),
    Keep(Vec<u8>),
    Close,
}

/// ```text
///  Command ──DATA──► Lines ──"."──► Command
///     └──BDAT n──► Chunk ──n bytes──► Command
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Command,
    Lines,
    Chunk { left: u64, last: bool },
    Closed,
}

/// The server's half of one connection, without I/O.
#[derive(Debug)]
struct Dialog {
    settings: Arc<Settings>,
    random: Random,
    state: State,
    actions: Vec<Action>,
    input: Vec<u8>,
    message: Vec<u8>,
    has_sender: bool,
    recipients: usize,
}

impl Dialog {
    fn new(settings: Arc<Settings>, random: Random) -> Self {
        let mut dialog = Self {
            settings,
            random,
            state: State::Command,
            actions: Vec::new(),
            input: Vec::new(),
            message: Vec::new(),
            has_sender: false,
            recipients: 0,
        };
        dialog.answer(Stage::Connect, "", "220 sink ESMTP ready");
        dialog
    }

    fn handle_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.step() {}
    }

    fn poll_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// True if there may be more to do with what is there.
    fn step(&mut self) -> bool {
        match self.state {
            State::Closed => false,
            State::Chunk { left, last } => self.take_chunk(left, last),
            State::Command | State::Lines => self.take_line(),
        }
    }

    fn take_line(&mut self) -> bool {
        let Some(end) = self.input.iter().position(|&byte| byte == b'\n') else {
            if self.input.len() > LINE_BYTES_MAX {
                self.close();
            }
            return false;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        match self.state {
            State::Lines => self.handle_content(&line),
            _ => self.handle_command(String::from_utf8_lossy(&line).trim_end()),
        }
        true
    }

    fn handle_command(&mut self, line: &str) {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => {
                let list = "250-sink\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
                            250-SIZE 67108864\r\n250 ENHANCEDSTATUSCODES";
                self.reset();
                self.answer(Stage::Hello, line, list);
            }
            "HELO" => {
                self.reset();
                self.answer(Stage::Hello, line, "250 sink");
            }
            "MAIL" if self.has_sender => self.say("503 5.5.1 one sender only"),
            "MAIL" => self.has_sender = self.answer(Stage::Mail, line, "250 2.1.0 ok"),
            "RCPT" if !self.has_sender => self.say("503 5.5.1 MAIL first"),
            "RCPT" => self.recipients += usize::from(self.answer(Stage::Recipient, line, "250 2.1.5 ok")),
            "DATA" => self.begin_data(line),
            "BDAT" => self.begin_chunk(line),
            "RSET" => {
                self.reset();
                self.say("250 2.0.0 ok");
            }
            "NOOP" => self.say("250 2.0.0 ok"),
            "QUIT" => {
                self.say("221 2.0.0 bye");
                self.close();
            }
            _ => self.say("502 5.5.1 not here"),
        }
    }

    fn begin_data(&mut self, line: &str) {
        if self.recipients == 0 {
            return self.say("503 5.5.1 RCPT first");
        }
        if self.answer(Stage::Data, line, "354 go on") {
            self.state = State::Lines;
        }
    }

    fn begin_chunk(&mut self, line: &str) {
        let mut words = line.split(' ').skip(1);
        let bytes = words.next().and_then(|bytes| bytes.parse().ok());
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        match bytes {
            Some(left) if left <= MESSAGE_BYTES_MAX => self.state = State::Chunk { left, last },
            // Where the next command begins cannot be known.
            _ => self.close(),
        }
    }

    fn take_chunk(&mut self, left: u64, last: bool) -> bool {
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
        if self.message.len() as u64 + bytes as u64 > MESSAGE_BYTES_MAX {
            self.close();
            return false;
        }
        self.message.extend(self.input.drain(..bytes));
        let left = left - bytes as u64;
        self.state = State::Chunk { left, last };
        if left > 0 {
            return false;
        }
        self.state = State::Command;
        if self.recipients == 0 {
            self.message.clear();
            self.say("503 5.5.1 RCPT first");
        } else if last {
            self.end_message();
        } else if !self.answer(Stage::Data, "", "250 2.0.0 more") {
            self.reset();
        }
        true
    }

    fn handle_content(&mut self, line: &[u8]) {
        if line == b".\r\n" || line == b".\n" {
            self.state = State::Command;
            return self.end_message();
        }
        let line = line.strip_prefix(b".").unwrap_or(line);
        self.message.extend_from_slice(line);
        if self.message.len() as u64 > MESSAGE_BYTES_MAX {
            self.close();
        }
    }

    fn end_message(&mut self) {
        let message = std::mem::take(&mut self.message);
        let deed = self.judge(Stage::End, "");
        if !matches!(deed, Some(Deed::Reply(_) | Deed::Disconnect)) {
            // It is kept before the answer, as a server has to.
            self.actions.push(Action::Keep(message));
        }
        self.carry_out(deed, "250 2.0.0 taken");
        self.reset();
    }

    fn reset(&mut self) {
        self.has_sender = false;
        self.recipients = 0;
        self.message.clear();
    }

    /// Says the usual words unless a rule strikes; false if a rule refused.
    fn answer(&mut self, stage: Stage, line: &str, usual: &str) -> bool {
        let deed = self.judge(stage, line);
        self.carry_out(deed, usual)
    }

    /// What the first rule that strikes wants done.
    fn judge(&mut self, stage: Stage, line: &str) -> Option<Deed> {
        let line = line.to_ascii_lowercase();
        let random = &mut self.random;
        let applies = |rule: &&Rule| rule.stage == stage && line.contains(&rule.text);
        let struck = self.settings.rules.iter().filter(applies).find(|rule| random.unit() < rule.share);
        struck.map(|rule| rule.deed.clone())
    }

    fn carry_out(&mut self, deed: Option<Deed>, usual: &str) -> bool {
        match deed {
            Some(Deed::Reply(reply)) => self.say(&reply),
            Some(Deed::Disconnect | Deed::Lose) => self.close(),
            Some(Deed::Delay(delay)) => {
                self.actions.push(Action::Wait(delay));
                self.say(usual);
                return true;
            }
            None => {
                self.say(usual);
                return true;
            }
        }
        false
    }

    /// Answers that leave together are one piece.
    fn say(&mut self, reply: &str) {
        if !matches!(self.actions.last(), Some(Action::Send(_))) {
            self.actions.push(Action::Send(Vec::new()));
        }
        if let Some(Action::Send(bytes)) = self.actions.last_mut() {
            bytes.extend_from_slice(reply.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.actions.push(Action::Close);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Action, Dialog, Rule, Settings};
    use crate::random::Random;

    const DATA: &[u8] = b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n..x\r\ny\r\n.\r\nQUIT\r\n";

    fn play(rules: &[&str], pieces: &[&[u8]]) -> Vec<Action> {
        let rules = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
        let settings = Settings { listen: ([127, 0, 0, 1], 0).into(), keep: None, rules, seed: 1 };
        let mut dialog = Dialog::new(Arc::new(settings), Random::new(1));
        pieces.iter().for_each(|piece| dialog.handle_bytes(piece));
        dialog.poll_actions()
    }

    fn codes(actions: &[Action]) -> Vec<String> {
        let sent = actions.iter().filter_map(|action| match action {
            Action::Send(bytes) => Some(String::from_utf8(bytes.clone()).unwrap()),
            _ => None,
        });
        let text: String = sent.collect();
        text.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| line[..3].to_owned()).collect()
    }

    #[test]
    fn a_message_is_kept_before_it_is_acknowledged_wherever_the_bytes_are_cut() {
        for cut in 0..=DATA.len() {
            let actions = play(&[], &[&DATA[..cut], &DATA[cut..]]);
            assert_eq!(codes(&actions), ["220", "250", "250", "250", "354", "250", "221"], "cut at {cut}");
            let kept = actions.iter().position(|action| *action == Action::Keep(b".x\r\ny\r\n".to_vec())).unwrap();
            assert_eq!(codes(&actions[..kept]).last().map(String::as_str), Some("354"), "cut at {cut}");
            assert_eq!(actions.last(), Some(&Action::Close));
        }
    }

    #[test]
    fn chunks_are_put_together() {
        let dialog = b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nabBDAT 3 LAST\r\ncdeNOOP\r\n";
        let actions = play(&[], &[dialog]);
        assert_eq!(codes(&actions), ["220", "250", "250", "250", "250", "250", "250"]);
        assert!(actions.contains(&Action::Keep(b"abcde".to_vec())));
    }

    #[test]
    fn a_rule_refuses_those_it_names_and_no_others() {
        let dialog = b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<BOB@d>\r\nRCPT TO:<ann@d>\r\n";
        let actions = play(&["rcpt~<bob@d>=452 4.2.2 full"], &[dialog]);
        assert_eq!(codes(&actions), ["220", "250", "250", "452", "250"]);
    }

    #[test]
    fn a_refused_message_is_not_kept() {
        let actions = play(&["end=451 4.3.0 later"], &[DATA]);
        assert!(codes(&actions).contains(&"451".to_owned()));
        assert!(!actions.iter().any(|action| matches!(action, Action::Keep(_))));
    }

    #[test]
    fn rules_delay_and_disconnect() {
        assert_eq!(play(&["connect=disconnect"], &[])[0], Action::Close);
        assert_eq!(play(&["connect=delay 50"], &[])[0], Action::Wait(Duration::from_millis(50)));
    }

    #[test]
    fn a_rule_with_a_share_strikes_about_so_often() {
        let lines = b"MAIL FROM:<a@b>\r\nRSET\r\n".repeat(1_000);
        let refused = codes(&play(&["mail@25=451 later"], &[&lines])).iter().filter(|code| *code == "451").count();
        assert!((200..300).contains(&refused), "{refused}");
    }

    #[test]
    fn nonsense_is_no_rule() {
        for rule in ["", "rcpt", "rcpt=", "rcpt=250 ok", "noop=451 x", "rcpt@101=451 x", "mail=delay x", "end=451"] {
            assert!(Rule::parse(rule).is_err(), "{rule:?}");
        }
    }

    #[test]
    fn a_message_without_recipients_is_refused() {
        assert_eq!(codes(&play(&[], &[b"MAIL FROM:<a@b>\r\nDATA\r\nBDAT 2 LAST\r\nxx"])), ["220", "250", "503", "503"]);
    }
}
