//! Holds the manual and the README against the tree: what they name exists, and what they count is so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The README and every page, with their paths.
fn pages() -> Vec<(String, String)> {
    let mut paths = vec!["README.md".to_owned(), "tests/dialogs/README.md".to_owned(), "tuning/README.md".to_owned()];
    for entry in fs::read_dir(root().join("src/manual")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            paths.push(format!("src/manual/{name}"));
        }
    }
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// Everything that stands between backquotes on one line, outside of blocks of code.
fn quoted(page: &str) -> Vec<String> {
    let mut in_block = false;
    let mut quoted = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            quoted.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    quoted
}

fn all_code() -> String {
    let mut code = String::new();
    for directory in ["src", "tests"] {
        collect(&root().join(directory), &mut code);
    }
    code
}

fn collect(directory: &Path, code: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut faults = Vec::new();
    for (page, text) in pages() {
        for word in quoted(&text) {
            let is_path = ["src/", "tests/", ".ci/", "loadgen/", "tuning/", "benches/", "./.ci/"];
            let is_path = is_path.iter().any(|start| word.starts_with(start)) && !word.contains(' ');
            let is_dialog = word.ends_with(".txt") && !word.starts_with('.') && !word.contains(['/', '*', ' ']);
            let path = if is_dialog { format!("tests/dialogs/{word}") } else { word.clone() };
            if (is_path || is_dialog) && !root().join(&path).exists() {
                faults.push(format!("{page} names {word}, which is not there"));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_test_that_a_page_names_exists() {
    let code = all_code();
    let mut faults = Vec::new();
    for (page, text) in pages() {
        for word in quoted(&text) {
            // Only a test has so long a name: a sentence.
            let is_sentence = word.matches('_').count() >= 4
                && word.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b));
            if is_sentence && !word.starts_with("onetrip_") && !code.contains(&format!("fn {word}()")) {
                faults.push(format!("{page} names the test {word}, which is not there"));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_page_is_part_of_the_manual() {
    let face = read("src/manual/mod.rs");
    for (page, _) in pages().iter().filter(|(page, _)| page.starts_with("src/manual/")) {
        let name = page.trim_start_matches("src/manual/");
        assert!(face.contains(&format!("include_str!(\"{name}\")")), "{page}");
        assert!(face.contains(&format!("pub mod {} {{}}", name.trim_end_matches(".md"))), "{page}");
    }
}

// ── Dependencies ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Names of the tables of dependencies in a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut wanted = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            wanted = line.trim_end().ends_with("dependencies]");
        } else if wanted && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap();
            names.insert(line[..end].to_owned());
        }
    }
    names
}

/// What the first column of the page's tables names.
fn explained(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_dependency_is_explained_and_nothing_else_is() {
    let mut named = dependencies(&read("Cargo.toml"));
    named.extend(dependencies(&read("loadgen/Cargo.toml")));
    let explained = explained(&read("src/manual/dependencies.md"));
    let missing: Vec<_> = named.difference(&explained).collect();
    let superfluous: Vec<_> = explained.difference(&named).collect();
    assert!(missing.is_empty() && superfluous.is_empty(), "without a row: {missing:?}; not used: {superfluous:?}");
}

#[test]
fn the_tables_of_dependencies_are_read_whole() {
    let manifest = "[package]\nname = \"a\"\n[dependencies]\n# b\nc.workspace = true\n[dev-dependencies]\nd = \"1\"\n";
    assert_eq!(dependencies(manifest).into_iter().collect::<Vec<_>>(), ["c", "d"]);
    assert_eq!(explained("| crate |\n|---|\n| `c` | x |\n").into_iter().collect::<Vec<_>>(), ["c"]);
}

// ── Round trips ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a dialog comes to with one version of TLS.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    /// The client's packet that carries MAIL.
    mail: u32,
    /// Packets of the client up to the one that ends the message: each of them waits for an answer.
    round_trips: u32,
}

fn counts(dialog: &str, version: &str) -> Counts {
    let (mut packet, mut counts) = (0, Counts { mail: 0, round_trips: 0 });
    let mut of_client = false;
    for line in dialog.lines() {
        let line = match line.split_once("| ").filter(|(before, _)| ["1.2", "1.3"].contains(before)) {
            Some((other, _)) if other != version => continue,
            Some((_, line)) => line,
            None => line,
        };
        let begins = line.get(..2).filter(|side| ["C:", "S:"].contains(side));
        if let Some(side) = begins {
            of_client = side == "C:";
            packet += u32::from(of_client);
        }
        let words = line.get(3..).unwrap_or_default();
        let words = words.strip_prefix("SMTP ").unwrap_or(words);
        if of_client && words.starts_with("MAIL FROM:") && counts.mail == 0 {
            counts.mail = packet;
        }
        if of_client && words.starts_with('|') {
            counts.round_trips = packet;
        }
    }
    counts
}

/// Rows of a page that end with a dialog's name: four numbers, and the dialog.
fn round_trip_rows(page: &str) -> Vec<([u32; 4], String)> {
    let mut rows = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| ") && line.ends_with(".txt` |")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [_, a, b, c, d, dialog] = cells[..] {
            let numbers = [a, b, c, d].map(|cell| cell.parse().unwrap());
            rows.push((numbers, dialog.trim_matches('`').to_owned()));
        }
    }
    rows
}

#[test]
fn the_round_trips_on_the_page_are_those_of_the_dialogs() {
    let rows = round_trip_rows(&read("src/manual/quickstart.md"));
    assert!(rows.len() >= 6);
    for (row, dialog) in rows {
        let text = read(&format!("tests/dialogs/{dialog}"));
        let (old, new) = (counts(&text, "1.2"), counts(&text, "1.3"));
        assert_eq!(row, [old.mail, new.mail, old.round_trips, new.round_trips], "{dialog}");
    }
}

#[test]
fn the_table_that_readme_opens_with_is_what_was_measured() {
    let readme = read("README.md");
    let measured = read("benches/results/2026-11-22-compare-one-trip.txt");
    let table = readme.lines().skip_while(|line| !line.starts_with("| client | MAIL in packet"));
    let rows: Vec<&str> = table.skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 12);
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let is_there = |line: &str| cells[1..].iter().all(|cell| line.contains(&format!("{cell} |")));
        assert!(measured.lines().any(is_there), "{row}");
    }
}

#[test]
fn what_other_servers_cost_is_what_was_measured() {
    let measured = read("benches/results/2026-11-30-others.txt");
    for (page, rows_min) in [("README.md", 6), ("src/manual/comparison.md", 10)] {
        let text = read(page);
        let begins = |line: &&str| {
            ["postfix", "exim", "opensmtpd", "onetrip"]
                .iter()
                .any(|name| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(name)))
        };
        let rows: Vec<&str> = text.lines().filter(begins).collect();
        assert!(rows.len() >= rows_min, "{page}");
        for row in rows {
            assert!(measured.lines().any(|line| line.starts_with(row.trim_end_matches('|'))), "{page}: {row}");
        }
    }
}

#[test]
fn packets_are_counted_by_version() {
    let dialog =
        "C: TCP SYN\nS: SYN/ACK\nC: ACK\n1.2| C: TLS\n1.2| S: TLS\nC: QHLO a\n   MAIL FROM:<a@b>\n   | text\nS: 250\n";
    assert_eq!(counts(dialog, "1.2"), Counts { mail: 4, round_trips: 4 });
    assert_eq!(counts(dialog, "1.3"), Counts { mail: 3, round_trips: 3 });
}
