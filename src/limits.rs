//! Every bound of the system, with its unit and its reason.
//!
//! A bound that an operator may want to move is a default here and a flag on the command line; the others are laws of
//! the protocol or of good sense.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

// ── What a client may send ──────────────────────────────────────────────────────────────────────────────────────────

/// Longest command line in bytes, CRLF included. RFC 5321 §4.5.3.1.4 says 512 and lets extensions add: RCPT with
/// ORCPT (500) and NOTIFY (28) of RFC 3461 §4, MAIL with SIZE, BODY, RET, ENVID, AUTH (500) stay under 2,048.
pub const COMMAND_LINE_BYTES_MAX: usize = 2_048;

/// Longest line of an AUTH exchange in bytes, CRLF included (RFC 4954 §4).
pub const AUTH_LINE_BYTES_MAX: usize = 12_288;

/// Longest path (`<local@domain>`) in bytes (RFC 5321 §4.5.3.1.3).
pub const PATH_BYTES_MAX: usize = 256;

/// Longest local part in bytes (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;

/// Longest domain in bytes (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;

/// Longest user name in bytes. RFC 4616 sets none; longer ones only serve to fill tables.
pub const USER_NAME_BYTES_MAX: usize = 255;

/// Longest password in bytes. RFC 4616 sets none; a longer one would only make the hash slow.
pub const PASSWORD_BYTES_MAX: usize = 1_024;

/// Longest ENVID in bytes (RFC 3461 §4.4).
pub const ENVID_BYTES_MAX: usize = 100;

/// Longest ORCPT value in bytes (RFC 3461 §4.2).
pub const ORCPT_BYTES_MAX: usize = 500;

/// Longest AUTH parameter of MAIL in bytes (RFC 4954 §3).
pub const MAIL_AUTH_BYTES_MAX: usize = 500;

/// Longest `XONCE` token in bytes: what ENVID may have, so that one can serve as the other.
pub const ONCE_TOKEN_BYTES_MAX: usize = 100;

/// Most `Received` fields a message may bear before it is taken for a loop (RFC 5321 §6.3 asks for at least 100).
pub const HOPS_MAX: usize = 100;

/// Most bytes of a refused TLS handshake that are skipped before the connection is closed: a ClientHello with
/// post-quantum key shares is under 4 KiB, and 64 KiB leaves room for the early data of a client that hoped for more.
pub const REFUSED_TLS_BYTES_MAX: usize = 65_536;

/// Most bytes of a refused BDAT chunk that are read and thrown away beyond the message size limit before the
/// connection is closed instead.
pub const REFUSED_CHUNK_BYTES_MAX: u64 = 1 << 20;

// ── Defaults of flags ───────────────────────────────────────────────────────────────────────────────────────────────

/// Default of `--max-message-size` in bytes: 50 MiB, what large mail hosts accept.
pub const MESSAGE_BYTES_MAX: u64 = 50 << 20;

/// Default of `--message-memory` in bytes: messages in transit on one shard. Over it, mail is put off with 452.
pub const MESSAGE_MEMORY_BYTES: u64 = 512 << 20;

/// Default of `--recipients-max`: recipients of one message (RFC 5321 §4.5.3.1.8 asks for at least 100).
pub const RECIPIENTS_MAX: u32 = 1_000;

/// Default of `--messages-max`: messages on one connection, announced as `LIMITS MAILMAX` (RFC 9422 §4.1).
pub const MESSAGES_MAX: u32 = 10_000;

/// Default of `--commands-max`: commands on one connection that do not lead to a message, counted anew after each.
pub const COMMANDS_MAX: u32 = 2_000;

/// Default of `--errors-max`: refused commands on one connection.
pub const ERRORS_MAX: u32 = 20;

/// Default of `--auth-attempts-max`: failed AUTH commands on one connection.
pub const AUTH_ATTEMPTS_MAX: u32 = 3;

/// Default of `--connections-max`: open connections of one shard.
pub const CONNECTIONS_MAX: u32 = 50_000;

/// Default of `--connections-per-address-max`: open connections from one address, all shards together.
pub const CONNECTIONS_PER_ADDRESS_MAX: u32 = 1_000;

/// Default of `--lateness-max`: how late a shard may be with what its clients have sent. A plain session has nine flights, so that
/// people wait for a second at most; and the less is under way at once, the less each costs.
pub const LATENESS_MAX: Duration = Duration::from_millis(100);

/// Default of `--idle-timeout`: how long a client may be silent (RFC 5321 §4.5.3.2.7: five minutes).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Default of `--login-timeout`: how long a client may take from connecting to a successful AUTH.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(180);

/// Default of `--transaction-timeout`: how long one transaction may take from MAIL to the end of the message.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Default of `--drain-timeout`: how long transactions may go on after the first signal to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server that stops, and has let go of its state directory, waits for handshakes to end and for clients to notice
/// what they were told: a little more than each of them is given.
pub const FAREWELL: Duration = Duration::from_millis(2_500);

/// Default of `--auth-remember`: how long a verified credential is remembered without hashing it again.
pub const AUTH_REMEMBER: Duration = Duration::from_secs(3_600);

/// Default of `--auth-failures-max`: failures of one address or of one user within the window before further
/// attempts are put off unjudged.
pub const AUTH_FAILURES_MAX: u32 = 20;

/// Default of `--auth-failure-window`: how long a failure counts.
pub const AUTH_FAILURE_WINDOW: Duration = Duration::from_secs(600);

/// Default of `--auth-failure-delay`: how long the answer to the first failure waits; it doubles with each further
/// failure up to [`AUTH_FAILURE_DELAY_MAX`].
pub const AUTH_FAILURE_DELAY: Duration = Duration::from_millis(1_000);

/// Longest wait before the answer to a failed AUTH: less than any client's timeout.
pub const AUTH_FAILURE_DELAY_MAX: Duration = Duration::from_secs(15);

// ── What we keep ────────────────────────────────────────────────────────────────────────────────────────────────────

/// TLS sessions kept for resumption by default (`--tls-sessions`): 200 bytes each, 26 MB if all are used.
pub const TLS_SESSIONS_MAX: usize = 131_072;

/// How long a TLS session may be resumed: one day, the lifetime that rustls writes into its tickets.
pub const TLS_SESSION_LIFETIME: Duration = Duration::from_secs(86_400);

/// Verified credentials remembered at once on each shard: about 100 bytes each.
pub const REMEMBERED_CREDENTIALS_MAX: usize = 65_536;

/// Addresses and users whose failures are counted at once: about 100 bytes each.
pub const THROTTLE_ENTRIES_MAX: usize = 65_536;

/// Password checks that may wait for a hashing thread: at 20 ms each the last of them waits about 5 seconds.
pub const PASSWORD_QUEUE_MAX: usize = 256;

/// Messages that may wait for a delivery thread of one shard.
pub const DELIVERY_QUEUE_MAX: usize = 4_096;

/// Log lines of one shard that may wait for the log writer; further ones are dropped and counted. For each queue and not for
/// all together, because how long a slow reader is borne depends on what one shard has to say, however many there are. Full,
/// a queue takes about 4 MiB; it takes nothing for lines that never waited.
pub const LOG_QUEUE_MAX: usize = 16_384;

// ── Buffers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Bytes taken from a socket in one receive; one such buffer serves all connections of a shard.
pub const RECEIVE_BYTES: usize = 65_536;

/// Replies gather for one send until they are this many bytes; the rest of what was received waits until they have left. It
/// is the content of a full TLS record, and the replies to a thousand recipients. So a client that says much and reads
/// nothing holds [`RECEIVE_BYTES`] of what it said, and little more than twice this of what it was told.
pub const REPLIES_BYTES_MAX: usize = 16_384;

/// A connection's own buffers are given back when they have grown beyond this and the connection falls idle.
pub const KEPT_BUFFER_BYTES_MAX: usize = 4_096;

// ── Turns ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Full receives of [`RECEIVE_BYTES`], and full sends of [`REPLIES_BYTES_MAX`], after which more is done for the same clients
/// in one round of a shard: at 100 µs each, under half a millisecond.
pub const PIECES_PER_ROUND: u64 = 4;

/// Completions for which a shard's ring has room before it looks at them: so many sockets may become ready in one round. They
/// take 256 KiB. For more the kernel has to find memory at that moment, and may find none.
pub const COMPLETIONS_PER_RING: u32 = 16_384;

/// Connections that a listener accepts before those inside have their turn: at 10 µs each, as long as one handshake.
pub const ACCEPTED_PER_ROUND: u64 = 16;

/// The same for connections that are turned away because the shard is late: all that wait, with the default `--backlog`. At 10 µs
/// each that is little beside a round of a shard that is late; to leave some of them would let them wait in vain.
pub const TURNED_AWAY_PER_ROUND: u64 = 4_096;

/// Receives from clients in a TLS handshake in one round of a shard, when there are more: at 50 to 100 µs each, under a
/// millisecond for everybody else to wait.
pub const HANDSHAKES_PER_ROUND: u64 = 8;

/// Other receives in one round of a shard, when there are more: at 10 to 50 µs each, some milliseconds. A round has to end for
/// messages to become stable, because that is when the disk is asked, and when its answer is seen.
pub const FLIGHTS_PER_ROUND: u64 = 64;

/// Receives from clients that dribble in one round of a shard, when there are more: at 5 µs each, a fraction of a
/// millisecond.
pub const DRIBBLES_PER_ROUND: u64 = 64;

/// A client that sends fewer bytes than this at a time, and nothing that there is an answer to, dribbles.
pub const DRIBBLE_BYTES_MAX: usize = 512;

/// Lines that the log writer takes from one queue while others wait: a hundred microseconds of rendering. With fewer it would
/// look at the queues of all shards for every few lines.
pub const LOG_TURN_LINES_MAX: usize = 32;

// ── How the server runs ─────────────────────────────────────────────────────────────────────────────────────────────

/// Where `--listen` listens by default: this host only, so that a first try exposes nothing. 587 plus 2,000, because
/// ports under 1,024 need a privilege.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2_587);

/// Where `--listen-tls` listens by default: 465 plus 2,000, for the same reasons as [`LISTEN`].
pub const LISTEN_TLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2_465);

/// Default of `--backlog`: connections of one listener that wait to be accepted; the default ceiling of Linux
/// (`net.core.somaxconn`) since 5.4.
pub const BACKLOG: u32 = 4_096;

/// Default of `--fast-open`: TCP Fast Open connections of one listener whose handshake is not finished yet (RFC 7413
/// §5.1 wants a bound, because their source addresses may be forged).
pub const FAST_OPEN_QUEUE: u32 = 256;

/// Default of `--greet-pause`: none, because waiting is what this server does away with.
pub const GREET_PAUSE: Duration = Duration::ZERO;

/// Default of `--delivery-threads`: threads per shard that write messages down; two, so that one slow write does not
/// stand in the way of all.
pub const DELIVERY_THREADS: usize = 2;

/// Default of `--password-threads`: threads that hash passwords, all shards together; a hash is made slow on purpose,
/// and each thread more is a core less for mail.
pub const PASSWORD_THREADS: usize = 1;

/// Default of `--qhlo-rotation`: how long a secret of the qhlo-ids is in use before the next one takes its place.
pub const QHLO_ROTATION: Duration = Duration::from_secs(30 * 86_400);

/// Most shards of one server: as many as the kernel's plain CPU sets have cores.
pub const SHARDS_MAX: usize = 1_024;

/// Highest number of a core that can be named: the kernel's plain CPU sets end there.
pub const CORE_NUMBER_MAX: usize = 1_023;
// ── Passwords ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Salt of a password hash in bytes (RFC 9106 §3.1).
pub const HASH_SALT_BYTES: usize = 16;

/// Most memory in KiB that comparing one password may take: 1 GiB, half of the first choice of RFC 9106 §4; more would
/// starve the server.
pub const HASH_MEMORY_KIB_MAX: u32 = 1 << 20;

/// Most memory in KiB that comparing one password may write, all passes together: at about 2 GiB a second, two seconds.
pub const HASH_WORK_KIB_MAX: u64 = 4 << 20;

/// Largest users file in bytes: over a million users.
pub const USERS_FILE_BYTES_MAX: u64 = 256 << 20;
// ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Most bytes that may wait inside a TLS session: plaintext before the handshake allows it to leave, records until they
/// are sent. Four full records, so that one large piece of a message never needs more than a few turns.
pub const TLS_WAITING_BYTES_MAX: usize = 65_536;

/// Longest TLS session that is kept, in bytes. Without a client certificate a session has 72 bytes and the name that the
/// client asked for (255 at most); a longer one has no use here.
pub const TLS_SESSION_BYTES_MAX: usize = 1_024;

/// One in this many sessions of the cache may be longer than its slot, and then takes [`TLS_SESSION_BYTES_MAX`] besides:
/// 64 bytes more for each session at worst. Only those with server names of 60 and more letters are.
pub const TLS_LONG_SESSIONS_ONE_IN: usize = 16;

/// The session cache is looked through for expired sessions once in this many ticks, that is, in ten minutes: a share so
/// small that a tick is done in microseconds, and yet secrets do not outlive their use by long.
pub const TLS_SESSION_SWEEP_TICKS: usize = 600;

/// TLS sessions that a client remembers by default: one command talks to one or two servers.
pub const TLS_CLIENT_SESSIONS_MAX: usize = 256;

/// How long a self-signed certificate is good: ten years, because nobody renews it and no authority limits it.
pub const TLS_SELF_SIGNED_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);

/// How long before its end a certificate gives a warning: renewal by ACME normally happens 30 days ahead, so two weeks
/// mean that it failed.
pub const TLS_EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 86_400);

/// Largest certificate or key file in bytes: a chain of ten certificates has under 32 KiB, the bundle of a platform's
/// roots about 256 KiB.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = 4 << 20;

// ── What operators see ──────────────────────────────────────────────────────────────────────────────────────────────

/// Longest value of one field of a log line in bytes: the longest path fits, and what fills disks does not.
pub const LOG_VALUE_BYTES_MAX: usize = 512;

/// How long the log writer rests when it has written all that waited: whoever has a line meanwhile need not wake it, and it is
/// written with the others. A reader of the log does not notice.
pub const LOG_REST: Duration = Duration::from_millis(5);

/// Log lines are written together until they reach this many bytes: one system call then serves many of them.
pub const LOG_BATCH_BYTES_MAX: usize = 65_536;

/// How long the last log lines may take when the service stops: whatever reads them may itself be stuck.
pub const LOG_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest HTTP request to the server of metrics in bytes: Prometheus sends under 500.
pub const METRICS_REQUEST_BYTES_MAX: usize = 8_192;

/// Most header fields of such a request: Prometheus sends under 10.
pub const METRICS_HEADERS_MAX: usize = 64;

/// How long one such request may take to arrive, and its answer to leave; the next one waits for it, so that there is
/// never more than one.
pub const METRICS_EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server of metrics waits after the system refused to hand over a connection.
pub const METRICS_ACCEPT_PAUSE: Duration = Duration::from_millis(100);

// ── What our own client takes from a server ─────────────────────────────────────────────────────────────────────────

/// Longest line of a reply in bytes, CRLF included. RFC 5321 §4.5.3.1.5 says 512; some servers list more in one line.
pub const REPLY_LINE_BYTES_MAX: usize = 4_096;

/// Most lines of one reply: no server lists more than a few dozen extensions.
pub const REPLY_LINES_MAX: usize = 128;

/// Replies that may be outstanding before the client stops to send commands: a server that reads nothing while it
/// writes replies must not be driven into a deadlock (RFC 2920 §3.1), and this many short replies fit any socket.
pub const OUTSTANDING_REPLIES_MAX: usize = 256;

/// Bytes that the client core hands out in one piece: two TLS records' worth twice over, so that a large message is
/// never copied whole.
pub const CLIENT_PIECE_BYTES: usize = 65_536;

/// Largest message in bytes that is sent before its recipients are accepted. Beyond it one round trip is small against
/// the time the bytes take, and a refusal would waste them.
pub const EAGER_MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Servers that a client remembers; the one longest unseen makes room.
pub const REMEMBERED_SERVERS_MAX: usize = 1_024;

/// Longest memory text in bytes that is read back: what [`REMEMBERED_SERVERS_MAX`] ordinary servers need, and more.
pub const MEMORY_TEXT_BYTES_MAX: usize = 4 << 20;

/// Lines of dialog that wait for whoever shows them; further ones are dropped.
pub const TRANSCRIPT_ENTRIES_MAX: usize = 4_096;

/// How long the client waits for an ordinary reply (RFC 5321 §4.5.3.2: five minutes).
pub const CLIENT_REPLY_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the client waits for the reply to a whole message (RFC 5321 §4.5.3.2.6: ten minutes).
pub const CLIENT_MESSAGE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a server on which QUICKSTART broke is spoken to in plain ESMTP before QUICKSTART is tried again.
pub const QUICKSTART_AVOID: Duration = Duration::from_secs(3_600);

// ── The submit command ──────────────────────────────────────────────────────────────────────────────────────────────

/// Largest message in bytes that `onetrip submit` reads: five times what large mail hosts accept, so that the server's
/// limit is the one that is met, and a runaway pipe still ends.
pub const SUBMIT_MESSAGE_BYTES_MAX: u64 = 256 << 20;

/// Longest header of a message in bytes that `onetrip submit` looks through.
pub const SUBMIT_HEADER_BYTES_MAX: usize = 1 << 20;

/// Longest password file, in bytes: one line is read.
pub const SUBMIT_PASSWORD_FILE_BYTES_MAX: u64 = 4_096;

/// How long a connection attempt to one address may take before the next address is tried.
pub const SUBMIT_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that one submission may make: the first, one in plain ESMTP, and some where a server limits messages.
pub const SUBMIT_CONNECTIONS_MAX: u32 = 100;

/// Longest time in seconds that `onetrip submit --linger` lets an agent wait for the next message: a day, like tickets.
pub const SUBMIT_LINGER_S_MAX: u64 = 86_400;

/// How long an agent waits behind a final reply for the TLS session that comes after it.
pub const SUBMIT_TICKET_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a caller waits for an agent to answer a knock, and the agent for what its caller has to say.
pub const SUBMIT_AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Submissions that an agent carries out at once; further ones wait their turn.
pub const SUBMIT_AGENT_REQUESTS_MAX: usize = 16;

/// TLS sessions with one server that a client keeps; rustls keeps as many by itself.
pub const TLS_CLIENT_STOCK_MAX: usize = 8;

/// Messages smaller than this many bytes show no progress: they are gone before anybody could read it.
pub const SUBMIT_PROGRESS_BYTES_MIN: u64 = 512 << 10;
// ── Files ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longest name of a file or directory in bytes: `NAME_MAX` of Linux.
pub const FILE_NAME_BYTES_MAX: usize = 255;

/// Most bytes of the host name in the name of a message's file: what is left of [`FILE_NAME_BYTES_MAX`] holds the rest of
/// the name, and the flags that mail readers append.
pub const FILE_HOST_NAME_BYTES_MAX: usize = 128;

/// Most messages that one delivery thread stores together, sharing the waits for the disk. All of them are open files,
/// and the first of them waits for the last.
pub const DELIVERY_BATCH_MAX: usize = 64;

/// Mailboxes that one delivery thread knows to be there, at about 100 bytes each; beyond that it forgets them all and
/// looks again.
pub const KNOWN_MAILBOXES_MAX: usize = 65_536;

/// Largest file of qhlo-id secrets in bytes: two secrets, and room for comments.
pub const QHLO_SECRETS_FILE_BYTES_MAX: u64 = 4_096;

// ── At most once ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Default of `--once-retention`: a day. A client that has not learned within it what became of its message has been
/// told by its user's patience, or gives up by itself.
pub const ONCE_RETENTION: Duration = Duration::from_secs(86_400);

/// Least `--once-retention`: ten minutes. A first flight that somebody keeps back is good for one minute, clocks may be
/// some minutes apart, and clients wait ten for the reply to a message (RFC 5321 §4.5.3.2.6).
pub const ONCE_RETENTION_MIN: Duration = Duration::from_secs(600);

/// Default of `--once-max`: tokens known at a time, all shards together, about 120 bytes of memory each.
pub const ONCE_TOKENS_MAX: usize = 1_000_000;

/// Tokens that share one lock. A hash table that is filled and emptied all the time keeps its 8,192 places for up to
/// 3,584 entries: this many, and some claims. To grow that far moves a few thousand of them, in well under a
/// millisecond.
pub const ONCE_STRIPE_TOKENS: usize = 3_400;

/// How often it is told that tokens had to be forgotten early.
pub const ONCE_FORGOTTEN_REMINDER: Duration = Duration::from_secs(60);

// ── Starting ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// How long a server waits for an address that is taken: the kernel needs some ten milliseconds, on a busy machine more,
/// to let go of the listeners of a server that was killed.
pub const LISTEN_TAKEN_PATIENCE: Duration = Duration::from_secs(1);

// ── The control socket ──────────────────────────────────────────────────────────────────────────────────────────────

/// Requests about the queue that are answered at a time: each has a thread, and people ask few.
pub const CONTROL_CONNECTIONS_MAX: usize = 8;

/// Longest request in bytes: a thousand ids, and all conditions.
pub const CONTROL_REQUEST_BYTES_MAX: u64 = 65_536;

/// How long a request may take to arrive.
pub const CONTROL_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long whoever asked may leave the answer unread before it is broken off: a person reads a page, and more than a
/// page waits in the pipe.
pub const CONTROL_WRITE_TIMEOUT: Duration = Duration::from_secs(600);

// ── The queue ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longest text in bytes that is kept of what the last attempt came to: a reply of several lines fits.
pub const LAST_REPLY_BYTES_MAX: usize = 512;

/// Default of `--retry-min`: the wait after the first attempt that was put off; it doubles with each further one. A
/// minute is what greylisting hosts (RFC 6647 §4.1) commonly ask for.
pub const RETRY_MIN: Duration = Duration::from_secs(60);

/// Default of `--retry-max`: the longest wait between two attempts. RFC 5321 §4.5.4.1 asks for at least 30 minutes in
/// general; an hour is as gentle as mail may be late.
pub const RETRY_MAX: Duration = Duration::from_secs(3_600);

/// Longest first wait before a destination that could not be reached is tried again. Shorter than the wait of a single
/// message: one attempt stands for all that waits, and most such times are restarts of a few seconds.
pub const PROBE_WAIT: Duration = Duration::from_secs(5);

/// Default of `--queue-lifetime`: how long a message may wait before its sender gets it back (RFC 5321 §4.5.4.1: at least
/// four to five days).
pub const QUEUE_LIFETIME: Duration = Duration::from_secs(5 * 86_400);

/// Default of `--delay-warning`: the age at which a sender who asked for it is told that a message is late.
pub const DELAY_WARNING: Duration = Duration::from_secs(4 * 3_600);

/// Most rules that send a domain's mail elsewhere. Each queued message keeps the number of its destination in two bytes.
pub const ROUTES_MAX: usize = 10_000;

/// Default of `--queue-max`: messages in the queues of all shards together. They take under 200 bytes of memory each.
pub const QUEUE_MAX: u64 = 1_000_000;

/// Most bytes of different texts of last replies that one shard keeps in memory; beyond that, new ones are only logged.
pub const REPLIES_KEPT_BYTES_MAX: usize = 8 << 20;

/// Messages of one shard that are given back, or warned of, at the same time: each is read from the spool, and a report
/// about it written there.
pub const REPORTS_IN_FLIGHT_MAX: u32 = 16;

/// Messages that are looked at in one go for whether their senders want to hear that they are late: a millisecond's work.
pub const WARNING_LOOKS_MAX: usize = 4_096;

/// Largest message in bytes that is given back whole in a report, when its sender asked for that (`RET=FULL`); of a larger
/// one the header is. Reports must not become a burden to who gets them.
pub const RETURNED_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Most bytes of a header that is given back in a report.
pub const RETURNED_HEADER_BYTES_MAX: usize = 64 << 10;

/// A client's connection gathers so many bytes before it asks for them to be sent, so that a large message is not held
/// whole and ciphertext leaves in large writes.
pub const CLIENT_FLUSH_BYTES: usize = 4 * CLIENT_PIECE_BYTES;

/// Plaintext of a full TLS record in bytes (RFC 8446 §5.1).
pub const TLS_RECORD_BYTES_MAX: usize = 16_384;

/// What encryption adds to each record of TLS 1.3 in bytes: the type and the authentication tag (RFC 8446 §5.2).
pub const TLS_RECORD_OVERHEAD_BYTES: usize = 17;

// ── Early data ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Most bytes of early data that a connection may bring (RFC 8446 §4.2.10): a message without large attachments and what
/// goes before it; whatever is larger gains little from a round trip less. As much is skipped of early data that is
/// rejected, so a ticket must never promise more than the listener that it is brought to has: it is a constant, and no
/// flag.
pub const TLS_EARLY_DATA_BYTES_MAX: usize = 131_072;

/// Most early data that a client sends, in bytes of ciphertext: one full record. A server built on rustls that rejects early
/// data keeps it until the next record that it can read, and has room for little more than one. It costs nothing: TCP
/// sends about as much before its first acknowledgement (RFC 6928).
pub const TLS_CLIENT_EARLY_DATA_BYTES_MAX: usize = TLS_RECORD_BYTES_MAX + TLS_RECORD_OVERHEAD_BYTES;

/// How often a server may count the same rejected early data, as ciphertext, against the limit that it stated. One built on
/// rustls does so each time that bytes arrive, twice at least, and ends the connection when the limit is passed.
pub const TLS_CLIENT_EARLY_DATA_SKIPS: usize = 4;

// ── Other servers ───────────────────────────────────────────────────────────────────────────────────────────────────

/// Default of `--relay-connections`: connections of one shard to one other server. Servers bear 16 from one client, and
/// each carries a message per round trip.
pub const RELAY_CONNECTIONS: usize = 16;

/// Default of `--relay-idle`: how long a connection waits for the next message. Servers wait five minutes (RFC 5321
/// §4.5.3.2.7), busy ones less; whoever ends it first should be we, so that no message meets a closing door.
pub const RELAY_IDLE: Duration = Duration::from_secs(30);

/// The port on which TLS comes first (RFC 8314 §7.3).
pub const SUBMISSIONS_PORT: u16 = 465;

/// How long a connection to one address of another server may take to be made.
pub const RELAY_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the addresses of another server may take to be found; systems give up after some 20 seconds themselves.
pub const RELAY_LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the addresses of another server are good: changes in DNS are noticed within a minute.
pub const RELAY_ADDRESS_LIFETIME: Duration = Duration::from_secs(60);

/// Addresses of one other server that are tried.
pub const RELAY_ADDRESSES_MAX: usize = 16;

/// How long a goodbye to another server may take.
pub const RELAY_GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the recipients that a server wants to have in a further transaction (RFC 5321 §4.5.3.1.10) are sent at once;
/// each time it must have taken one at least.
pub const RELAY_ROUNDS_MAX: u32 = 100;

/// TLS sessions remembered for other servers, all shards together.
pub const RELAY_TLS_SESSIONS_MAX: usize = 1_024;

/// Largest file of passwords for other servers in bytes: thousands of lines.
pub const RELAY_AUTH_FILE_BYTES_MAX: u64 = 1 << 20;

// ── The spool ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Bytes of a segment: large enough that making one is rare, small enough that a log can be freed piece by piece.
pub const SPOOL_SEGMENT_BYTES: u32 = 16 << 20;

/// A batch takes no further record once it has this many bytes: a write of more gains nothing, and all in it wait for its
/// end.
pub const SPOOL_BATCH_BYTES_MAX: usize = 1 << 20;

/// Content beyond this many bytes lies in parts of this size, so that no record is large.
pub const SPOOL_PART_BYTES: usize = 256 << 10;

/// Most parts of a message in the spool: 16 GiB of [`SPOOL_PART_BYTES`]. A record of a part that says it is further on is
/// damage, so that reading it back never sets memory aside for what is not there.
pub const SPOOL_PARTS_MAX: u32 = 65_536;
/// Content of this many bytes goes into the spool while the rest of its message is still coming: a piece takes one part, and
/// two of them and what has just arrived are all that a message has in memory, however large it is.
pub const STREAM_PIECE_BYTES: usize = 256 << 10;

/// The least that `--message-memory` must be for a message that goes into the spool in pieces: the buffer of a piece, which
/// doubles as it grows, with room for newlines that are made whole.
pub const STREAM_MEMORY_BYTES: u64 = 1 << 20;

/// Pieces of messages wait for the disk while this much waits already: what is left of
/// [`SPOOL_WAITING_BYTES_MAX`] is for messages that are complete.
pub const STREAM_WAITING_BYTES_MAX: usize = SPOOL_WAITING_BYTES_MAX / 2;

/// Bytes that may wait for the disk on one shard before messages are put off: a second or so of a slow disk.
pub const SPOOL_WAITING_BYTES_MAX: usize = 64 << 20;

/// How long a note waits for company before it is written alone: nobody waits for it, and a message that comes takes it
/// along.
pub const SPOOL_NOTE_DELAY: Duration = Duration::from_millis(5);

/// Segments that one shard keeps open for reading.
pub const SPOOL_READERS_MAX: usize = 32;

/// How long the last notes may take when the service stops: a disk may be stuck, and what was promised is on it already.
pub const SPOOL_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages under way to the Maildirs of one destination: some batches for each delivery thread.
pub const MAILDIR_IN_FLIGHT_MAX: usize = 256;

/// Bytes of messages that one shard holds in memory for one destination; one more message may pass it.
pub const CARRIED_BYTES_MAX: u64 = 32 << 20;

/// How long a shard that stops waits for attempts that are under way. What has no result by then is tried again after the
/// next start.
pub const QUEUE_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages in one page of a list of the queue: as many envelopes are read from the spool while somebody waits.
pub const QUEUE_PAGE_MESSAGES: usize = 128;

/// How long a server that takes over waits for the one before it, beyond that one's `--drain-timeout`: its queue
/// ([`QUEUE_STOP_TIMEOUT`]) and its spool ([`SPOOL_STOP_TIMEOUT`]) may need that long, and a little is for the way there.
pub const TAKEOVER_PATIENCE: Duration = Duration::from_secs(20);

/// How long either server may take for one step of a handover: sockets are passed on in microseconds.
pub const HANDOVER_STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Most listening sockets that are taken from another process: more than any configuration makes, and bounded because each is a descriptor.
pub const INHERITED_SOCKETS_MAX: usize = 16_384;
