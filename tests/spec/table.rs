//! The tables: text files with one duty after the other.
//!
//! It reads what is written, and refuses what cannot be read with the line in question. It does not judge.

use std::fs;
use std::path::Path;

/// One document with its duties.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The name of the file, without its end.
    pub(crate) name: String,
    /// The first line.
    pub(crate) title: String,
    /// The words between the title and the first duty.
    pub(crate) introduction: String,
    pub(crate) duties: Vec<Duty>,
}

/// Something that a document asks for.
#[derive(Clone, Debug)]
pub(crate) struct Duty {
    /// Like `Q9.2` or `5321-4.5.2-1`.
    pub(crate) id: String,
    pub(crate) section: String,
    pub(crate) number: u32,
    pub(crate) level: Level,
    pub(crate) party: Party,
    /// In our own words.
    pub(crate) text: String,
    pub(crate) code: Vec<Place>,
    /// Names of tests and of dialogs.
    pub(crate) tests: Vec<String>,
    pub(crate) standing: Standing,
}

/// How strongly the document asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Must,
    Should,
    May,
    /// It follows from the text, but no such word is used.
    Unworded,
}

/// Of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    Server,
    Client,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Kept,
    /// Kept but for this.
    InPart(String),
    /// Not kept, for this reason.
    NotKept(String),
    /// Asked of somebody else, or of something that there is not.
    NotOurs(String),
}

/// Where code is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) item: String,
}

impl Standing {
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Kept => None,
            Self::InPart(reason) | Self::NotKept(reason) | Self::NotOurs(reason) => Some(reason),
        }
    }
}

impl Level {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::May => "MAY",
            Self::Unworded => "duty",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Must, Self::Should, Self::May, Self::Unworded].into_iter().find(|level| level.name() == name)
    }
}

impl Document {
    /// All tables, the draft first.
    pub(crate) fn read_all() -> Vec<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec");
        let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "txt"));
        paths.sort();
        paths
            .iter()
            .map(|path| Self::parse(path.file_stem().unwrap().to_str().unwrap(), &fs::read_to_string(path).unwrap()))
            .collect()
    }

    /// Reads one table.
    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let mut lines = text.lines();
        let title = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_else(|| panic!("{name}: no title"));
        let mut document =
            Self { name: name.to_owned(), title: title.to_owned(), introduction: String::new(), duties: Vec::new() };
        let mut prefix = None;
        for line in lines {
            match (line.strip_prefix("ids: "), line.starts_with("  "), line.is_empty()) {
                (Some(ids), ..) => prefix = Some(ids.to_owned()),
                (.., true) => {}
                (_, true, _) => {
                    let duty = document.duties.last_mut().unwrap_or_else(|| panic!("{name}: {line:?} is in no duty"));
                    duty.read(line);
                }
                _ if prefix.as_deref().is_some_and(|prefix| is_id_of(line, prefix)) => {
                    document.duties.push(Duty::begin(line));
                }
                _ if document.duties.is_empty() => append(&mut document.introduction, line),
                _ => panic!("{name}: cannot read {line:?}"),
            }
        }
        assert!(!document.duties.is_empty(), "{name}: no duties");
        document
    }
}

fn is_id_of(line: &str, prefix: &str) -> bool {
    let rest = line.strip_prefix(prefix).unwrap_or_default();
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    rest.starts_with(|first: char| first.is_ascii_digit() || matches!(first, 'A'..='E'))
}

impl Duty {
    /// `Q9.2 MUST`, or `Q8.15 MUST client`.
    fn begin(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let (id, level, party) = match words[..] {
            [id, level] => (id, level, Party::Server),
            [id, level, "client"] => (id, level, Party::Client),
            _ => panic!("{line:?} is not an id, a level and at most `client`"),
        };
        let separator = if id.starts_with('Q') { '.' } else { '-' };
        let (section, number) = id.rsplit_once(separator).unwrap_or_else(|| panic!("{line:?}: no number"));
        Self {
            id: id.to_owned(),
            section: section.to_owned(),
            number: number.parse().unwrap_or_else(|_| panic!("{line:?}: no number")),
            level: Level::named(level).unwrap_or_else(|| panic!("{line:?}: {level:?} is no level")),
            party,
            text: String::new(),
            code: Vec::new(),
            tests: Vec::new(),
            standing: Standing::Kept,
        }
    }

    /// A line that belongs to it. Lines of words that are indented further go on with the line before.
    fn read(&mut self, line: &str) {
        let words = line.trim();
        if line.starts_with("    ") {
            let text = match &mut self.standing {
                Standing::InPart(reason) | Standing::NotKept(reason) | Standing::NotOurs(reason) => reason,
                Standing::Kept => panic!("{}: {words:?} goes on with nothing", self.id),
            };
            append(text, words);
            return;
        }
        let Some((what, value)) = words.split_once(": ").filter(|(what, _)| KEYS.contains(what)) else {
            append(&mut self.text, words);
            return;
        };
        match what {
            "code" => self.code.push(Place::parse(value).unwrap_or_else(|| panic!("{}: {value:?}", self.id))),
            "test" => self.tests.push(value.to_owned()),
            "in part" => self.standing = Standing::InPart(value.to_owned()),
            "not kept" => self.standing = Standing::NotKept(value.to_owned()),
            _ => self.standing = Standing::NotOurs(value.to_owned()),
        }
    }
}

const KEYS: [&str; 5] = ["code", "test", "in part", "not kept", "not ours"];

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let (file, item) = text.split_once(' ')?;
        (!item.contains(' ')).then(|| Self { file: file.to_owned(), item: item.to_owned() })
    }
}

fn append(text: &mut String, words: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(words);
}

#[test]
fn a_table_is_read_whole() {
    let text = "# RFC 1: Something\nids: 1\n\nWords\nabout it.\n\n1-4.2-1 SHOULD client\n  One thing,\n  and more.\n\
                \n  in part: not on\n    Sundays.\n  code: src/a.rs b\n  test: c\n  test: d.txt\n";
    let document = Document::parse("rfc1", text);
    assert_eq!((document.title.as_str(), document.introduction.as_str()), ("RFC 1: Something", "Words about it."));
    let [duty] = &document.duties[..] else { panic!("{document:?}") };
    assert_eq!((duty.id.as_str(), duty.section.as_str(), duty.number), ("1-4.2-1", "1-4.2", 1));
    assert_eq!((duty.level, duty.party, duty.text.as_str()), (Level::Should, Party::Client, "One thing, and more."));
    assert_eq!(duty.standing, Standing::InPart("not on Sundays.".to_owned()));
    assert_eq!(duty.code, [Place { file: "src/a.rs".to_owned(), item: "b".to_owned() }]);
    assert_eq!(duty.tests, ["c", "d.txt"]);
}
