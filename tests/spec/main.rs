//! Holds the server and the client to the duties of the draft and of the RFCs: tables in words, one for each document,
//! say which code fulfils a duty and which test shows it, and this checks that the tables are true.
//!
//! How to read and to write a table is told in `tests/spec/README.md`. What no other test shows yet is shown in `wire.rs`.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod page;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod tree;
mod wire;

use std::fs;

use table::{Document, Duty, Standing};
use tree::Tree;

/// Shortest reason in bytes: less is a word, and explains nothing.
const REASON_BYTES_MIN: usize = 30;

/// What is wrong with one duty, in words; nothing if it is in order.
fn faults(duty: &Duty, tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    let kept = matches!(duty.standing, Standing::Kept | Standing::InPart(_));
    if kept && duty.code.is_empty() {
        faults.push(format!("{}: no code fulfils it", duty.id));
    }
    if kept && duty.tests.is_empty() {
        faults.push(format!("{}: no test shows it", duty.id));
    }
    if let Some(reason) = duty.standing.reason()
        && reason.len() < REASON_BYTES_MIN
    {
        faults.push(format!("{}: {reason:?} is no reason", duty.id));
    }
    for place in &duty.code {
        if !tree.defines(&place.file, &place.item) {
            faults.push(format!("{}: {} has no {}", duty.id, place.file, place.item));
        }
    }
    for test in duty.tests.iter().filter(|test| !tree.has_test(test)) {
        faults.push(format!("{}: there is no test {test}", duty.id));
    }
    faults
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_duty_has_code_and_a_test_that_exist_or_says_why_not() {
    let tree = Tree::read();
    let documents = Document::read_all();
    let faults: Vec<String> =
        documents.iter().flat_map(|document| &document.duties).flat_map(|duty| faults(duty, &tree)).collect();
    assert_none(&faults);
}

#[test]
fn no_two_duties_share_an_id_and_none_is_left_out() {
    for document in Document::read_all() {
        let mut next = std::collections::HashMap::new();
        for duty in &document.duties {
            let number = next.entry(duty.section.clone()).or_insert(1);
            assert_eq!(duty.number, *number, "{}: the next of its section has the number {number}", duty.id);
            *number += 1;
        }
    }
}

#[test]
fn the_documents_that_the_server_stands_on_have_a_table_each() {
    let names: Vec<String> = Document::read_all().into_iter().map(|document| document.name).collect();
    for name in [
        "quickstart",
        "rfc1870",
        "rfc2034",
        "rfc2920",
        "rfc3030",
        "rfc3207",
        "rfc3461",
        "rfc4616",
        "rfc4954",
        "rfc5321",
        "rfc6152",
        "rfc6409",
        "rfc6531",
        "rfc8314",
        "rfc8446",
        "rfc8689",
        "rfc9422",
    ] {
        assert!(names.iter().any(|known| known == name), "tests/spec/{name}.txt is not there");
    }
}

#[test]
fn the_page_in_the_manual_says_what_the_tables_say() {
    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/coverage.md");
    let page = page::page(&Document::read_all());
    if std::env::var_os("ONETRIP_BLESS").is_some() {
        fs::write(PATH, &page).unwrap();
    }
    let committed = fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        committed == page,
        "src/manual/coverage.md is out of date: run `ONETRIP_BLESS=1 cargo test --test spec the_page`"
    );
}

// ── The checks themselves ───────────────────────────────────────────────────────────────────────────────────────────

fn one_duty(lines: &str) -> Duty {
    let text = format!("# A document\nids: Q\n\nQ9.1 MUST\n  Somebody does something.\n{lines}");
    Document::parse("quickstart", &text).duties.remove(0)
}

#[test]
fn a_duty_without_code_or_test_is_found() {
    let tree = Tree::read();
    let code = "  code: src/proto/server/gate.rs gate\n";
    let test = "  test: the_gate_is_as_the_snapshot_has_it\n";
    assert_eq!(faults(&one_duty(&format!("{code}{test}")), &tree), [""; 0]);
    assert_eq!(faults(&one_duty(code), &tree), ["Q9.1: no test shows it"]);
    assert_eq!(faults(&one_duty(test), &tree), ["Q9.1: no code fulfils it"]);
    assert_eq!(faults(&one_duty(&format!("  in part: {}\n{code}", "why ".repeat(9))), &tree).len(), 1);
    assert_eq!(faults(&one_duty(&format!("  not kept: {}\n", "why ".repeat(9))), &tree), [""; 0]);
    assert_eq!(faults(&one_duty("  not kept: because\n"), &tree), ["Q9.1: \"because\" is no reason"]);
}

#[test]
fn code_and_tests_that_are_not_there_are_found() {
    let tree = Tree::read();
    for code in ["src/proto/server/gate.rs no_such_function", "src/nowhere.rs gate"] {
        let duty = one_duty(&format!("  code: {code}\n  test: the_gate_is_as_the_snapshot_has_it\n"));
        assert_eq!(faults(&duty, &tree).len(), 1, "{code}");
    }
    // A function that is no test, a test that is not there, and a dialog that is not there.
    for test in ["one_duty", "a_test_that_nobody_wrote", "nobody-wrote-this.txt"] {
        let duty = one_duty(&format!("  code: src/proto/server/gate.rs gate\n  test: {test}\n"));
        assert_eq!(faults(&duty, &tree), [format!("Q9.1: there is no test {test}")]);
    }
}
