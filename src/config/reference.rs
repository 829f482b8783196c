//! The configuration page of the manual, made from the table of settings, so that it cannot say anything else than
//! the program does.
//!
//! It writes no file: a test holds the page in the repository against it.

use std::fmt::{self, Write};

use super::{Setting, settings};
use crate::exit::Exit;

/// The page as Markdown.
pub fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    // A string takes all that is written to it.
    write_settings(&mut page).and_then(|()| write_exits(&mut page)).expect("a string can be written to");
    page
}

fn write_settings(page: &mut String) -> fmt::Result {
    let mut heading = "";
    for setting in settings() {
        if setting.heading != heading {
            heading = setting.heading;
            write!(page, "\n## {heading}\n\n{TABLE_HEAD}")?;
        }
        write_row(page, &setting)?;
    }
    Ok(())
}

fn write_row(page: &mut String, setting: &Setting) -> fmt::Result {
    let Setting { name, value, help, accepts, default, .. } = setting;
    writeln!(page, "| `--{name}` *{}* | {} | {} | {} |", cell(value), cell(help), cell(accepts), cell(default))
}

/// A bar would end the cell of the table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn write_exits(page: &mut String) -> fmt::Result {
    write!(page, "{EXITS_HEAD}")?;
    for exit in Exit::ALL {
        writeln!(page, "| {} | {} |", exit.code(), exit.meaning())?;
    }
    Ok(())
}

const INTRODUCTION: &str = "\
<!-- Made from src/config/table.rs: change that, then run `ONETRIP_BLESS=1 cargo test --lib config::reference`. -->

# Configuration

`onetrip serve` works without any configuration. What is to be different is said with flags on the command line, or in
a file that `--config FILE` names. A flag beats the file, and the file beats the default.

The file is TOML. **Every flag is a key of the same spelling**, without the dashes in front; only `--config` itself is
not. A flag that may be given several times takes a list, which replaces the default as a whole; on the command line it
replaces the list of the file as a whole.

```toml
hostname = \"mail.example.org\"
listen = [\"0.0.0.0:587\", \"[::]:587\"]
listen-tls = [\"0.0.0.0:465\", \"[::]:465\"]
tls-cert = \"/etc/onetrip/cert.pem\"
tls-key = \"/etc/onetrip/key.pem\"
state-dir = \"/var/lib/onetrip\"
max-message-size = \"50M\"
idle-timeout = 300
hide-client = true
```

Numbers may be written with or without quotes; `true` and `false` stand for `on` and `off`. Times are whole numbers in
the unit that the table names. Sizes are bytes; `K`, `M` and `G`, also written `KiB`, `MiB` and `GiB`, multiply by
1,024, 1,024² and 1,024³. Relative paths start at the working directory.

An unknown key or a value out of bounds stops the server before it starts, with a message that says where it stands and
what to do; a bad value in the file does so even where a flag beats it.

`onetrip user` takes `--config`, `--state-dir` and `--users` too, so that it finds the same users as the server.
`onetrip check` takes all of these flags and says whether this host is ready for them; the page on tuning has more.
";

const TABLE_HEAD: &str = "\
| flag | what it is for | accepts | default |
|---|---|---|---|
";

const EXITS_HEAD: &str = "
## Exit codes

Every command of onetrip ends with one of the codes of `sysexits.h`, and says on one line of standard error what went
wrong and what to do about it. Mistakes on the command line end with 64, mistakes in the file with 78.

| code | meaning |
|---|---|
";

#[cfg(test)]
mod tests {
    use super::{page, settings};

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/configuration.md");

    #[test]
    fn the_page_in_the_manual_says_what_the_program_does() {
        if std::env::var_os("ONETRIP_BLESS").is_some() {
            std::fs::write(PATH, page()).unwrap();
        }
        let committed = std::fs::read_to_string(PATH).unwrap_or_default();
        assert!(
            committed == page(),
            "src/manual/configuration.md is out of date: run `ONETRIP_BLESS=1 cargo test --lib config::reference`"
        );
    }

    #[test]
    fn each_setting_has_one_row_of_four_cells_on_the_page() {
        let page = page();
        for setting in settings() {
            let start = format!("| `--{}` ", setting.name);
            let rows: Vec<&str> = page.lines().filter(|line| line.starts_with(&start)).collect();
            let [row] = rows[..] else { panic!("{} has {} rows", setting.name, rows.len()) };
            assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
        }
    }
}
