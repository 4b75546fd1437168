//! The section of long loops.

use super::super::Part;
use super::number::{scientific, time};
use super::page::Page;
use super::picture;
use super::selection::Selection;

pub(super) fn write(page: &mut Page, selection: &Selection<'_>) {
    if !super::begun(page, selection, ("Long loops", Part::Depth)) {
        return;
    }
    page.paragraph(
        "The same transformer and rate, with loops of up to a hundred steps; of their states about 2√K are kept. Errors are against \
         `dense` in f64 and have no bound here: what a loop makes of a rounding is the loop's own.",
    );
    page.picture("The error of a meta-gradient over the steps of the inner loop", picture::DEPTH);
    let steps = selection.counts(Part::Depth, "steps");
    let lines = selection.lines(Part::Depth, |_| true);
    let header = [String::from("by")].into_iter().chain(steps.iter().map(|k| format!("K = {k}")));
    let header: Vec<String> = header.collect();
    let table = |of: &dyn Fn(&super::super::Row) -> String| -> Vec<Vec<String>> {
        let line = |line: &super::selection::Line<'_>| {
            let cells = steps.iter().map(|k| {
                let row = line.rows.iter().find(|row| row.count("steps") == Some(*k));
                row.map_or_else(|| "-".to_owned(), |row| of(row))
            });
            [line.name.clone()].into_iter().chain(cells).collect()
        };
        lines.iter().map(line).collect()
    };
    let finite = |row: &super::super::Row| match row.get("finite") == true {
        true if row.number("error").is_none() => "reference".into(),
        true => scientific(row.number("error")),
        false => "not finite".into(),
    };
    page.table("Errors of the meta-gradient.", &header, table(&finite));
    page.table(
        "Time of a whole meta-gradient, with its numbers brought to the host.",
        &header,
        table(&|row| time(row.number("time_us"))),
    );
    let kept =
        |row: &super::super::Row| row.count("kept_states").map_or("-".into(), |count| count.to_string());
    page.table("States that were kept at the end.", &header, table(&kept));
}
