//! The TOML text of the configuration file, as plain text values with their lines.
//!
//! It reads no file and knows no setting's meaning: what a value is worth is the matter of its kind.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{ConfigError, ConfigFile, Place, settings};

/// What the file says: for each key the line it stands on and its values as text.
#[derive(Debug, Default)]
pub(super) struct FileValues(BTreeMap<String, FileValue>);

#[derive(Debug)]
pub(super) struct FileValue {
    pub(super) line: usize,
    pub(super) texts: Vec<String>,
}

impl FileValues {
    /// Reads the text of the file. Unknown keys and values that no setting can have are errors.
    pub(super) fn read(file: ConfigFile<'_>) -> Result<Self, ConfigError> {
        let table = DeTable::parse(file.text).map_err(|error| not_toml(file, &error))?;
        let known = settings();
        let mut values = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            let line = line_of(file.text, key.span().start);
            let error = |problem: &str, remedy: &str| error_at(file.path, line, Some(name), problem, remedy);
            if !known.iter().any(|setting| setting.name == name) {
                return Err(error("there is no such key", &remedy_for_unknown(name)));
            }
            let texts = texts_of(value.get_ref()).map_err(|problem| {
                error(problem, "write a string, a number, true or false, or for a repeatable flag a list of them")
            })?;
            values.insert(name.to_owned(), FileValue { line, texts });
        }
        Ok(Self(values))
    }

    pub(super) fn value(&self, name: &str) -> Option<&FileValue> {
        self.0.get(name)
    }
}

fn not_toml(file: ConfigFile<'_>, error: &toml::de::Error) -> ConfigError {
    let line = line_of(file.text, error.span().map_or(0, |span| span.start));
    let problem = error.message().lines().collect::<Vec<_>>().join(", ");
    error_at(file.path, line, None, &problem, "write one setting on each line, as TOML: key = \"value\"")
}

fn error_at(path: &Path, line: usize, key: Option<&str>, problem: &str, remedy: &str) -> ConfigError {
    let place = Place::File { path: path.to_owned(), line, key: key.map(str::to_owned) };
    ConfigError { place, problem: problem.to_owned(), remedy: remedy.to_owned() }
}

fn remedy_for_unknown(name: &str) -> String {
    let dashed = name.replace('_', "-");
    if settings().iter().any(|setting| setting.name == dashed) {
        return format!("write {dashed}, as the flag is written");
    }
    match name {
        "config" => "the file can be named on the command line only".to_owned(),
        _ => "keys are the flags without their dashes in front: see onetrip serve --help".to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn texts_of(value: &DeValue<'_>) -> Result<Vec<String>, &'static str> {
    match value {
        DeValue::Array(values) => values.iter().map(|value| text_of(value.get_ref())).collect(),
        value => text_of(value).map(|text| vec![text]),
    }
}

/// One value as it would be written on the command line.
fn text_of(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Integer(_) => Err("the number is not decimal"),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(value) => Ok(if *value { "on" } else { "off" }.to_owned()),
        DeValue::Datetime(_) => Err("no setting is a date"),
        DeValue::Array(_) => Err("no setting is a list of lists"),
        DeValue::Table(_) => Err("no setting is a table"),
    }
}
