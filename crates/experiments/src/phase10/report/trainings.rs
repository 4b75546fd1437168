//! The sections of trainings: whole gradients and first orders, from the same starts on the same tasks.

use super::super::{Part, Row};
use super::bootstrap::interval;
use super::number::{fixed, mean};
use super::page::Page;
use super::selection::{Line, Selection};

/// What a training is judged by: a key, its words, a factor, and digits.
type Measure = (&'static str, &'static str, f64, usize);

const KEY_VALUE: [Measure; 2] =
    [("accuracy", "labels read rightly, percent", 100.0, 1), ("loss", "loss on the query", 1.0, 4)];
const SINUSOID: [Measure; 2] = [
    ("loss", "squared error after adaptation", 1.0, 3),
    ("loss_median", "squared error after adaptation, median over tasks", 1.0, 3),
];

pub(super) fn write(page: &mut Page, selection: &Selection<'_>) {
    for (title, part, measures) in [
        ("A memory written by gradients", Part::KeyValue, KEY_VALUE),
        ("Sinusoids", Part::Sinusoid, SINUSOID),
    ] {
        if !super::begun(page, selection, (title, part)) {
            continue;
        }
        let lines = selection.lines(part, |_| true);
        described(page, &lines);
        for measure in measures {
            compare(page, &lines, measure);
        }
    }
}

/// What was trained, as the rows say.
fn described(page: &mut Page, lines: &[Line<'_>]) {
    let header = [
        "by",
        "steps",
        "tasks a step",
        "inner steps",
        "inner rate",
        "outer rate",
        "judged by",
        "seconds a run",
        "trained by",
    ];
    let shown = lines.iter().flat_map(|line| settings(line).into_iter().map(move |rows| (line, rows)));
    let shown = shown.map(|(line, rows)| {
        let of = |key: &str| rows.first().map_or(String::new(), |row| row.get(key).to_string());
        let seconds: Vec<f64> = rows.iter().filter_map(|row| row.number("seconds")).collect();
        let mut by: Vec<&str> = rows.iter().map(|row| row.text("trained_by")).collect();
        by.sort_unstable();
        by.dedup();
        let by = if by == [""] { "the same program".to_owned() } else { by.join(" ") };
        vec![
            line.name.clone(),
            of("steps"),
            of("batch"),
            of("inner_steps"),
            of("inner_rate"),
            of("outer_rate"),
            format!("{} tasks", of("evaluated")),
            fixed(mean(&seconds), 1),
            by,
        ]
    });
    page.table(
        "Settings of the trainings: those of `theria maml`. Both modes have the same start, tasks, rates and steps; the outer rate \
         of the first order was not tuned apart.",
        &header,
        shown,
    );
}

/// Rows of a line that were trained in the same way, whatever the mode and the seed.
fn settings<'a>(line: &Line<'a>) -> Vec<Vec<&'a Row>> {
    let keys = ["steps", "batch", "inner_steps", "inner_rate", "outer_rate", "evaluated"];
    let mut all: Vec<Vec<&Row>> = Vec::new();
    for row in &line.rows {
        match all.iter_mut().find(|rows| keys.iter().all(|key| rows[0].get(key) == row.get(key))) {
            Some(rows) => rows.push(row),
            None => all.push(vec![row]),
        }
    }
    all
}

fn compare(page: &mut Page, lines: &[Line<'_>], (key, words, factor, digits): Measure) {
    let mut seeds: Vec<u64> =
        lines.iter().flat_map(|line| line.rows.iter().filter_map(|row| row.count("seed"))).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let header = ["by".to_owned(), "mode".to_owned()];
    let header = header.into_iter().chain(seeds.iter().map(|seed| format!("seed {seed}")));
    let header: Vec<String> = header.chain(["mean".into(), "95 % interval".into()]).collect();
    let mut shown = Vec::new();
    for line in lines {
        for rows in settings(line) {
            let of = |mode: &str, seed: u64| {
                let is_it = |row: &&&Row| row.text("mode") == mode && row.count("seed") == Some(seed);
                rows.iter().find(is_it).and_then(|row| row.number(key)).map(|number| factor * number)
            };
            let full = |seed: u64| of("full", seed);
            let first = |seed: u64| of("first-order", seed);
            let difference = |seed: u64| Some(full(seed)? - first(seed)?);
            let of_seed: [(&str, &dyn Fn(u64) -> Option<f64>); 3] =
                [("FULL", &full), ("FO", &first), ("FULL - FO, paired", &difference)];
            for (mode, of_seed) in of_seed {
                let all: Vec<Option<f64>> = seeds.iter().map(|seed| of_seed(*seed)).collect();
                let there: Vec<f64> = all.iter().copied().flatten().collect();
                let cells = all.iter().map(|number| fixed(*number, digits));
                let range = interval(&there)
                    .map(|(low, high)| [low, high].map(|end| fixed(Some(end), digits)).join(" to "));
                let ends = [fixed(mean(&there), digits), range.unwrap_or_else(|| "-".into())];
                let begin = [line.name.clone(), mode.to_owned()];
                shown.push(begin.into_iter().chain(cells).chain(ends).collect());
            }
        }
    }
    let caption = format!(
        "{words}, on tasks that nothing was learned from. Intervals are of the mean over seeds, by bootstrap."
    );
    let mut letters = caption.chars();
    let caption: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    page.table(&caption, &header, shown);
}
