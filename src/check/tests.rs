//! What is made of facts that are made up here: each finding, its level, its remedy, and what a good host is told.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::facts::{
    AddressFacts, CertificateFacts, CertificateFound, ClockState, FastOpenTrial, HostFacts, Mount, PlaceFacts, Refused,
    Role, Room, SiteFacts, Sysctls, UsersFacts, UsersFound, WriteTrial,
};
use super::{ConfigurationFault, Finding, Level, Report, Site, judge};
use crate::config::{Config, ConfigFile, Flags, Host};
use crate::exit::Exit;
use crate::time::Now;
use crate::tls::certificate::{Certificate, SelfSigned};

const NOW: Now = Now::simulated_ms(0);
const USER: u32 = 990;

fn system(cores: usize) -> Host {
    Host { name: "mail.example.org".to_owned(), cores: (0..cores).collect() }
}

/// A configuration from flags, on a host of two cores.
pub(super) fn config(flags: &[(&str, &str)]) -> Config {
    Config::resolve(&Flags::of(flags), None, &system(2)).unwrap()
}

/// A configuration from the text of a file.
pub(super) fn config_of_file(text: &str, cores: usize) -> Config {
    let file = ConfigFile { path: Path::new("onetrip.toml"), text };
    Config::resolve(&Flags::default(), Some(file), &system(cores)).unwrap_or_else(|error| panic!("{error}"))
}

fn sysctls() -> Sysctls {
    let good = [
        ("kernel.io_uring_disabled", "0"),
        ("fs.nr_open", "1048576"),
        ("net.ipv4.tcp_fastopen", "3"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.tcp_migrate_req", "1"),
        ("net.ipv4.tcp_mtu_probing", "1"),
        ("net.ipv4.tcp_rmem", "4096 1048576 6291456"),
        ("net.core.somaxconn", "65535"),
        ("net.ipv4.ip_unprivileged_port_start", "1024"),
        ("net.ipv4.ip_local_port_range", "32768 60999"),
        ("net.ipv4.ip_local_reserved_ports", ""),
    ];
    Sysctls::new(good.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

/// A host that nothing is to be said against.
pub(super) fn good_host() -> HostFacts {
    HostFacts {
        kernel_release: Some("6.12.9-amd64".to_owned()),
        ring: Ok(()),
        executor: Ok(()),
        locked_memory: Some(64 << 20),
        open_files: Some(1 << 20),
        memory: Some(16 << 30),
        sysctls: sysctls(),
        fast_open: FastOpenTrial::Carried,
        clock: ClockState::Synchronized,
    }
}

fn good_place() -> PlaceFacts {
    PlaceFacts {
        role: Role::State,
        path: PathBuf::from("/var/lib/onetrip"),
        nearest: PathBuf::from("/var/lib/onetrip"),
        owner: USER,
        mode: 0o700,
        device: 1,
        mount: Some(Mount { kind: "ext4".to_owned(), options: vec!["rw".to_owned()] }),
        room: Some(Room { bytes_free: 100 << 30, files_free: 1 << 24, files_total: 1 << 25 }),
        trial: Ok(WriteTrial { syncs: vec![Duration::from_micros(900); 9], directory_sync: Ok(()) }),
    }
}

fn certificate(name: &str, now: Now) -> CertificateFound {
    let made = SelfSigned::new(name, now).unwrap();
    let certificate = Certificate::from_pem(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
    CertificateFound::Loaded { certificate, key_file: PathBuf::from("key.pem"), key_mode: 0o600 }
}

fn good_site() -> SiteFacts {
    SiteFacts {
        user: USER,
        server: None,
        addresses: vec![address("0.0.0.0:587", Ok(()))],
        places: vec![good_place()],
        certificates: vec![CertificateFacts {
            file: PathBuf::from("cert.pem"),
            is_own: false,
            found: certificate("mail.example.org", NOW),
        }],
        users: UsersFacts { file: PathBuf::from("users"), found: UsersFound::Loaded { users: 3, mode: 0o600 } },
    }
}

fn address(address: &str, bind: Result<(), Refused>) -> AddressFacts {
    AddressFacts { flag: "listen", address: address.parse().unwrap(), bind }
}

fn refused(kind: ErrorKind) -> Refused {
    Refused { kind, text: "refused".to_owned() }
}

/// What a check of a good host says once one fact of it is changed.
fn host_with(change: impl FnOnce(&mut HostFacts)) -> Report {
    let mut host = good_host();
    change(&mut host);
    judge(NOW, &host, Site::Configured { config: &config(&[]), facts: &good_site() }, None)
}

fn site_with(flags: &[(&str, &str)], change: impl FnOnce(&mut SiteFacts)) -> Report {
    let mut facts = good_site();
    change(&mut facts);
    judge(NOW, &good_host(), Site::Configured { config: &config(flags), facts: &facts }, None)
}

fn place_with(change: impl FnOnce(&mut PlaceFacts)) -> Report {
    site_with(&[], |site| change(&mut site.places[0]))
}

/// The only finding that is not ok.
fn the_finding(report: &Report) -> &Finding {
    let found: Vec<&Finding> = report.findings().iter().filter(|finding| finding.level != Level::Ok).collect();
    let [finding] = found[..] else { panic!("{found:#?}") };
    finding
}

/// The only finding that is not ok has this subject, this level and, in its remedy, these words.
fn assert_only(report: &Report, subject: &str, level: &str, remedy: &str) {
    let finding = the_finding(report);
    assert_eq!((finding.subject.as_str(), finding.level.name()), (subject, level), "{finding:?}");
    let text = finding.remedy.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(text.contains(remedy), "{finding:?}");
}

// ── The host ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_good_host_is_told_that_all_is_well_and_the_check_ends_with_success() {
    let report = host_with(|_| {});
    assert!(report.findings().iter().all(|finding| finding.level == Level::Ok), "{report}");
    assert_eq!(report.exit(), Exit::Success);
    assert!(report.changes().is_empty());
}

#[test]
fn an_old_kernel_is_a_failure_and_an_unreadable_version_is_not() {
    assert_only(&host_with(|host| host.kernel_release = Some("5.7.19".to_owned())), "kernel", "failure", "5.8");
    assert_only(&host_with(|host| host.kernel_release = Some("plan9".to_owned())), "kernel", "note", "");
    assert_only(&host_with(|host| host.kernel_release = None), "kernel", "note", "uname");
    assert_eq!(host_with(|host| host.kernel_release = Some("5.8".to_owned())).exit(), Exit::Success);
}

#[test]
fn a_ring_that_cannot_be_had_is_a_failure_that_names_what_forbids_it() {
    let forbidden = |disabled: &str, kind| {
        host_with(|host| {
            host.ring = Err(refused(kind));
            host.executor = Err(refused(ErrorKind::Other));
            host.sysctls.set("kernel.io_uring_disabled", disabled);
        })
    };
    for (disabled, kind, remedy) in [
        ("2", ErrorKind::PermissionDenied, "sysctl -w kernel.io_uring_disabled=0"),
        ("1", ErrorKind::PermissionDenied, "kernel.io_uring_group"),
        ("0", ErrorKind::PermissionDenied, "seccomp"),
        ("0", ErrorKind::Unsupported, "CONFIG_IO_URING"),
        ("0", ErrorKind::OutOfMemory, "LimitMEMLOCK"),
        ("0", ErrorKind::InvalidInput, "dmesg"),
    ] {
        let report = forbidden(disabled, kind);
        assert_only(&report, "io_uring", "failure", remedy);
        assert_eq!(report.exit(), Exit::Unavailable);
    }
}

#[test]
fn an_executor_that_does_not_start_is_a_failure_although_a_ring_can_be_had() {
    let report = host_with(|host| host.executor = Err(refused(ErrorKind::Other)));
    assert_only(&report, "io_uring", "failure", "LimitMEMLOCK");
}

#[test]
fn a_ring_that_only_the_privileged_may_have_is_worth_a_note() {
    let report = host_with(|host| host.sysctls.set("kernel.io_uring_disabled", "1"));
    assert_only(&report, "io_uring", "note", "as the user");
}

#[test]
fn too_little_lockable_memory_is_a_failure_and_no_limit_is_fine() {
    assert_only(
        &host_with(|host| host.locked_memory = Some((512 << 10) - 1)),
        "locked memory",
        "failure",
        "LimitMEMLOCK",
    );
    assert_eq!(host_with(|host| host.locked_memory = Some(512 << 10)).exit(), Exit::Success);
    assert!(host_with(|host| host.locked_memory = None).findings().iter().all(|finding| finding.level == Level::Ok));
}

#[test]
fn a_limit_on_open_files_that_cuts_connections_is_told_with_the_number_that_is_needed() {
    assert_only(&host_with(|host| host.open_files = Some(20_000)), "open files", "note", "LimitNOFILE=100456");
    assert_only(&host_with(|host| host.open_files = Some(1_024)), "open files", "warning", "--connections-max");
    assert!(host_with(|host| host.open_files = None).findings().iter().all(|finding| finding.level == Level::Ok));
    let beyond = host_with(|host| {
        host.open_files = Some(1_024);
        host.sysctls.set("fs.nr_open", "4096");
    });
    assert_only(&beyond, "open files", "warning", "sysctl -w fs.nr_open=100456, then");
}

#[test]
fn memory_that_a_full_server_would_exceed_is_a_warning_with_a_value_that_fits() {
    let report = host_with(|host| host.memory = Some(2 << 30));
    let finding = the_finding(&report);
    assert_eq!((finding.subject.as_str(), finding.level), ("memory", Level::Warning));
    assert_eq!(finding.remedy.as_ref().unwrap().to_string().split(',').next(), Some("--message-memory 50M"));
    assert!(host_with(|host| host.memory = None).findings().iter().all(|finding| finding.level == Level::Ok));
}

#[test]
fn a_clock_on_its_own_is_a_warning() {
    assert_only(&host_with(|host| host.clock = ClockState::Unsynchronized), "clock", "warning", "timedatectl");
    assert_only(&host_with(|host| host.clock = ClockState::Unknown), "clock", "note", "");
}

// ── The network ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn fast_open_that_the_kernel_allows_to_clients_only_is_a_warning_that_apply_mends() {
    let report = host_with(|host| {
        host.sysctls.set("net.ipv4.tcp_fastopen", "1");
        host.fast_open = FastOpenTrial::NotCarried;
    });
    assert_only(&report, "fast open", "warning", "sysctl -w net.ipv4.tcp_fastopen=3");
    assert_eq!(report.changes()[0].value, "3");
    assert_eq!(report.exit(), Exit::Success);
}

#[test]
fn fast_open_that_does_not_happen_although_it_is_allowed_is_told() {
    assert_only(&host_with(|host| host.fast_open = FastOpenTrial::NotCarried), "fast open", "note", "filters");
    let unknown = host_with(|host| host.fast_open = FastOpenTrial::Unknown("no loopback".to_owned()));
    assert_eq!(unknown.exit(), Exit::Success);
}

#[test]
fn cookies_for_everybody_rule_fast_open_out() {
    let report = host_with(|host| {
        host.sysctls.set("net.ipv4.tcp_syncookies", "2");
        host.fast_open = FastOpenTrial::NotCarried;
    });
    let told: Vec<&str> = report
        .findings()
        .iter()
        .filter(|finding| finding.level == Level::Warning)
        .map(|finding| finding.subject.as_str())
        .collect();
    assert_eq!(told, ["fast open", "SYN cookies"]);
    assert_eq!(report.changes().len(), 1, "one setting mends both");
}

#[test]
fn a_kernel_that_refuses_the_option_would_refuse_the_server_unless_it_does_not_ask() {
    let cannot = |host: &mut HostFacts| host.fast_open = FastOpenTrial::OptionRefused(refused(ErrorKind::InvalidInput));
    assert_only(&host_with(cannot), "fast open", "failure", "--fast-open 0");
    let mut host = good_host();
    cannot(&mut host);
    let config = config(&[("fast-open", "0")]);
    let report = judge(NOW, &host, Site::Configured { config: &config, facts: &good_site() }, None);
    assert_only(&report, "fast open", "note", "");
}

#[test]
fn a_backlog_that_the_kernel_cuts_is_a_warning() {
    let report = host_with(|host| host.sysctls.set("net.core.somaxconn", "128"));
    assert_only(&report, "backlog", "warning", "sysctl -w net.core.somaxconn=4096");
}

#[test]
fn no_syn_cookies_is_a_warning() {
    let report = host_with(|host| host.sysctls.set("net.ipv4.tcp_syncookies", "0"));
    assert_only(&report, "SYN cookies", "warning", "sysctl -w net.ipv4.tcp_syncookies=1");
}

#[test]
fn an_address_that_cannot_be_listened_on_is_a_failure_with_the_exit_of_the_server() {
    for (kind, exit, remedy) in [
        (ErrorKind::AddrInUse, Exit::Unavailable, "ss -ltnp 'sport = :587'"),
        (ErrorKind::AddrNotAvailable, Exit::Unavailable, "ip address"),
        (ErrorKind::PermissionDenied, Exit::NoPermission, "AmbientCapabilities=CAP_NET_BIND_SERVICE"),
        (ErrorKind::InvalidInput, Exit::System, "--listen"),
    ] {
        let report = site_with(&[], |site| site.addresses = vec![address("192.0.2.1:587", Err(refused(kind)))]);
        assert_only(&report, "--listen 192.0.2.1:587", "failure", remedy);
        assert_eq!(report.exit(), exit);
    }
}

#[test]
fn an_address_that_our_own_server_listens_on_is_as_it_should_be() {
    let report = site_with(&[], |site| {
        site.server = Some(4_711);
        site.addresses = vec![address("127.0.0.1:587", Err(refused(ErrorKind::AddrInUse)))];
    });
    assert_eq!(report.exit(), Exit::Success);
    assert!(report.to_string().contains("process 4711 serves from this state directory"), "{report}");
}

#[test]
fn a_port_that_the_kernel_may_lend_out_is_to_be_kept_back_with_those_that_are_already() {
    let check = |reserved: &str, port: &str| {
        let mut host = good_host();
        host.sysctls.set("net.ipv4.ip_local_reserved_ports", reserved);
        let mut facts = good_site();
        facts.addresses = vec![address(&format!("127.0.0.1:{port}"), Ok(()))];
        judge(NOW, &host, Site::Configured { config: &config(&[]), facts: &facts }, None)
    };
    let subject = "--listen 127.0.0.1:40000";
    assert_only(&check("", "40000"), subject, "warning", "ip_local_reserved_ports=40000");
    assert_only(
        &check("8080,50000-50010", "40000"),
        subject,
        "warning",
        "ip_local_reserved_ports=8080,50000-50010,40000",
    );
    for (reserved, port) in [("40000", "40000"), ("8080,39000-41000", "40000"), ("", "587"), ("", "0")] {
        assert!(check(reserved, port).findings().iter().all(|finding| finding.level == Level::Ok), "{reserved} {port}");
    }
}

// ── Directories ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_directory_that_cannot_be_written_is_a_failure_that_names_the_way_out() {
    for (kind, exit, remedy) in [
        (ErrorKind::PermissionDenied, Exit::NoPermission, "chown"),
        (ErrorKind::ReadOnlyFilesystem, Exit::CannotCreate, "ReadWritePaths="),
        (ErrorKind::StorageFull, Exit::Io, "df -h"),
        (ErrorKind::NotADirectory, Exit::CannotCreate, "out of the way"),
        (ErrorKind::Other, Exit::Io, "--state-dir"),
    ] {
        let report = place_with(|place| place.trial = Err(refused(kind)));
        assert_only(&report, "state directory", "failure", remedy);
        assert_eq!(report.exit(), exit);
    }
}

#[test]
fn a_directory_that_belongs_to_another_user_is_worth_a_note() {
    assert_only(&place_with(|place| place.owner = 0), "state directory", "note", "setpriv --reuid 0");
}

#[test]
fn a_state_directory_that_others_may_read_is_a_warning_and_one_that_they_may_write_a_failure() {
    assert_only(&place_with(|place| place.mode = 0o755), "state directory", "warning", "chmod 700");
    assert_only(&place_with(|place| place.mode = 0o777), "state directory", "failure", "chmod 700");
    assert_eq!(place_with(|place| place.mode = 0o750).exit(), Exit::Success);
    let not_there = place_with(|place| (place.mode, place.nearest) = (0o777, PathBuf::from("/var/lib")));
    assert!(
        not_there.findings().iter().all(|finding| finding.level == Level::Ok),
        "the one above is not ours to judge"
    );
}

#[test]
fn little_room_is_a_warning_and_next_to_none_a_failure() {
    let room = |bytes_free, files_free, files_total| Room { bytes_free, files_free, files_total };
    let subject = "room of the state directory";
    assert_only(&place_with(|place| place.room = Some(room(99 << 20, 1 << 24, 1 << 25))), subject, "failure", "df -h");
    assert_only(&place_with(|place| place.room = Some(room(900 << 20, 1 << 24, 1 << 25))), subject, "warning", "df -h");
    assert_only(&place_with(|place| place.room = Some(room(9 << 30, 5, 1 << 25))), subject, "warning", "df -i");
    let uncounted = place_with(|place| place.room = Some(room(9 << 30, 0, 0)));
    assert!(uncounted.findings().iter().all(|finding| finding.level == Level::Ok), "some file systems count no files");
}

#[test]
fn a_file_system_that_keeps_nothing_breaks_the_promise_of_sync_commit() {
    let on = |kind: &str, options: &[&str], flags: &[(&str, &str)]| {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        site_with(flags, |site| site.places[0].mount = Some(Mount { kind: kind.to_owned(), options }))
    };
    let subject = "file system of the state directory";
    let report = on("tmpfs", &[], &[]);
    assert_only(&report, subject, "failure", "local disk");
    assert_eq!(report.exit(), Exit::Config);
    assert_only(&on("tmpfs", &[], &[("sync", "none")]), subject, "warning", "local disk");
    assert_only(&on("overlay", &[], &[]), subject, "warning", "volume");
    for kind in ["nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs"] {
        assert_only(&on(kind, &[], &[]), subject, "warning", "--state-dir");
    }
    assert_only(&on("ext4", &["rw", "nobarrier"], &[]), subject, "warning", "without that option");
    assert_eq!(on("xfs", &["rw"], &[]).exit(), Exit::Success);
}

#[test]
fn a_file_system_that_two_directories_share_is_told_of_once() {
    let with_mail_on = |device| {
        let report = site_with(&[], |site| {
            let mount = Some(Mount { kind: "nfs4".to_owned(), options: Vec::new() });
            site.places.push(PlaceFacts { role: Role::Mail, device, mount, ..good_place() });
        });
        report.findings().iter().filter(|finding| finding.subject == "file system of the mail directory").count()
    };
    assert_eq!((with_mail_on(1), with_mail_on(2)), (0, 1));
}

#[test]
fn a_slow_sync_is_a_warning_and_one_too_fast_a_note() {
    let taking =
        |micros| place_with(|place| place.trial.as_mut().unwrap().syncs = vec![Duration::from_micros(micros); 9]);
    assert_only(&taking(90_000), "sync in the state directory", "warning", "write cache");
    assert_only(&taking(20), "sync in the state directory", "note", "");
    let one_slow = place_with(|place| place.trial.as_mut().unwrap().syncs[0] = Duration::from_secs(1));
    assert_eq!(one_slow.exit(), Exit::Success);
    assert!(one_slow.findings().iter().all(|finding| finding.level == Level::Ok), "the median counts");
}

#[test]
fn a_directory_that_cannot_be_synced_is_a_failure_unless_nothing_is_promised() {
    let cannot = |site: &mut SiteFacts| {
        site.places[0].trial.as_mut().unwrap().directory_sync = Err(refused(ErrorKind::InvalidInput));
    };
    assert_only(&site_with(&[], cannot), "sync in the state directory", "failure", "local disk");
    assert_eq!(site_with(&[("sync", "none")], cannot).exit(), Exit::Success);
}

// ── Certificates, users, configuration ──────────────────────────────────────────────────────────────────────────────

fn certificate_with(change: impl FnOnce(&mut CertificateFacts)) -> Report {
    site_with(&[], |site| change(&mut site.certificates[0]))
}

#[test]
fn a_certificate_for_another_name_is_a_warning_unless_it_is_one_of_several() {
    let other = certificate("other.example.org", NOW);
    assert_only(&certificate_with(|facts| facts.found = other.clone()), "certificate", "warning", "--hostname");
    let second = site_with(&[], |site| {
        site.certificates.push(CertificateFacts { file: PathBuf::from("2.pem"), is_own: false, found: other });
    });
    assert!(second.findings().iter().all(|finding| finding.level == Level::Ok), "{second}");
}

#[test]
fn a_wildcard_stands_for_one_label() {
    let with = |name: &str| {
        let found = certificate(name, NOW);
        certificate_with(|facts| facts.found = found).findings().iter().all(|finding| finding.level == Level::Ok)
    };
    assert!(with("*.example.org") && with("MAIL.example.org"));
    assert!(!with("*.org") && !with("example.org"));
}

#[test]
fn a_certificate_that_has_ended_is_a_failure_and_one_that_ends_soon_a_warning() {
    let life = crate::limits::TLS_SELF_SIGNED_LIFETIME;
    let made_before = |age: Duration| {
        let then = Now { unix: NOW.unix.saturating_sub(age), ..NOW };
        certificate_with(|facts| facts.found = certificate("mail.example.org", then))
    };
    assert_only(&made_before(life + Duration::from_secs(60)), "certificate", "failure", "reload");
    assert_only(&made_before(life.saturating_sub(Duration::from_secs(3_600))), "certificate", "warning", "reload");
    let later = Now { unix: NOW.unix + Duration::from_secs(10 * 86_400), ..NOW };
    let early = certificate_with(|facts| facts.found = certificate("mail.example.org", later));
    assert_only(&early, "certificate", "failure", "timedatectl");
}

#[test]
fn a_key_that_every_user_can_read_is_a_warning() {
    let report = certificate_with(|facts| {
        let CertificateFound::Loaded { key_mode, .. } = &mut facts.found else { panic!("it is loaded") };
        *key_mode = 0o644;
    });
    assert_only(&report, "certificate", "warning", "chmod o= key.pem");
}

#[test]
fn a_certificate_that_cannot_be_used_ends_the_check_as_it_ends_the_server() {
    let report = certificate_with(|facts| {
        facts.found = CertificateFound::Refused { text: "key.pem: does not match".to_owned(), exit: Exit::Data };
    });
    assert_only(&report, "certificate", "failure", "");
    assert_eq!(report.exit(), Exit::Data);
}

#[test]
fn a_certificate_of_our_own_making_is_worth_a_note() {
    assert_only(&certificate_with(|facts| facts.is_own = true), "certificate", "note", "--tls-cert");
    assert_only(
        &certificate_with(|facts| facts.found = CertificateFound::NotMadeYet),
        "certificate",
        "note",
        "--tls-cert",
    );
}

#[test]
fn users_that_are_missing_open_or_damaged_are_told() {
    let with = |found| site_with(&[], |site| site.users.found = found);
    assert_only(&with(UsersFound::Missing), "users", "note", "onetrip user add");
    assert_only(&with(UsersFound::Loaded { users: 0, mode: 0o600 }), "users", "note", "onetrip user add");
    assert_only(&with(UsersFound::Loaded { users: 3, mode: 0o644 }), "users", "warning", "chmod o= users");
    let damaged = with(UsersFound::Refused { text: "users, line 3: no hash".to_owned(), exit: Exit::Data });
    assert_only(&damaged, "users", "failure", "");
    assert_eq!(damaged.exit(), Exit::Data);
}

#[test]
fn a_configuration_that_is_refused_is_a_failure_and_the_host_is_judged_all_the_same() {
    let fault =
        ConfigurationFault { text: "onetrip.toml:3: speed: there is no such key".to_owned(), exit: Exit::Config };
    let mut host = good_host();
    host.sysctls.set("net.ipv4.tcp_fastopen", "0");
    let report = judge(NOW, &host, Site::Refused(&fault), None);
    assert_eq!(report.exit(), Exit::Config);
    let levels: Vec<(&str, &str)> = report
        .findings()
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|finding| (finding.subject.as_str(), finding.level.name()))
        .collect();
    assert_eq!(levels, [("fast open", "warning"), ("configuration", "failure")]);
}
