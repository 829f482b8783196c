//! Loops, scenarios, links and users.

use std::fs;

use serde_json::Value;

use crate::process::Site;

/// Each scenario, the round trips and the packet of MAIL that it takes with TLS 1.3. The refused login has neither.
const SCENARIOS: [(&str, Option<(u64, u64)>); 15] = [
    ("esmtp", Some((9, 8))),
    ("implicit-tls", Some((6, 5))),
    ("qhlo", Some((8, 7))),
    ("qtls", Some((5, 5))),
    ("basic", Some((4, 4))),
    ("qtls-resumed", Some((4, 4))),
    ("full", Some((3, 3))),
    ("full-resumed", Some((3, 3))),
    ("early-data", Some((2, 2))),
    ("one-trip", Some((1, 1))),
    ("implicit-early-data", Some((2, 2))),
    ("implicit-one-trip", Some((1, 1))),
    ("fallback", Some((4, 4))),
    ("pipeconnect", None),
    ("bad-auth", None),
];

fn scenario<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["scenarios"].as_array().unwrap();
    all.iter().find(|scenario| scenario["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// The one value that all first messages had.
fn only_key(counts: &Value) -> u64 {
    let keys: Vec<_> = counts.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 1, "{counts}");
    keys[0].parse().unwrap()
}

#[test]
fn every_scenario_runs_in_a_closed_loop_and_takes_its_round_trips() {
    let site = Site::new();
    let takes_once = site.greeting().contains("XONCE\r\n");
    for (name, expected) in SCENARIOS {
        // So small that all of it fits a SYN.
        let load = ["--connections", "2", "--count", "4", "--tls", "1.3", "--size", "400"];
        let report = site.report(&[&["--scenario", name][..], &load].concat());
        let row = scenario(&report, name);
        assert_eq!(row["sessions"], 4, "{row}");
        assert_eq!(row["acknowledged"], if name == "bad-auth" { 0 } else { 4 }, "{row}");
        assert_eq!(row["errors"], serde_json::json!({}), "{name}");
        let Some((round_trips, mail_packet)) = expected else { continue };
        let found = (only_key(&row["round_trips"]), only_key(&row["mail_packets"]));
        let sends_early_data = name.ends_with("early-data") || name.ends_with("one-trip");
        // A server that cannot promise to take a message once hears the client's Finished before it takes one.
        let confirmation = u64::from(sends_early_data && !takes_once);
        assert_eq!(found, (round_trips + confirmation, mail_packet), "{name}");
        let resumed = if name.ends_with("-resumed") || sends_early_data { 4 } else { 0 };
        assert_eq!(row["resumed"], resumed, "{name}");
        assert_eq!(row["early_data_accepted"], if sends_early_data { 4 } else { 0 }, "{name}");
        assert_eq!(row["early_data_rejected"], 0, "{name}");
    }
}

#[test]
fn one_client_does_all_sessions_of_a_count_whatever_the_number_of_cores() {
    let report = Site::new().report(&["--scenario", "full", "--connections", "1", "--count", "5"]);
    assert_eq!(report["total"]["acknowledged"], 5);
}

#[test]
fn an_open_loop_over_mixed_links_keeps_its_rate_and_each_link_its_delay() {
    let site = Site::new();
    let mixed = ["--scenario", "full-resumed:3,basic:1", "--link", "lan:2,40±10:1,80:1", "--warm", "0.5"];
    let report = site.report(&[&mixed[..], &["--rate", "100", "--count", "120", "--poisson", "--ramp", "1"]].concat());
    assert_eq!(report["total"]["acknowledged"], 120);
    let times = report["total"]["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == "final-reply");
    let curve = times.unwrap_or_else(|| panic!("{report}"))["curve"].as_array().unwrap();
    // Nobody is faster than three round trips of a millisecond; a quarter needs three of 80 ms and more.
    assert!(curve[0][1].as_u64().unwrap() >= 3_000, "{curve:?}");
    let ninetieth = curve.iter().find(|point| point[0] == 90.0).unwrap();
    assert!(ninetieth[1].as_u64().unwrap() >= 240_000, "{curve:?}");
}

#[test]
fn several_messages_and_recipients_go_over_one_connection() {
    let many = ["--messages", "3", "--recipients", "4", "--think-time", "1", "--size", "1k-9k"];
    let report = Site::new().report(&[&many[..], &["--count", "5", "--connections", "2"]].concat());
    assert_eq!(report["total"]["acknowledged"], 15);
    assert_eq!(report["total"]["connections"], 5);
}

#[test]
fn clients_are_all_of_the_users_and_a_wrong_password_among_them_is_counted_as_an_error() {
    let site = Site::with_users(&[("bob", "secret-of-bob")]);
    let (good, bad) = (site.path("users"), site.path("bad-users"));
    fs::write(&good, "ann secret-of-ann\nbob secret-of-bob\n").unwrap();
    fs::write(&bad, "ann secret-of-ann\nbob wrong\n").unwrap();
    let load = ["--count", "20", "--connections", "2", "--fail-if", "errors>0"];
    let ended = site.run_as(&["--users", &good], &load);
    assert_eq!(ended.code, 0, "{ended:?}");
    let ended = site.run_as(&["--users", &bad], &load);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.out.contains("login refused: 535"), "{}", ended.out);
}

#[test]
fn a_session_of_several_messages_ends_at_its_first_refusal_and_counts_one_error() {
    let site = Site::new();
    let ended = site.run(&["--size", "2m", "--messages", "3", "--count", "4"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let errors: Vec<_> = ended.out.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].ends_with(": 4"), "{errors:?}");
}
