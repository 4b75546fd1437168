//! The section of meta-gradients against an independent system.

use super::super::{Part, Row};
use super::number::scientific;
use super::page::Page;
use super::selection::{Line, Selection};

/// Columns with an oracle.
const ERRORS: [(&str, &str, &str); 7] = [
    ("FULL, SGD", "sgd", "full"),
    ("momentum", "momentum", "full"),
    ("Adam", "adam", "full"),
    ("FO", "sgd", "first-order"),
    ("FO-STRICT", "sgd", "first-order-strict"),
    ("TRUNC(1)", "sgd", "truncated:1"),
    ("TRUNC(2)", "sgd", "truncated:2"),
];

const OPTIMISERS: [&str; 3] = ["sgd", "momentum", "adam"];

/// Columns of modes that ought to have the bits of another one, whatever the optimiser.
const BITS: [(&str, &str); 3] = [
    ("FO-STRICT = FO", "first-order-strict"),
    ("TRUNC(0) = FO", "truncated:0"),
    ("TRUNC(K) = FULL", "truncated:3"),
];

pub(super) fn write(page: &mut Page, selection: &Selection<'_>) {
    if !super::begun(page, selection, ("Meta-gradients against an independent system", Part::Gradients)) {
        return;
    }
    page.paragraph(
        "A loop of three steps through one head of attention between four matrices. The numbers of the independent system are \
         those on which JAX, PyTorch and complex steps agree. The error is the norm of the difference as a part of the norm of \
         what is expected. Adam has no bound in 16 bits: where its parameters are off by what rounds them, the exact answer is \
         another one.",
    );
    let lines = selection.lines(Part::Gradients, |row| !row.is_control());
    let header = ["by"].into_iter().chain(ERRORS.map(|(words, ..)| words));
    let header: Vec<&str> = header.chain(["bound", "bound, Adam", "verdict"]).collect();
    let shown = lines.iter().map(|line| {
        let errors = ERRORS.map(|(_, optimiser, mode)| cell(line, optimiser, mode, "error"));
        let bounds = ["sgd", "adam"].map(|optimiser| cell(line, optimiser, "full", "bound"));
        let cells = [vec![line.name.clone()], errors.to_vec(), bounds.to_vec()].concat();
        cells.into_iter().chain([verdicts(line)]).collect()
    });
    page.table("Errors of meta-gradients.", &header, shown);

    let header: Vec<&str> = ["by"].into_iter().chain(BITS.map(|(words, _)| words)).collect();
    let shown = lines.iter().map(|line| {
        let cells = BITS.map(|(_, mode)| bits(line, mode));
        [vec![line.name.clone()], cells.to_vec()].concat()
    });
    page.table(
        "Modes that ought to be the same to the last bit, for SGD, momentum and Adam.",
        &header,
        shown,
    );

    let controls = selection.lines(Part::Gradients, Row::is_control);
    let header = ["by", "SGD", "momentum", "Adam", "ought to be", "reason"];
    let shown = controls.iter().map(|line| {
        let cells = OPTIMISERS.map(|optimiser| control(line, optimiser));
        let of = |key: &str| line.rows.first().map_or(String::new(), |row| row.text(key).to_owned());
        [vec![line.name.clone()], cells.to_vec(), vec![of("expected"), of("reason")]].concat()
    });
    page.table(
        "Negative controls, asked for FULL, with their verdicts and errors: handles without a second order, which ought to refuse, \
         and backwards that are wrong on purpose, which ought to break the bound.",
        &header,
        shown,
    );
    let header = ["by", "SGD", "momentum", "Adam"];
    let shown = lines.iter().map(|line| {
        let cells = OPTIMISERS.map(|optimiser| cell(line, optimiser, "first-order", "from_full"));
        [vec![line.name.clone()], cells.to_vec()].concat()
    });
    page.table(
        "What a bound has to tell apart: the first order, |FO - FULL| / |FULL|, FULL being that of the independent system.",
        &header,
        shown,
    );
}

/// A verdict, and the error where there is one.
fn control(line: &Line<'_>, optimiser: &str) -> String {
    let found = row(line, optimiser, "full");
    let verdict = found.map_or("-", |row| row.text("verdict"));
    match found.and_then(|row| row.number("error")) {
        Some(error) => format!("{verdict}, {}", scientific(Some(error))),
        None => verdict.to_owned(),
    }
}

fn row<'a>(line: &Line<'a>, optimiser: &str, mode: &str) -> Option<&'a Row> {
    let is_it = |row: &&&Row| row.text("optimiser") == optimiser && row.text("mode") == mode;
    line.rows.iter().find(is_it).copied()
}

fn cell(line: &Line<'_>, optimiser: &str, mode: &str, key: &str) -> String {
    match row(line, optimiser, mode) {
        Some(row) if row.text("verdict") == "refused" => "refused".into(),
        found => scientific(found.and_then(|row| row.number(key))),
    }
}

/// Equal, or for which optimisers they are not.
fn bits(line: &Line<'_>, mode: &str) -> String {
    let of_mode: Vec<_> = line.rows.iter().filter(|row| row.text("mode") == mode).collect();
    let differ: Vec<&str> =
        of_mode.iter().filter(|row| row.get("same_bits") != true).map(|row| row.text("optimiser")).collect();
    match (of_mode.is_empty(), differ.is_empty()) {
        (true, _) => "-".into(),
        (false, true) => "equal".into(),
        (false, false) => format!("not equal: {}", differ.join(", ")),
    }
}

/// How many of the line's rows passed.
fn verdicts(line: &Line<'_>) -> String {
    let passed = line.rows.iter().filter(|row| !row.is_surprise()).count();
    if passed == line.rows.len() {
        "passed".into()
    } else {
        format!("{passed} of {} passed", line.rows.len())
    }
}
