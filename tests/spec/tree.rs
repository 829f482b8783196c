//! What there is in the tree: items that files define, tests, and dialogs.
//!
//! It reads files as text, so it finds what stands there, and not what a compiler would make of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The sources, by their paths below the root.
pub(crate) struct Tree {
    sources: BTreeMap<String, String>,
    tests: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources = BTreeMap::new();
        for directory in ["src", "tests"] {
            collect(root, &root.join(directory), &mut sources);
        }
        let mut tests: BTreeSet<String> = sources.values().flat_map(|text| tests_in(text)).collect();
        let dialogs = fs::read_dir(root.join("tests/dialogs")).unwrap();
        tests.extend(
            dialogs
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with(".txt")),
        );
        Self { sources, tests }
    }

    /// Does this file define an item, a field or a constant reply of this name?
    pub(crate) fn defines(&self, file: &str, item: &str) -> bool {
        self.sources.get(file).is_some_and(|text| text.lines().any(|line| defines(line, item)))
    }

    /// Is there a test of this name that runs, or a dialog?
    pub(crate) fn has_test(&self, name: &str) -> bool {
        self.tests.contains(name)
    }
}

fn collect(root: &Path, directory: &Path, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            sources.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

fn defines(line: &str, item: &str) -> bool {
    let line = line.trim_start();
    let begins_with = |text: &str| {
        text.strip_prefix(item).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    };
    let is_item = ["fn ", "const ", "static ", "struct ", "enum ", "trait ", "type "]
        .iter()
        .any(|kind| line.match_indices(kind).any(|(at, _)| begins_with(&line[at + kind.len()..])));
    let is_field = begins_with(line) && line[item.len()..].starts_with(": ");
    let is_reply = begins_with(line) && line[item.len()..].starts_with(" = \"");
    is_item || is_field || is_reply
}

/// Functions with `#[test]` above them, and without anything that keeps them from running.
fn tests_in(text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut attributes: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            attributes.push(line);
            continue;
        }
        let runs = attributes.contains(&"#[test]") && !attributes.iter().any(|line| line.contains("ignore"));
        if let (true, Some(name)) = (runs, line.strip_prefix("fn ").and_then(|rest| rest.split('(').next())) {
            tests.push(name.to_owned());
        }
        attributes.clear();
    }
    tests
}

#[test]
fn only_a_test_that_runs_is_a_test() {
    let text = "#[test]\nfn one() {\n    #[test]\n    #[should_panic]\n    fn two() {}\n#[test]\n#[ignore = \"slow\"]\n\
                fn three() {}\nfn four() {}\n";
    assert_eq!(tests_in(text), ["one", "two"]);
}

#[test]
fn definitions_are_told_from_uses() {
    for line in
        ["    pub(super) const fn gate(", "const gate: u8", "gate = \"250 OK\";", "pub struct gate {", "gate: u8,"]
    {
        assert!(defines(line, "gate"), "{line}");
    }
    for line in ["gate(stage)", "fn gates(", "use gate;", "// gate", "let gate = 1"] {
        assert!(!defines(line, "gate"), "{line}");
    }
}
