//! The report: a page of tables, and pictures, of rows and of nothing else.

mod bootstrap;
mod depth;
mod gradients;
mod number;
mod page;
mod picture;
mod rel_diff;
mod selection;
mod timings;
mod trainings;

use super::{Part, Result, Row};
use page::Page;
use selection::Selection;

/// The page's file.
pub const PAGE: &str = "phase10_report.md";

/// A page and its pictures, by the names of their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Markdown.
    pub page: String,
    /// SVG.
    pub pictures: Vec<(&'static str, String)>,
}

/// The report of these rows.
pub fn render(rows: &[Row]) -> Result<Report> {
    let selection = Selection::of(rows);
    let mut page = Page::default();
    introduce(&mut page, &selection);
    gradients::write(&mut page, &selection);
    rel_diff::write(&mut page, &selection);
    trainings::write(&mut page, &selection);
    depth::write(&mut page, &selection);
    timings::write(&mut page, &selection);
    surprises(&mut page, &selection);
    Ok(Report { pictures: picture::all(&selection)?, page: page.text() })
}

fn introduce(page: &mut Page, selection: &Selection<'_>) {
    page.title("Phase 10: the report");
    page.paragraph(
        "Meta-gradients on every backend: how far they are from an oracle, what the first order leaves out, what that is \
         worth in trainings, how errors grow with the loop, and what it costs. Everything below was made of rows by \
         `theria experiment phase10 --report`; what is asked and how a meta-gradient is made stands on the page of \
         [phase 10](phase10_maml.md).",
    );
    if selection.is_quick() {
        page.paragraph(
            "These rows were made with `--quick`: they show that the parts work, and say nothing else.",
        );
    }
    page.section("Where the rows come from");
    let header = ["", "rows", "git", "toolchain", "processor", "threads", "device", "driver"];
    let lines = selection.places().iter().map(|place| {
        let text = |key: &str| match place.row.get(key) {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let of_row = ["git", "toolchain", "cpu", "threads", "device", "driver"].map(text);
        [vec![place.letter.clone(), place.rows.to_string()], of_row.to_vec()].concat()
    });
    let caption = match selection.superseded() {
        0 => "Programs and machines; tables name them by their letters.".to_owned(),
        count => format!(
            "Programs and machines; tables name them by their letters. Rows that were measured again on the same machine, and \
             count no more: {count}."
        ),
    };
    page.table(&caption, &header, lines);
}

/// What came out otherwise than it ought to: nothing is left out of the report because it did not please.
fn surprises(page: &mut Page, selection: &Selection<'_>) {
    page.section("What came out otherwise than it ought to");
    let judged = selection.rows().iter().filter(|row| row.verdict().is_some());
    let (judged, controls) = (judged.clone().count(), judged.filter(|row| row.is_control()).count());
    let wrong: Vec<_> = selection.rows().iter().filter(|row| row.is_surprise()).collect();
    page.paragraph(&format!(
        "Rows that are judged: {judged}, of which {controls} are negative controls, which ought to fail or to be refused. \
         Otherwise than expected: {}.",
        wrong.len()
    ));
    if wrong.is_empty() {
        return;
    }
    let lines = wrong.iter().map(|row| {
        let what = row.part().identity().iter().map(|key| match row.get(key) {
            serde_json::Value::String(text) => text.clone(),
            other => format!("{key} {other}"),
        });
        let (verdict, expected) = (row.text("verdict"), row.text("expected"));
        vec![
            row.part().to_string(),
            selection.subject(row),
            what.collect::<Vec<_>>().join(", "),
            number::scientific(row.number("error")),
            number::scientific(row.number("bound")),
            format!("{verdict}, not {expected}"),
            row.text("reason").to_owned(),
        ]
    });
    let header = ["part", "by", "what", "error", "bound", "verdict", "reason"];
    page.table("Rows whose verdict is not the one that they ought to have.", &header, lines);
}

/// Whether there is anything to say of a part; the section says so if not.
fn begun(page: &mut Page, selection: &Selection<'_>, (title, part): (&str, Part)) -> bool {
    page.section(title);
    let there = selection.rows().iter().any(|row| row.part() == part);
    if !there {
        page.paragraph(&format!("There are no rows of `{part}`."));
    }
    there
}
