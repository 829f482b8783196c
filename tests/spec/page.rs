//! The page of the manual that is made from the tables.
//!
//! It says nothing that the tables do not say, but how many there are.

use std::fmt::Write;

use super::table::{Document, Duty, Party, Standing};

/// The page as Markdown.
pub(crate) fn page(documents: &[Document]) -> String {
    let mut page = String::from(INTRODUCTION);
    // A string takes all that is written to it.
    write_counts(documents, &mut page);
    write_exceptions(documents, &mut page);
    for document in documents {
        write_document(document, &mut page);
    }
    page
}

fn write_counts(documents: &[Document], page: &mut String) {
    page.push_str("\n| document | duties | kept | in part | not kept | not ours |\n|---|---|---|---|---|---|\n");
    let mut totals = [0; 5];
    for document in documents {
        let counts = counts(document);
        write_counts_row(&document.title, counts, page);
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    write_counts_row("together", totals, page);
}

fn write_counts_row(title: &str, [all, kept, in_part, not_kept, not_ours]: [usize; 5], page: &mut String) {
    let _ = writeln!(page, "| {title} | {all} | {kept} | {in_part} | {not_kept} | {not_ours} |");
}

/// All, kept, in part, not kept, not ours.
fn counts(document: &Document) -> [usize; 5] {
    let count = |is: fn(&Standing) -> bool| document.duties.iter().filter(|duty| is(&duty.standing)).count();
    [
        document.duties.len(),
        count(|standing| *standing == Standing::Kept),
        count(|standing| matches!(standing, Standing::InPart(_))),
        count(|standing| matches!(standing, Standing::NotKept(_))),
        count(|standing| matches!(standing, Standing::NotOurs(_))),
    ]
}

fn write_exceptions(documents: &[Document], page: &mut String) {
    page.push_str("\n## What is not kept, or in part only\n\n| duty | level | what | | why |\n|---|---|---|---|---|\n");
    for duty in documents.iter().flat_map(|document| &document.duties) {
        let (how, reason) = match &duty.standing {
            Standing::InPart(reason) => ("in part", reason),
            Standing::NotKept(reason) => ("not kept", reason),
            Standing::Kept | Standing::NotOurs(_) => continue,
        };
        let _ =
            writeln!(page, "| {} | {} | {} | {how} | {} |", duty.id, duty.level.name(), cell(&duty.text), cell(reason));
    }
}

fn write_document(document: &Document, page: &mut String) {
    let _ = write!(page, "\n## {}\n\n", document.title);
    if !document.introduction.is_empty() {
        let _ = write!(page, "{}\n\n", document.introduction);
    }
    page.push_str("| id | level | duty | code | shown by |\n|---|---|---|---|---|\n");
    for duty in &document.duties {
        write_duty(duty, page);
    }
}

fn write_duty(duty: &Duty, page: &mut String) {
    let party = if duty.party == Party::Client { ", client" } else { "" };
    let _ = write!(page, "| {} | {}{party} | {}", duty.id, duty.level.name(), cell(&duty.text));
    match &duty.standing {
        Standing::Kept => {}
        Standing::InPart(reason) => {
            let _ = write!(page, " *In part: {}*", cell(reason));
        }
        Standing::NotKept(reason) => {
            let _ = write!(page, " *Not kept: {}*", cell(reason));
        }
        Standing::NotOurs(reason) => {
            let _ = write!(page, " *Not ours: {}*", cell(reason));
        }
    }
    let code: Vec<String> = duty.code.iter().map(|place| format!("`{}` `{}`", place.file, place.item)).collect();
    let tests: Vec<String> = duty.tests.iter().map(|test| format!("`{test}`")).collect();
    let _ = writeln!(page, " | {} | {} |", code.join(", "), tests.join(", "));
}

/// A bar would end the cell of the table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

const INTRODUCTION: &str = "\
<!-- Made from tests/spec/: change the tables there, then run `ONETRIP_BLESS=1 cargo test --test spec the_page`. -->

# Coverage

What the draft and the RFCs ask of a submission server that speaks QUICKSTART, and of its client, in our own words: which
code fulfils each duty, and which test shows it. The page is made from the tables in `tests/spec/`; `tests/spec/main.rs`
checks that every piece of code and every test named here exists, that no duty is without either, and that every exception
has its reason.

An id is the document, the section, and the number of the duty in it: Q9.2 is the second one of section 9 of the draft. A
level is the document's own word; *duty* stands where it uses none. Names that end in `.txt` are dialogs in
`tests/dialogs/`.
";
