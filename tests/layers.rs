//! Holds the tree to its map: which layer may name which, who may touch the world, and how a file looks.
//!
//! It reads `src/` as text, so it finds what stands there, and not what a compiler would make of it. Comments and tests at
//! the bottom of a file are left out where code is judged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer, and the layers that it may name besides itself.
const LAYERS: [(&str, &[&str]); 21] = [
    ("limits", &[]),
    ("time", &[]),
    ("exit", &[]),
    ("tcp_info", &[]),
    ("fast_open", &["tcp_info"]),
    ("lateness", &[]),
    ("paged_slab", &[]),
    ("manual", &[]),
    ("proto", &["limits", "time"]),
    ("auth", &["limits", "time", "proto"]),
    ("spool", &["limits", "time", "paged_slab", "proto"]),
    ("relay", &["limits", "time", "paged_slab", "proto", "spool"]),
    ("tls", &["limits", "time"]),
    ("observe", &["limits", "time"]),
    ("wire", &["limits", "time", "proto", "tls"]),
    ("config", &["limits", "time", "proto", "relay", "tls", "observe", "exit"]),
    ("check", &["limits", "time", "relay", "tls", "config", "exit"]),
    ("queue", &["exit"]),
    ("submit", &["limits", "time", "proto", "tls", "wire", "exit", "fast_open"]),
    (
        "runtime",
        &[
            "limits",
            "time",
            "proto",
            "auth",
            "spool",
            "relay",
            "tls",
            "observe",
            "wire",
            "tcp_info",
            "fast_open",
            "lateness",
            "config",
            "check",
            "queue",
            "exit",
        ],
    ),
    ("cli", &["limits", "time", "proto", "config", "check", "queue", "submit", "runtime", "exit"]),
];

/// Where sockets, files, clocks and threads are.
const WORLDLY: [&str; 6] = ["runtime", "submit", "cli", "main", "fast_open", "tcp_info"];

/// What gives away code that touches the world. Parsing an address or naming a kind of I/O error does not.
const WORLD: [&str; 20] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::fs",
    "std::thread",
    "thread::spawn",
    "process::Command",
    "process::exit",
    "std::env",
    "io::stdin",
    "io::stdout",
    "io::stderr",
    "Instant::now",
    "SystemTime::now",
    "async fn",
    "async move",
    "async {",
];

/// Longest file in lines, without its tests.
const FILE_LINES_MAX: usize = 800;

/// One file of `src/`.
struct Source {
    /// Below `src/`, like `proto/server/mod.rs`.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn layer(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }

    /// Everything before the tests at the bottom.
    fn body(&self) -> &str {
        let end = self.text.match_indices("#[cfg(test)]\nmod ").find(|(at, _)| {
            let line = self.text[at + "#[cfg(test)]\n".len()..].lines().next().unwrap_or_default();
            line.ends_with('{')
        });
        end.map_or(&self.text, |(at, _)| &self.text[..at])
    }

    /// The body with its comments blanked out, so that lines keep their numbers.
    fn code(&self) -> String {
        let blanked = |line: &str| if line.trim_start().starts_with("//") { String::new() } else { line.to_owned() };
        self.body().lines().map(|line| blanked(line) + "\n").collect()
    }

    /// How many modules deep the file is: `proto/server/mod.rs` is `proto::server`, which is two.
    fn depth(&self) -> usize {
        let file_is_its_directory = usize::from(self.path.ends_with("/mod.rs"));
        self.path.split('/').count() - file_is_its_directory
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let source = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        Source { path: name, text: fs::read_to_string(&path).unwrap() }
    };
    paths.into_iter().map(source).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// The layers that code reaches for through the root of the crate, each with its line.
fn named_layers(source: &Source) -> Vec<(usize, String)> {
    let code = source.code();
    let root = "super::".repeat(source.depth());
    let mut named = Vec::new();
    for prefix in ["crate::", root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let begins_a_path = !code[..at].ends_with(|c: char| c == '$' || c == '_' || c.is_alphanumeric());
            if begins_a_path {
                let number = code[..at].lines().count().max(1);
                let number = number + usize::from(code[..at].ends_with('\n'));
                named.extend(first_names(&code[at + prefix.len()..]).into_iter().map(|name| (number, name)));
            }
        }
    }
    named
}

/// `a` of `a::b`, or `a` and `c` of `{a::b, c::{d, e}}`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![first_name(path)];
    };
    let (mut names, mut depth, mut begin) = (Vec::new(), 0_usize, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_name(group[begin..at].trim_start()));
                begin = at + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// What a file names that it may not.
fn forbidden_layers(source: &Source) -> Vec<String> {
    let layer = source.layer();
    if matches!(layer, "lib" | "main") {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("src/{}: the layer {layer} has no row in LAYERS", source.path)];
    };
    let mut named = named_layers(source);
    named.retain(|(_, named)| named != layer && !allowed.contains(&named.as_str()));
    let fault = |(number, named)| format!("src/{}:{number}: {layer} may not name {named}", source.path);
    named.into_iter().map(fault).collect()
}

/// Where a file touches the world although its layer may not.
fn worldly_words(source: &Source) -> Vec<String> {
    if WORLDLY.contains(&source.layer()) || source.is_test() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (line, number) in source.code().lines().zip(1..) {
        for word in WORLD.iter().filter(|word| line.contains(**word)) {
            faults.push(format!("src/{}:{number}: {} does not touch the world: {word}", source.path, source.layer()));
        }
    }
    faults
}

/// What is wrong with how a file looks.
fn style_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: &str| faults.push(format!("src/{}: {what}", source.path));
    if !source.text.starts_with("//! ") {
        fault("the first line says what the file is for: //!");
    }
    if !source.is_test() && source.body().lines().count() > FILE_LINES_MAX {
        fault("too long to be one thing");
    }
    if source.text.contains('\t') {
        fault("a tab");
    }
    if ["TODO", "FIXME", "XXX"].iter().any(|mark| source.text.contains(mark)) {
        fault("unfinished work is marked, not done");
    }
    faults
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn no_layer_names_a_layer_that_it_may_not() {
    assert_none(&sources().iter().flat_map(forbidden_layers).collect::<Vec<_>>());
}

#[test]
fn the_map_has_no_circle() {
    let at = |layer: &str| LAYERS.iter().position(|(name, _)| *name == layer).unwrap();
    for (layer, allowed) in LAYERS {
        assert!(allowed.iter().all(|lower| at(lower) < at(layer)), "{layer} stands above what names it");
    }
}

#[test]
fn only_the_runtime_the_submit_command_and_the_command_line_touch_the_world() {
    assert_none(&sources().iter().flat_map(worldly_words).collect::<Vec<_>>());
}

#[test]
fn glommio_is_named_in_the_runtime_alone() {
    let named = |source: &Source| source.text.contains("glommio") && source.layer() != "runtime";
    let named: Vec<String> = sources().into_iter().filter(named).map(|source| source.path).collect();
    assert_none(&named);
}

#[test]
fn every_file_says_what_it_is_for_and_is_one_thing() {
    assert_none(&sources().iter().flat_map(style_faults).collect::<Vec<_>>());
}

#[test]
fn what_is_forbidden_is_found() {
    let upwards = Source::new("proto/line.rs", "//! x\nuse crate::runtime::serve;\n");
    assert_eq!(forbidden_layers(&upwards), ["src/proto/line.rs:2: proto may not name runtime"]);
    let sideways = Source::new("tls/store.rs", "//! x\nuse super::super::proto::line;\n");
    assert_eq!(forbidden_layers(&sideways), ["src/tls/store.rs:2: tls may not name proto"]);
    let grouped =
        Source::new("tls/mod.rs", "//! x\nuse crate::{\n    limits::{A, B},\n    proto::line,\n    time,\n};\n");
    assert_eq!(forbidden_layers(&grouped), ["src/tls/mod.rs:2: tls may not name proto"]);
    assert_eq!(forbidden_layers(&Source::new("util.rs", "//! x\n")).len(), 1);
    for line in ["use std::fs;", "let now = Instant::now();", "async fn wait() {}", "TcpStream::connect(address)"] {
        let text = format!("//! x\n{line}\n#[cfg(test)]\nmod tests {{\n    use std::fs;\n}}\n");
        assert_eq!(worldly_words(&Source::new("auth/users.rs", &text)).len(), 1, "{line}");
        assert_eq!(worldly_words(&Source::new("runtime/serve.rs", &text)).len(), 0, "{line}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    let text = "//! x\n//! [`crate::runtime`]\nuse crate::limits;\nuse super::line;\n#[cfg(test)]\nmod tests;\nuse crate::time;\n";
    assert_none(&forbidden_layers(&Source::new("proto/line.rs", text)));
    let in_tests = "//! x\n\n#[cfg(test)]\nmod tests {\n    use crate::runtime::serve;\n}\n";
    assert_none(&forbidden_layers(&Source::new("proto/line.rs", in_tests)));
}

#[test]
fn a_file_without_its_purpose_or_with_unfinished_work_is_found() {
    assert_eq!(style_faults(&Source::new("a.rs", "use std::mem;\n")).len(), 1);
    assert_eq!(style_faults(&Source::new("a.rs", "//! x\n// TODO: y\n")).len(), 1);
    assert_eq!(style_faults(&Source::new("a.rs", "//! x\n\tlet y = 1;\n")).len(), 1);
    let long = format!("//! x\n{}", "\n".repeat(FILE_LINES_MAX));
    assert_eq!(style_faults(&Source::new("a.rs", &long)).len(), 1);
    assert_eq!(style_faults(&Source::new("tests.rs", &long)).len(), 0);
}
