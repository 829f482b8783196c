//! All findings together: as text for people, as JSON for programs, as an exit code, and as changes to make.

use std::fmt;

use serde_json::{Value, json};

use super::{Change, Finding, Level};
use crate::exit::Exit;

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
    applied: Vec<Applied>,
}

/// A change that `--apply` has made, or could not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The setting and its new value.
    pub change: Change,
    /// The value that it had; `None` if it could not be read.
    pub before: Option<String>,
    /// Why it could not be made.
    pub refused: Option<String>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        Self { findings, applied: Vec::new() }
    }

    /// The findings, in the order in which they were looked for.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The same after changes were made.
    #[must_use]
    pub fn after(self, applied: Vec<Applied>) -> Self {
        Self { applied, ..self }
    }

    /// What `--apply` sets: each setting once. Where two findings want different numbers, the higher one serves both.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let wanted = self.findings.iter().filter_map(|finding| finding.remedy.as_ref()?.change());
        for change in wanted {
            match changes.iter_mut().find(|known| known.name == change.name) {
                None => changes.push(change.clone()),
                Some(known) => known.value = merged(change, &known.value),
            }
        }
        changes
    }

    /// The code of the first failure, or that of success. A change that could not be made is a failure too.
    pub fn exit(&self) -> Exit {
        let of_finding = self.findings.iter().find_map(|finding| match finding.level {
            Level::Failure(exit) => Some(exit),
            Level::Ok | Level::Note | Level::Warning => None,
        });
        let of_change = self.applied.iter().any(|applied| applied.refused.is_some()).then_some(Exit::NoPermission);
        of_finding.or(of_change).unwrap_or(Exit::Success)
    }

    /// The report as one JSON object that ends with a line end.
    pub fn json(&self) -> String {
        let findings: Vec<Value> = self.findings.iter().map(finding_json).collect();
        let applied: Vec<Value> = self.applied.iter().map(applied_json).collect();
        let whole = json!({
            "findings": findings,
            "applied": applied,
            "failures": self.count("failure"),
            "warnings": self.count("warning"),
        });
        format!("{whole}\n")
    }

    fn count(&self, level: &str) -> usize {
        self.findings.iter().filter(|finding| finding.level.name() == level).count()
    }
}

/// Two wishes for one setting: the higher number, or for lists of ports both.
fn merged(change: &Change, other: &str) -> String {
    match (change.value.parse::<u64>(), other.parse::<u64>()) {
        _ if change.name.ends_with("_ports") => format!("{other},{}", change.value),
        (Ok(one), Ok(two)) => one.max(two).to_string(),
        _ => change.value.clone(),
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "subject": finding.subject,
        "level": finding.level.name(),
        "what": finding.what,
        "remedy": finding.remedy.as_ref().map(ToString::to_string),
        "sysctl": finding.remedy.as_ref().and_then(|remedy| remedy.change()).map(|change| json!({
            "name": change.name,
            "value": change.value,
        })),
    })
}

fn applied_json(applied: &Applied) -> Value {
    json!({
        "name": applied.change.name,
        "value": applied.change.value,
        "before": applied.before,
        "undo": applied.undo().map(|undo| undo.to_string()),
        "refused": applied.refused,
    })
}

impl Applied {
    /// The change back to what was.
    pub fn undo(&self) -> Option<Change> {
        if self.refused.is_some() {
            return None;
        }
        Some(Change { name: self.change.name.clone(), value: self.before.clone()? })
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { name, value } = &self.change;
        let before = self.before.as_deref().unwrap_or("unknown");
        if let Some(refused) = &self.refused {
            return write!(f, "not set: {name} stays {before} ({refused}); as root: {}", self.change);
        }
        write!(f, "set: {name} was {before} and is {value}")?;
        self.undo().map_or(Ok(()), |undo| write!(f, "; to undo: {undo}"))
    }
}

impl fmt::Display for Report {
    /// What was set; then one finding after the other, its remedy on a line of its own; in the end how many there are of
    /// each level.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for applied in &self.applied {
            writeln!(f, "{applied}")?;
        }
        if !self.applied.is_empty() {
            writeln!(f)?;
        }
        for finding in &self.findings {
            writeln!(f, "{:<8} {}: {}", finding.level.name(), finding.subject, finding.what)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "{:<8} -> {remedy}", "")?;
            }
        }
        let counts = ["ok", "note", "warning", "failure"].map(|level| format!("{level} {}", self.count(level)));
        writeln!(f, "{}", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{Applied, Report};
    use crate::check::{Change, Finding, Remedy};
    use crate::exit::Exit;

    fn change(name: &str, value: &str) -> Change {
        Change { name: name.to_owned(), value: value.to_owned() }
    }

    fn report(remedies: &[(&str, &str)]) -> Report {
        let finding = |(name, value): &(&str, &str)| Finding::warning("x", "y", Remedy::sysctl(name, *value));
        Report::new(remedies.iter().map(finding).collect())
    }

    #[test]
    fn a_setting_that_two_findings_ask_for_is_set_once_and_to_the_higher_number() {
        let report = report(&[("a", "9"), ("b", "1"), ("a", "10"), ("a", "2")]);
        assert_eq!(report.changes(), [change("a", "10"), change("b", "1")]);
    }

    #[test]
    fn ports_that_are_kept_back_add_up() {
        let name = "net.ipv4.ip_local_reserved_ports";
        assert_eq!(report(&[(name, "40000"), (name, "40001")]).changes(), [change(name, "40000,40001")]);
    }

    #[test]
    fn the_first_failure_gives_the_exit_code_and_warnings_give_none() {
        let failure = |exit| Finding::failure("x", exit, "y", None);
        assert_eq!(report(&[("a", "1")]).exit(), Exit::Success);
        assert_eq!(Report::new(vec![failure(Exit::Data), failure(Exit::Config)]).exit(), Exit::Data);
    }

    #[test]
    fn a_change_that_could_not_be_made_is_a_failure_and_says_the_command() {
        let refused =
            Applied { change: change("a.b", "2"), before: Some("1".to_owned()), refused: Some("no".to_owned()) };
        assert_eq!(refused.to_string(), "not set: a.b stays 1 (no); as root: sysctl -w a.b=2");
        assert_eq!(refused.undo(), None);
        assert_eq!(report(&[]).after(vec![refused]).exit(), Exit::NoPermission);
    }

    #[test]
    fn a_change_that_was_made_says_how_to_undo_it() {
        let made = Applied { change: change("a.b", "2 3"), before: Some("1 1".to_owned()), refused: None };
        assert_eq!(made.to_string(), "set: a.b was 1 1 and is 2 3; to undo: sysctl -w 'a.b=1 1'");
    }

    #[test]
    fn the_report_is_text_for_people_and_json_for_programs() {
        let report =
            Report::new(vec![Finding::ok("one", "good"), Finding::warning("two", "poor", Remedy::sysctl("a", "1"))]);
        let text =
            "ok       one: good\nwarning  two: poor\n         -> sysctl -w a=1\nok 1, note 0, warning 1, failure 0\n";
        assert_eq!(report.to_string(), text);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["findings"][1]["sysctl"]["name"], "a");
        assert_eq!((json["warnings"].as_u64(), json["failures"].as_u64()), (Some(1), Some(0)));
    }
}
