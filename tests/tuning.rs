//! `onetrip check` as a command, and the files under `tuning/`: that the server takes them, that systemd does, and that the
//! server runs under what the unit allows.
//!
//! Settings of the kernel are changed only in network namespaces that end with the test; that takes root. What is not there
//! (root, systemd-analyze, strace) is said, and its test is skipped.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod process;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use process::{HOSTNAME, PASSWORD, PATIENCE, Site, USER, onetrip};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_onetrip");

fn tuning(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A check with JSON, on free ports.
fn check(site: &Site, flags: &[&str]) -> (i32, Value) {
    let mut command = onetrip();
    command.args(["check", "--json", "--hostname", HOSTNAME]);
    if !flags.contains(&"--state-dir") {
        command.args(["--state-dir", text(&site.state())]);
    }
    if !flags.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    report(&command.args(flags).output().unwrap())
}

fn report(output: &Output) -> (i32, Value) {
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), json)
}

/// The levels of all findings with this subject.
fn levels<'a>(report: &'a Value, subject: &str) -> Vec<&'a str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.filter(|finding| finding["subject"] == subject).map(|finding| finding["level"].as_str().unwrap()).collect()
}

fn is_root() -> bool {
    // SAFETY: the call has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// May this process make namespaces? Says so if not.
fn may_unshare() -> bool {
    let may = is_root()
        && Command::new("unshare").args(["--net", "--mount", "true"]).status().is_ok_and(|status| status.success());
    if !may {
        eprintln!("skipped: network namespaces need root");
    }
    may
}

// ── The command ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_check_changes_nothing_and_leaves_nothing_behind() {
    let site = Site::empty();
    let (_, report) = check(&site, &[]);
    assert_eq!(levels(&report, "io_uring"), ["ok"], "{report}");
    assert_eq!(levels(&report, "configuration"), ["ok"], "{report}");
    assert_eq!(levels(&report, "certificate"), ["note"], "{report}");
    assert_eq!(levels(&report, "users"), ["note"], "{report}");
    assert!(!site.state().exists(), "the state directory is not made");
    assert_eq!(process::files(&site.path("")), Vec::<PathBuf>::new());
}

#[test]
fn a_check_beside_a_running_server_finds_its_ports_in_good_hands_and_does_not_disturb_it() {
    let site = Site::new();
    let server = site.serve(&[]);
    let address = server.starttls.to_string();
    let (_, report) = check(&site, &["--listen", &address]);
    assert_eq!(levels(&report, &format!("--listen {address}")), ["ok"], "{report}");
    assert_eq!(levels(&report, "users"), ["ok"], "{report}");
    server.stop(&site);
}

#[test]
fn a_check_ends_as_the_server_would_that_cannot_start() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (code, report) = check(&Site::empty(), &["--listen", &address]);
    assert_eq!(levels(&report, &format!("--listen {address}")), ["failure"], "{report}");
    assert_eq!(code, 69);

    let site = Site::empty();
    let nonsense = site.write("cert.pem", "nonsense");
    let (code, report) = check(&site, &["--tls-cert", text(&nonsense), "--tls-key", text(&nonsense)]);
    assert_eq!((code, levels(&report, "certificate")), (65, vec!["failure"]), "{report}");

    let site = Site::new();
    site.write("state/users", "ann\n");
    let (code, report) = check(&site, &[]);
    assert_eq!((code, levels(&report, "users")), (65, vec!["failure"]), "{report}");

    let file = site.write("in-the-way", "");
    let (code, report) = check(&Site::empty(), &["--state-dir", text(&file)]);
    assert_eq!((code, levels(&report, "state directory")), (73, vec!["failure"]), "{report}");
}

#[test]
fn a_mistake_in_the_configuration_is_a_finding_with_the_exit_of_the_server() {
    let site = Site::empty();
    let file = site.write("onetrip.toml", "\nspeed = 5\n");
    let (code, report) = check(&site, &["--config", text(&file)]);
    assert_eq!((code, levels(&report, "configuration")), (78, vec!["failure"]), "{report}");
    assert_eq!(levels(&report, "io_uring"), ["ok"], "the host is judged all the same");
    assert_eq!(check(&site, &["--idle-timeout", "soon"]).0, 64);
    assert_eq!(check(&site, &["--config", text(&site.path("missing"))]).0, 66);
}

#[test]
fn an_rsa_key_is_a_warning_because_of_what_it_costs() {
    if Command::new("openssl").arg("version").output().is_err() {
        return eprintln!("skipped: openssl is not installed");
    }
    let site = Site::empty();
    let (certificate, key) = (site.path("cert.pem"), site.path("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", text(&key), "-out", text(&certificate)])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let (_, report) = check(&site, &["--tls-cert", text(&certificate), "--tls-key", text(&key)]);
    assert_eq!(levels(&report, "certificate"), ["ok", "ok", "warning"], "{report}");
    assert!(report.to_string().contains("the key is RSA"), "{report}");
}

#[test]
fn a_profile_that_is_not_there_is_a_mistake_on_the_command_line() {
    let output = onetrip().args(["check", "--profile", "huge"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with("onetrip: invalid value 'huge' for '--profile <NAME>'"), "{line}");
}

#[test]
fn a_kernel_that_gives_no_ring_is_named_by_the_check_and_refused_by_the_server_in_one_line() {
    if !is_there("strace") {
        return eprintln!("skipped: strace is not installed");
    }
    let without_rings = |error: &str, arguments: &[&str]| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject=io_uring_setup:error={error}"), PROGRAM]);
        strace.args(arguments);
        strace
    };
    let site = Site::empty();
    let state = site.state();
    let check = ["check", "--json", "--hostname", HOSTNAME, "--listen", "127.0.0.1:0", "--state-dir", text(&state)];
    for (error, words) in [("EPERM", "seccomp"), ("ENOSYS", "CONFIG_IO_URING"), ("ENOMEM", "LimitMEMLOCK")] {
        let output = without_rings(error, &check).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        let (code, report) = report(&output);
        assert_eq!((code, levels(&report, "io_uring")), (69, vec!["failure"]), "{report}");
        assert!(report.to_string().contains(words), "{report}");
    }
    let serve = ["serve", "--hostname", HOSTNAME, "--listen", "127.0.0.1:0", "--state-dir", text(&state)];
    let (code, line) = process::refusal(without_rings("EPERM", &serve));
    assert_eq!(code, 69, "{line}");
    assert!(line.contains("io_uring cannot be used: Operation not permitted"), "{line}");
}

#[test]
fn a_disk_that_refuses_to_sync_is_a_failure_of_its_directories() {
    if !is_there("strace") {
        return eprintln!("skipped: strace is not installed");
    }
    let site = Site::empty();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", PROGRAM, "check", "--json"]);
    command.args(["--hostname", HOSTNAME, "--listen", "127.0.0.1:0", "--state-dir", text(&site.state())]);
    let (code, report) = report(&command.output().unwrap());
    assert_eq!((code, levels(&report, "state directory")), (74, vec!["failure"]), "{report}");
    assert_eq!(process::files(&site.path("")), Vec::<PathBuf>::new(), "nothing is left behind");
}

#[test]
fn too_little_lockable_memory_is_found_before_the_server_fails_on_it() {
    let site = Site::empty();
    // Root may lock what it likes, so it gives that up first.
    let command = format!("ulimit -l 64; exec {PROGRAM} check --json --hostname {HOSTNAME} --listen 127.0.0.1:0");
    let mut shell = match is_root() {
        true => {
            let mut shell = Command::new("setpriv");
            shell.args(["--bounding-set=-ipc_lock", "bash", "-c", &command]);
            shell
        }
        false => {
            let mut shell = Command::new("bash");
            shell.args(["-c", &command]);
            shell
        }
    };
    let (code, report) = report(&shell.current_dir(site.path("")).output().unwrap());
    assert_eq!((code, levels(&report, "locked memory")), (69, vec!["failure"]), "{report}");
}

#[test]
fn apply_sets_what_a_profile_wants_says_how_to_undo_it_and_checks_again() {
    if !may_unshare() {
        return;
    }
    let site = Site::empty();
    let script = format!(
        "ip link set lo up; cd /proc/sys/net; echo 1 > ipv4/tcp_fastopen; echo 128 > core/somaxconn; echo 2 > ipv4/tcp_syncookies; \
         {PROGRAM} check --hostname {HOSTNAME} --state-dir {state} --listen 127.0.0.1:0 --profile slow-link --apply --json; code=$?; \
         cat ipv4/tcp_fastopen core/somaxconn ipv4/tcp_syncookies ipv4/tcp_migrate_req >&2; exit $code",
        state = site.state().display()
    );
    let output = Command::new("unshare").args(["--net", "bash", "-c", &script]).output().unwrap();
    let set = String::from_utf8_lossy(&output.stderr).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(set, ["3", "4096", "1", "1"], "{output:?}");
    let (_, report) = report(&output);
    for subject in ["fast open", "backlog", "SYN cookies"] {
        assert_eq!(levels(&report, subject), ["ok"], "{report}");
    }
    let applied = report["applied"].as_array().unwrap();
    let somaxconn = applied.iter().find(|change| change["name"] == "net.core.somaxconn").unwrap();
    assert_eq!(
        (somaxconn["before"].as_str(), somaxconn["undo"].as_str()),
        (Some("128"), Some("sysctl -w net.core.somaxconn=128"))
    );
    assert_eq!(applied.iter().filter(|change| change["name"] == "net.ipv4.tcp_fastopen").count(), 1);
}

#[test]
fn apply_without_the_right_to_it_says_so_and_changes_nothing() {
    if !may_unshare() {
        return;
    }
    const READ_ONLY: &str = "ip link set lo up; echo 128 > /proc/sys/net/core/somaxconn; mount --bind -o ro /proc/sys /proc/sys; \
                             mount -o remount,bind,ro /proc/sys;";
    let site = Site::empty();
    let script = format!(
        "{READ_ONLY} exec {PROGRAM} check --hostname {HOSTNAME} --state-dir {} --listen 127.0.0.1:0 --apply --json",
        site.state().display()
    );
    let (code, report) =
        report(&Command::new("unshare").args(["--net", "--mount", "bash", "-c", &script]).output().unwrap());
    assert_eq!(code, 77, "{report}");
    assert!(report["applied"][0]["refused"].is_string() && report["applied"][0]["undo"].is_null(), "{report}");
    assert_eq!(levels(&report, "backlog"), ["warning"], "{report}");
}

// ── The files ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_server_starts_with_the_configuration_of_each_profile() {
    for profile in ["small", "large", "slow-link"] {
        let site = Site::new();
        let file = tuning(&format!("{profile}.toml"));
        // Flags beat the file: ports and directory are those of the site.
        let server = site.serve(&["--config", text(&file), "--metrics", "127.0.0.1:0"]);
        server.stop(&site);
    }
}

/// The unit with another program, as systemd wants one that is there.
fn unit_here(site: &Site) -> PathBuf {
    let unit = fs::read_to_string(tuning("onetrip.service")).unwrap();
    site.write("onetrip.service", unit.replace("/usr/local/bin/onetrip", PROGRAM))
}

#[test]
fn systemd_finds_no_fault_with_the_unit_and_calls_it_well_protected() {
    if !is_there("systemd-analyze") {
        return eprintln!("skipped: systemd-analyze is not installed");
    }
    let site = Site::empty();
    let unit = unit_here(&site);
    let sockets = site.write("onetrip.socket", fs::read_to_string(tuning("onetrip.socket")).unwrap());
    let verified = Command::new("systemd-analyze").arg("verify").args([&unit, &sockets]).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    let of_unit: Vec<&str> = said.lines().filter(|line| line.contains("onetrip.s")).collect();
    assert_eq!(of_unit, Vec::<&str>::new());
    // Of 10, in tenths; 0.5 more than it is today.
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=22"])
        .arg(&unit)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(judged.success(), "its exposure has grown");
}

/// All system calls of a filter such as `@system-service`, with those of the sets that it names.
fn system_calls(set: &str) -> BTreeSet<String> {
    let output = Command::new("systemd-analyze").args(["--no-pager", "syscall-filter", set]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let listed = String::from_utf8(output.stdout).unwrap();
    let words = listed.lines().skip(1).map(str::trim).filter(|word| !word.is_empty() && !word.starts_with('#'));
    words
        .flat_map(|word| if word.starts_with('@') { system_calls(word) } else { BTreeSet::from([word.to_owned()]) })
        .collect()
}

/// What the `SystemCallFilter=` lines of the unit allow, in their order.
fn allowed_system_calls() -> BTreeSet<String> {
    let unit = fs::read_to_string(tuning("onetrip.service")).unwrap();
    let mut allowed = BTreeSet::new();
    for filter in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (denies, words) = filter.strip_prefix('~').map_or((false, filter), |words| (true, words));
        for word in words.split(' ') {
            let calls = if word.starts_with('@') { system_calls(word) } else { BTreeSet::from([word.to_owned()]) };
            for call in calls {
                if denies {
                    allowed.remove(&call)
                } else {
                    allowed.insert(call)
                };
            }
        }
    }
    allowed
}

#[test]
fn the_server_makes_no_system_call_that_the_unit_forbids() {
    if !is_there("systemd-analyze") || !is_there("strace") {
        return eprintln!("skipped: systemd-analyze or strace is not installed");
    }
    let trace = trace_of_a_server();
    let used: BTreeSet<String> = trace.lines().filter_map(system_call_of).collect();
    assert!(used.contains("io_uring_setup") && (used.contains("fdatasync") || used.contains("fsync")), "{used:?}");
    let allowed = allowed_system_calls();
    // The first call is that of strace, before the filter of a unit is in force.
    let forbidden: Vec<&String> = used.iter().filter(|call| !allowed.contains(*call) && *call != "execve").collect();
    assert_eq!(forbidden, Vec::<&String>::new());
    // MemoryDenyWriteExecute=, and RestrictAddressFamilies=.
    let is_forbidden = |line: &&str| {
        let makes_code =
            line.contains("PROT_WRITE|PROT_EXEC") || (line.contains("mprotect(") && line.contains("PROT_EXEC"));
        let is_foreign =
            line.contains("socket(AF_") && !["AF_INET,", "AF_INET6,", "AF_UNIX,"].iter().any(|it| line.contains(it));
        makes_code || is_foreign
    };
    assert_eq!(trace.lines().filter(is_forbidden).collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Every system call of a server that starts, takes a message, and stops.
fn trace_of_a_server() -> String {
    let site = Site::new();
    let trace = site.path("trace");
    let plain = site.command(&["--drain-timeout", "5"]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", text(&trace)]).arg(plain.get_program()).args(plain.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = process::Server::start(command, &site);
    submit(&site, &server.starttls.to_string());
    // The first process in the trace is the server; strace itself ends with it.
    let traced: i32 = fs::read_to_string(&trace).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    // SAFETY: the number is that of a child of our child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(traced, libc::SIGTERM) }, 0);
    assert_eq!(server.ended().code(), Some(0));
    fs::read_to_string(&trace).unwrap()
}

/// `openat` of `4711  openat(AT_FDCWD, …`.
fn system_call_of(line: &str) -> Option<String> {
    let (name, _) = line.split_once(char::is_whitespace)?.1.trim_start().split_once('(')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| name.to_owned())
}

/// Sends one message with onetrip's own client.
fn submit(site: &Site, address: &str) {
    let password = site.write("password", PASSWORD);
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = onetrip();
    command.args(["submit", "--server", address, "--insecure", "--user", USER, "--password-file", text(&password)]);
    command.args(["-f", "ann@example.org", "bob@example.org"]);
    let output = process::run_with_input(&mut command, b"Subject: x\n\nhello\n");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_server_takes_mail_under_the_restrictions_of_the_unit() {
    if !may_unshare() {
        return;
    }
    let site = Site::new();
    let (state, ready) = (site.state(), site.path("log"));
    // As the unit has it: a user of its own with one capability, no new privileges, a file system that is read-only but for
    // the state directory, no devices, limits; and the ports below 1024 of a network of its own.
    let script = format!(
        "set -e; ip link set lo up
         chown -R 65534:65534 {state}; chmod 755 {root}
         mount --bind {state} {state}; mount -o remount,bind,ro /; mount -t tmpfs none /root; mount -t tmpfs none /home
         ulimit -n 4096; ulimit -l 8192; umask 0077
         setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set -all,+net_bind_service \
             --inh-caps -all,+net_bind_service --ambient-caps -all,+net_bind_service \
             {PROGRAM} serve --state-dir {state} --hostname localhost --shards 1 --listen 127.0.0.1:587 --listen-tls 127.0.0.1:465 \
             & server=$!
         until grep -q ' ready ' {log}; do kill -0 $server || exit 1; sleep 0.05; done
         printf 'Subject: x\\n\\nhello\\n' | {PROGRAM} submit --server 127.0.0.1:587 --insecure --user {USER} \
             --password-file {password} -f ann@example.org bob@example.org
         kill $server; wait $server",
        state = state.display(),
        root = site.path("").display(),
        log = ready.display(),
        password = site.write("password", PASSWORD).display(),
    );
    fs::set_permissions(site.path("password"), fs::Permissions::from_mode(0o600)).unwrap();
    // Opened out here, where it can still be written.
    let log = fs::File::create(&ready).unwrap();
    let outside = Path::new(PROGRAM).starts_with("/root") || Path::new(PROGRAM).starts_with("/home");
    let script =
        if outside { script.replace("mount -t tmpfs none /root; mount -t tmpfs none /home", ":") } else { script };
    let output = Command::new("timeout")
        .args([&PATIENCE.as_secs().to_string(), "unshare", "--net", "--mount", "--ipc", "bash", "-c", &script])
        .stderr(log)
        .output()
        .unwrap();
    let log = fs::read_to_string(&ready).unwrap();
    assert!(output.status.success(), "{output:?}\n{log}");
    assert!(site.message("bob@example.org").ends_with(b"\r\nhello\r\n"), "{log}");
}
