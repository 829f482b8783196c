//! How many instructions the operations of `subjects` take, counted by valgrind, and held against committed figures.
//!
//! Counts hardly depend on what else the machine does, so that a few percent more can fail a build. What it must not do: judge
//! where the figures were not made. Another compiler or another C library makes other instructions.
//!
//! ```text
//! cargo bench --profile counts --no-default-features --features tls,spool --bench instructions -- [--check | --bless] [SUBJECT...]
//! ```
//!
//! Method and figures: `benches/README.md`.

#![allow(clippy::print_stdout, reason = "results are for whoever runs this")]

mod subjects;

use std::env;
use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use subjects::Subject;
use subjects::allocator::BySize;

#[global_allocator]
static ALLOCATOR: BySize = BySize::new();

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        // Test runners ask for what there is.
        ["--list" | "--test", ..] => ExitCode::SUCCESS,
        ["--count", name] => {
            be_counted(name);
            ExitCode::SUCCESS
        }
        ["--check"] => check(),
        ["--bless"] => bless(),
        names => show(names),
    }
}

// ── Under valgrind ──────────────────────────────────────────────────────────────────────────────────────────────────

/// Does the operation of this name: a few times unseen, so that buffers have grown and lazy values are made, and then counted.
fn be_counted(name: &str) {
    let subject = subjects::ALL.iter().find(|subject| subject.name == name).expect("a subject of this name");
    let mut work = (subject.ready)();
    for _ in 0..WARM_UP {
        work();
    }
    counted(&mut work);
}

/// Valgrind counts from here to the end of this function.
#[inline(never)]
fn counted(work: &mut subjects::Work) {
    for _ in 0..TIMES {
        work();
    }
    // Something after the last call, so that the function is returned to.
    black_box(work);
}

/// Instructions of one operation.
fn count(subject: &Subject) -> u64 {
    let file = results_directory().join(format!("{}.callgrind", subject.name));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=instructions::counted*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe().expect("this program has a path"))
        .args(["--count", subject.name])
        // What stands in the environment lies on the stack, and moves what lies below.
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("valgrind was asked for its version before");
    assert!(output.status.success(), "{}: {}", subject.name, String::from_utf8_lossy(&output.stderr));
    let profile = fs::read_to_string(&file).expect("valgrind writes its results");
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
    total.filter(|total| *total > 0).expect("valgrind counts something") / TIMES
}

/// The profiles stay there for `callgrind_annotate`.
fn results_directory() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    fs::create_dir_all(&directory).expect("the target directory can be written");
    directory
}

// ── What the figures hold for ───────────────────────────────────────────────────────────────────────────────────────

/// The first line that a program says of itself.
fn first_line(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    text.lines().next().map(str::to_owned)
}

/// Everything that counts depend on beside the code; `None` without valgrind.
fn surroundings() -> Option<String> {
    let valgrind = first_line("valgrind", "--version")?;
    let rustc = first_line(&env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()), "--version");
    let libc = first_line("getconf", "GNU_LIBC_VERSION");
    let words = [rustc, libc, Some(valgrind), Some(processor().to_owned())];
    Some(words.map(|word| word.unwrap_or_else(|| "unknown".to_owned())).join(", "))
}

/// Valgrind shows programs a processor of its own, the same one wherever there is AVX2.
fn processor() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        return "x86_64 with AVX2";
    }
    env::consts::ARCH
}

// ── The committed figures ───────────────────────────────────────────────────────────────────────────────────────────

/// What was committed.
struct Baseline {
    surroundings: String,
    counts: Vec<(String, u64)>,
}

impl Baseline {
    fn read() -> Self {
        let text = fs::read_to_string(baseline_path()).unwrap_or_default();
        let surroundings = text.lines().find_map(|line| line.strip_prefix(SURROUNDINGS));
        let counts = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, count) = line.split_once(' ')?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        });
        Self { surroundings: surroundings.unwrap_or_default().to_owned(), counts: counts.collect() }
    }

    fn of(&self, name: &str) -> Option<u64> {
        self.counts.iter().find(|(known, _)| known == name).map(|(_, count)| *count)
    }
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt")
}

// ── What to do ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Counts some of the subjects, or all.
fn show(names: &[&str]) -> ExitCode {
    let Some(here) = surroundings() else { return without_valgrind() };
    let baseline = Baseline::read();
    println!("{SURROUNDINGS}{here}");
    for subject in subjects::ALL.iter().filter(|subject| names.is_empty() || names.contains(&subject.name)) {
        let count = count(subject);
        println!("{}", row(subject.name, count, baseline.of(subject.name)));
    }
    ExitCode::SUCCESS
}

/// Counts all, and fails if one takes more than it did.
fn check() -> ExitCode {
    let Some(here) = surroundings() else { return without_valgrind() };
    let baseline = Baseline::read();
    if here != baseline.surroundings {
        println!("skipped: the figures hold for {}", baseline.surroundings);
        println!("         and here is          {here}");
        return ExitCode::SUCCESS;
    }
    let (mut dearer, mut cheaper) = (Vec::new(), Vec::new());
    for subject in &subjects::ALL {
        let now = count(subject);
        let before = baseline.of(subject.name);
        println!("{}", row(subject.name, now, before));
        match before.map_or(f64::INFINITY, |before| change_percent(now, before)) {
            change if change > TOLERANCE_PERCENT => dearer.push(subject.name),
            change if change < -TOLERANCE_PERCENT => cheaper.push(subject.name),
            _ => {}
        }
    }
    if !cheaper.is_empty() {
        println!("Cheaper by more than {TOLERANCE_PERCENT} %: {}. To keep it so: {BLESS}", cheaper.join(", "));
    }
    if !dearer.is_empty() {
        println!("FAILED, dearer by more than {TOLERANCE_PERCENT} % or without a figure: {}", dearer.join(", "));
        println!("callgrind_annotate {}/SUBJECT.callgrind says where.", results_directory().display());
        println!("If it is meant: {BLESS}, and say why in the commit.");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Counts all and writes the figures down.
fn bless() -> ExitCode {
    let Some(here) = surroundings() else { return without_valgrind() };
    let mut text = format!("{HEADER}{SURROUNDINGS}{here}\n");
    for subject in &subjects::ALL {
        writeln!(text, "{} {}", subject.name, count(subject)).expect("text takes all");
    }
    fs::write(baseline_path(), &text).expect("the figures can be written");
    print!("{text}");
    ExitCode::SUCCESS
}

fn without_valgrind() -> ExitCode {
    println!("skipped: valgrind is not here (Debian: apt-get install valgrind)");
    ExitCode::SUCCESS
}

fn row(name: &str, now: u64, before: Option<u64>) -> String {
    match before {
        Some(before) => format!("{name:<20} {now:>10} {:>+7.2} %", change_percent(now, before)),
        None => format!("{name:<20} {now:>10}     new"),
    }
}

fn change_percent(now: u64, before: u64) -> f64 {
    100.0 * (now as f64 - before as f64) / before as f64
}

/// Operations before the count begins.
const WARM_UP: u64 = 4;
/// Operations that are counted together.
const TIMES: u64 = 16;
/// What may come from code that has nothing to do with a subject, by the way the compiler lays it out.
const TOLERANCE_PERCENT: f64 = 3.0;
const SURROUNDINGS: &str = "# counted with: ";
const BLESS: &str =
    "cargo bench --profile counts --no-default-features --features tls,spool --bench instructions -- --bless";
const HEADER: &str =
    "# Instructions of one operation: what benches/instructions.rs holds the code to. Made by its --bless.\n";
