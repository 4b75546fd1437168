//! Pictures of the report.

use super::super::{Part, Phase10Error, Result, Row};
use super::number::mean;
use super::selection::{Line, Selection};
use crate::plot::curves::{Curve, Scale, curves};

pub(super) const REL_DIFF: &str = "phase10_rel_diff.svg";
pub(super) const DEPTH: &str = "phase10_depth.svg";

/// Curves of a picture, at most.
const MOST: usize = 5;

/// What is drawn if it is there, the first first.
const DRAWN: [(&str, &str); 6] = [
    ("dense", "f64"),
    ("frozen-both", "f64"),
    ("once-differentiable", "f64"),
    ("cuda-fused", "bf16"),
    ("cuda-fused", "f32"),
    ("streaming", "f32"),
];

/// Each picture that there are rows for.
pub(super) fn all(selection: &Selection<'_>) -> Result<Vec<(&'static str, String)>> {
    let mut pictures = Vec::new();
    let drawn = [
        (
            REL_DIFF,
            Part::RelDiff,
            "What the first order leaves out",
            ["steps of the inner loop, K", "|FULL - FO| / |FULL|"],
            Scale::Even,
            "rel_diff",
        ),
        (
            DEPTH,
            Part::Depth,
            "Errors of meta-gradients against dense in f64",
            ["steps of the inner loop, K", "|g - g*| / |g*|"],
            Scale::PowersOfTen,
            "error",
        ),
    ];
    for (name, part, title, axes, scale, key) in drawn {
        // The reference has no error.
        let is_drawn = |row: &Row| part != Part::Depth || row.number("error").is_none_or(|error| error > 0.0);
        let lines = selection.lines(part, is_drawn);
        let all = chosen(&lines).into_iter().map(|line| curve(line, key)).collect::<Vec<_>>();
        if all.is_empty() {
            continue;
        }
        let picture = curves(title, axes, scale, &all)
            .map_err(|error| Phase10Error::Picture { name, reason: error.to_string() })?;
        pictures.push((name, picture));
    }
    Ok(pictures)
}

/// Lines by the table of what is drawn, and others where that leaves room.
fn chosen<'a, 'r>(lines: &'a [Line<'r>]) -> Vec<&'a Line<'r>> {
    let is = |line: &&Line<'_>, (backend, dtype): (&str, &str)| {
        line.rows.iter().all(|row| row.text("backend") == backend && row.text("dtype") == dtype)
    };
    let first = DRAWN.iter().filter_map(|names| lines.iter().find(|line| is(line, *names)));
    let rest = lines.iter().filter(|line| !DRAWN.iter().any(|names| is(line, *names)));
    first.chain(rest).take(MOST).collect()
}

fn curve(line: &Line<'_>, key: &str) -> Curve {
    let mut steps: Vec<u64> = line.rows.iter().filter_map(|row| row.count("steps")).collect();
    steps.sort_unstable();
    steps.dedup();
    let point = |steps: u64| Some((steps as f64, mean(&line.at(steps, key))?));
    Curve { name: line.name.replace('`', ""), points: steps.into_iter().filter_map(point).collect() }
}
