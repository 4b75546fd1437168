//! The section of what the first order leaves out.

use super::super::prototypes::GROUPS;
use super::super::{Part, Row};
use super::number::{fixed, mean, scientific, worst};
use super::page::Page;
use super::picture;
use super::selection::{Line, Selection};

pub(super) fn write(page: &mut Page, selection: &Selection<'_>) {
    if !super::begun(page, selection, ("What the first order leaves out", Part::RelDiff)) {
        return;
    }
    let (steps, seeds) = (selection.counts(Part::RelDiff, "steps"), selection.counts(Part::RelDiff, "seed"));
    let rates: Vec<f64> = selection
        .rows()
        .iter()
        .filter(|row| row.part() == Part::RelDiff)
        .filter_map(|row| row.number("inner_rate"))
        .collect();
    page.paragraph(&format!(
        "The small transformer of `theria maml --task prototypes` where training begins, adapted by gradient descent at a rate of {}, \
         for the first task of each of {} seeds. `rel_diff` is |FULL - FO| / |FULL| over all parameters. It describes a loop, \
         and certifies nothing: whether a gradient is right, its distance from `dense` in f64 says. That shares the loop and the model with the others, \
         and not the attention; the loop itself is held against an independent system above. A bound is that of one product of the \
         Hessian in the type, by the table of bounds of `theria-contract`, times √K.",
        fixed(rates.first().copied(), 2),
        seeds.len()
    ));
    page.picture("rel_diff over the steps of the inner loop", picture::REL_DIFF);
    let lines = selection.lines(Part::RelDiff, |_| true);
    let header: Vec<String> =
        [String::from("by")].into_iter().chain(steps.iter().map(|k| format!("K = {k}"))).collect();
    let table = |key: &'static str, of: fn(&[f64]) -> String| {
        let steps = steps.clone();
        let lines: Vec<Vec<String>> = lines
            .iter()
            .map(|line| {
                let is_there = line.rows.iter().any(|row| !row.get(key).is_null());
                let cell = |k: &u64| if is_there { of(&line.at(*k, key)) } else { "reference".to_owned() };
                let cells = steps.iter().map(cell);
                [line.name.clone()].into_iter().chain(cells).collect()
            })
            .collect();
        lines
    };
    page.table("`rel_diff`, means over the seeds.", &header, table("rel_diff", |all| fixed(mean(all), 6)));
    page.table(
        "The largest difference between `rel_diff` and that of `dense` in f64, over the seeds.",
        &header,
        table("rel_diff_difference", |all| scientific(worst(all))),
    );
    page.table(
        "The largest error of the whole meta-gradient against `dense` in f64, over the seeds.",
        &header,
        table("error", |all| scientific(worst(all))),
    );
    let header = [
        "by",
        "error of H v",
        "asymmetry of H",
        "bound, one step",
        "verdict",
        "ought to be",
        "bounds below every wrong operator",
    ];
    let shown = lines.iter().map(|line| {
        let all = |key: &str| -> Vec<f64> {
            let rows = line.rows.iter().filter(|row| key != "hvp_error" || row.get("oracle").is_string());
            rows.map(|row| row.number(key).unwrap_or(f64::NAN)).collect()
        };
        let first = line.rows.iter().min_by_key(|row| row.count("steps"));
        vec![
            line.name.clone(),
            scientific(worst(&all("hvp_error"))),
            scientific(worst(&all("asymmetry"))),
            scientific(first.and_then(|row| row.number("bound"))),
            verdicts(line),
            first.map_or(String::new(), |row| row.text("expected").to_owned()),
            apart(line, &lines),
        ]
    });
    page.table(
        "The largest error of a product of the Hessian where the loop begins, and the largest asymmetry of the Hessian where it \
         ends, over the seeds and steps. The negative controls are wrong on purpose: `frozen-both` takes its statistics for \
         constants in the backward, `once-differentiable` all of the backward. The last column says of how many of the bounds no wrong \
         operator comes below them with the same steps and seed: where one does, passing says little.",
        &header,
        shown,
    );
    paths(page, &lines, &steps);
}

/// How many of a line's rows passed.
fn verdicts(line: &Line<'_>) -> String {
    let judged = line.rows.iter().filter(|row| row.verdict().is_some());
    let passed = judged.clone().filter(|row| row.text("verdict") == "passed").count();
    match judged.count() {
        0 => "reference".into(),
        judged => format!("{passed} of {judged} passed"),
    }
}

/// Of how many of a line's bounds no operator that is wrong on purpose comes below them.
fn apart(line: &Line<'_>, lines: &[Line<'_>]) -> String {
    let wrong: Vec<&Row> =
        lines.iter().flat_map(|line| &line.rows).copied().filter(|row| row.is_control()).collect();
    let bounds: Vec<_> =
        line.rows.iter().filter(|row| row.number("bound").is_some() && !row.is_control()).collect();
    if wrong.is_empty() || bounds.is_empty() {
        return "-".into();
    }
    let same = |row: &Row, wrong: &Row| ["steps", "seed"].iter().all(|key| row.get(key) == wrong.get(key));
    let above =
        |row: &Row, wrong: &Row| wrong.number("error").is_none_or(|error| row.number("bound") < Some(error));
    let is_apart =
        |row: &&&&Row| wrong.iter().filter(|wrong| same(row, wrong)).all(|wrong| above(row, wrong));
    format!("{} of {}", bounds.iter().filter(is_apart).count(), bounds.len())
}

/// Norms of what the second order adds, by group, of the reference and of the control.
fn paths(page: &mut Page, lines: &[Line<'_>], steps: &[u64]) {
    let groups = GROUPS.iter().map(|name| format!("path, {name}"));
    let whole = GROUPS.iter().map(|name| format!("of FULL, {name}"));
    let header: Vec<String> = ["by", "K"].map(String::from).into_iter().chain(groups).chain(whole).collect();
    let is_shown = |row: &Row| {
        ["dense", "frozen-both", "once-differentiable"].contains(&row.text("backend"))
            && row.text("dtype") == "f64"
    };
    let shown = lines.iter().filter(|line| line.rows.iter().all(|row| is_shown(row)));
    let shown = shown.flat_map(|line| {
        steps.iter().map(move |k| {
            let norms = GROUPS.iter().map(|name| fixed(mean(&line.at(*k, &format!("path_{name}"))), 4));
            let parts = GROUPS.iter().map(|name| {
                let (path, full) =
                    (line.at(*k, &format!("path_{name}")), line.at(*k, &format!("full_{name}")));
                let parts: Vec<f64> = path.iter().zip(&full).map(|(path, full)| path / full).collect();
                fixed(mean(&parts), 4)
            });
            [line.name.clone(), k.to_string()].into_iter().chain(norms).chain(parts).collect()
        })
    });
    page.table(
        "The second-order path of groups of parameters: |FULL - FO|, and as a part of |FULL|; means over the seeds.",
        &header,
        shown,
    );
}
