//! The section of time and memory.

use super::super::{Part, Row};
use super::number::{mib, scientific, time};
use super::page::Page;
use super::selection::Selection;

pub(super) fn write(page: &mut Page, selection: &Selection<'_>) {
    if !super::begun(page, selection, ("Time and memory", Part::Timings)) {
        return;
    }
    page.paragraph(
        "Whole meta-gradients by gradient descent. Bytes are what is held beside the program: data, start, states and gradient \
         included. On a device they are what its memory has less of when a process has done nothing else, or what PyTorch says of \
         its own peak.",
    );
    let rows = selection.rows().iter().filter(|row| row.part() == Part::Timings);
    let header = ["what", "K", "by", "median", "90 %", "held", "error", "against", "same bits again"];
    let shown = rows.map(|row| {
        let bits = match row.get("same_bits").as_bool() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        vec![
            row.text("shape").to_owned(),
            row.count("steps").map_or(String::new(), |steps| steps.to_string()),
            selection.subject(row),
            median(row),
            time(row.number("time_p90_us")),
            mib(row.number("bytes")),
            scientific(row.number("error")),
            row.text("oracle").to_owned(),
            bits.to_owned(),
        ]
    });
    page.table("Time and memory of a whole meta-gradient.", &header, shown);
}

/// The median, or why there is none.
fn median(row: &Row) -> String {
    match row.text("reason") {
        "" => time(row.number("time_median_us")),
        reason => reason.to_owned(),
    }
}
