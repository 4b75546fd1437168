//! The report of phase 10: it says what its rows say, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use theria_experiments::phase10::report::{PAGE, Report, render};
use theria_experiments::phase10::{Row, read};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Rows as a file has them.
fn rows(all: &[Value]) -> Vec<Row> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let lines: Vec<String> = all.iter().map(Value::to_string).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    read(&path).unwrap()
}

fn made(part: &str, dtype: &str, keys: &Value) -> Value {
    let mut row = json!({
        "schema": 1, "phase": 10, "part": part, "backend": "streaming", "dtype": dtype, "git": "abc", "toolchain": "rustc 1",
        "cpu": "a processor", "threads": 1, "device": "cpu", "driver": null, "cuda": null,
    });
    row.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    row
}

fn trained(mode: &str, seed: u64, accuracy: f64) -> Value {
    let keys = json!({
        "mode": mode, "seed": seed, "steps": 2000, "batch": 64, "inner_steps": 2, "inner_rate": 0.1, "outer_rate": 0.003,
        "evaluated": 1000, "accuracy": accuracy, "loss": 1.0 - accuracy, "seconds": 2.0,
    });
    made("key-value", "f64", &keys)
}

fn looped(part: &str, dtype: &str, steps: u64, seed: u64, rel_diff: f64) -> Value {
    let keys = json!({
        "steps": steps, "seed": seed, "inner_rate": 0.4, "rel_diff": rel_diff, "error": 1e-7 * steps as f64, "finite": true,
        "rel_diff_difference": 2e-8, "bound": 1e-3, "hvp_error": 3e-8, "asymmetry": 4e-9, "verdict": "passed",
        "expected": "passed", "oracle": "dense", "time_us": 1500.0 * steps as f64, "kept_states": 2,
    });
    made(part, dtype, &keys)
}

fn page(all: &[Value]) -> String {
    render(&rows(all)).unwrap().page
}

/// The cells of the first line that begins with these words after others have been passed.
fn cells(page: &str, after: &str, begin: &str) -> Vec<String> {
    let rest = &page[page.find(after).unwrap_or_else(|| panic!("no '{after}' in {page}"))..];
    let line = rest.lines().find(|line| line.starts_with(begin));
    let line = line.unwrap_or_else(|| panic!("no '{begin}' after '{after}' in {page}"));
    line.trim_matches(['|', ' ']).split(" | ").map(str::to_owned).collect()
}

#[test]
fn trainings_are_paired_by_seed_and_their_difference_has_an_interval() {
    let accuracies = [(0, 0.9, 0.75), (1, 0.92, 0.79), (2, 0.91, 0.78)];
    let all: Vec<Value> = accuracies
        .iter()
        .flat_map(|(seed, full, first)| {
            [trained("full", *seed, *full), trained("first-order", *seed, *first)]
        })
        .collect();
    let page_ = page(&all);
    let line = |mode: &str| cells(&page_, "read rightly", &format!("| `streaming` f64 [A] | {mode} |"));
    assert_eq!(line("FULL")[2..6], ["90.0", "92.0", "91.0", "91.0"]);
    assert_eq!(line("FO")[2..6], ["75.0", "79.0", "78.0", "77.3"]);
    // Means of three of 15, 13 and 13: from 13 to 15, and each end is drawn often enough.
    assert_eq!(line("FULL - FO, paired")[2..], ["15.0", "13.0", "13.0", "13.7", "13.0 to 15.0"]);
    // The order of rows is nothing, and a seed that only one mode has is in no pair.
    let mut turned = all.clone();
    turned.rotate_left(3);
    turned.push(trained("full", 7, 0.5));
    let page_ = page(&turned);
    assert_eq!(
        cells(&page_, "read rightly", "| `streaming` f64 [A] | FULL - FO")[2..7],
        ["15.0", "13.0", "13.0", "-", "13.7"]
    );
    // Other settings are another comparison.
    let mut other = trained("first-order", 0, 0.1);
    other["outer_rate"] = json!(0.5);
    let page_ = page(&[trained("full", 0, 0.9), other]);
    assert_eq!(cells(&page_, "read rightly", "| `streaming` f64 [A] | FULL - FO")[2..], ["-", "-", "-"]);
}

#[test]
fn loops_are_means_over_seeds_and_the_worst_of_errors() {
    let all: Vec<Value> = [(1, 0, 0.2), (1, 1, 0.4), (5, 0, 0.7), (5, 1, 0.9)]
        .iter()
        .map(|(steps, seed, rel_diff)| looped("rel-diff", "f32", *steps, *seed, *rel_diff))
        .chain([looped("depth", "f32", 2, 0, 0.0)])
        .collect();
    let made = render(&rows(&all)).unwrap();
    let begin = "| `streaming` f32 [A] |";
    assert_eq!(cells(&made.page, "`rel_diff`, means", begin)[1..], ["0.300000", "0.800000"]);
    assert_eq!(cells(&made.page, "The largest error of the whole", begin)[1..], ["1.0e-7", "5.0e-7"]);
    assert_eq!(cells(&made.page, "Errors of the meta-gradient.", begin)[1..], ["2.0e-7"]);
    assert_eq!(cells(&made.page, "Time of a whole", begin)[1..], ["3.00 ms"]);
    let names: Vec<&str> = made.pictures.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["phase10_rel_diff.svg", "phase10_depth.svg"]);
    assert!(made.pictures.iter().all(|(_, svg)| svg.contains("streaming f32 [A]")));
    // Equal rows, equal bytes; another number, another page and another picture.
    assert_eq!(render(&rows(&all)).unwrap(), made);
    let mut other = all.clone();
    other[2]["rel_diff"] = json!(0.71);
    let Report { page, pictures } = render(&rows(&other)).unwrap();
    assert!(page != made.page && pictures[0] != made.pictures[0] && pictures[1] == made.pictures[1]);
}

#[test]
fn what_fails_and_a_control_that_passes_are_listed() {
    let good = looped("rel-diff", "f32", 1, 0, 0.2);
    assert!(page(std::slice::from_ref(&good)).contains("Otherwise than expected: 0."));
    let mut failed = good.clone();
    failed["verdict"] = json!("failed");
    let page_ = page(&[failed]);
    assert!(page_.contains("Otherwise than expected: 1.") && page_.contains("failed, not passed"), "{page_}");
    let mut control = good.clone();
    control["expected"] = json!("failed");
    let page_ = page(&[control.clone()]);
    assert!(page_.contains("1 are negative controls") && page_.contains("passed, not failed"), "{page_}");
    control["verdict"] = json!("failed");
    assert!(page(&[control]).contains("Otherwise than expected: 0."));
    // What is not finite does not hide behind a mean.
    let mut astray = good;
    (astray["rel_diff"], astray["error"], astray["finite"]) = (Value::Null, Value::Null, json!(false));
    let page_ = page(&[astray, looped("rel-diff", "f32", 1, 1, 0.2)]);
    assert_eq!(cells(&page_, "`rel_diff`, means", "| `streaming` f32 [A] |")[1..], ["not finite"]);
}
#[test]
fn the_report_of_the_documentation_is_what_its_rows_give() {
    let docs = root().join("docs");
    let rows = read(&docs.join("results/phase10_rows.jsonl")).unwrap();
    let Report { page, pictures } = render(&rows).unwrap();
    let advice = "differs from its rows: theria experiment phase10 --report docs/results/phase10_rows.jsonl --out docs";
    for (name, made) in [(PAGE, &page)].into_iter().chain(pictures.iter().map(|(name, svg)| (*name, svg))) {
        let there = fs::read_to_string(docs.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(there == *made, "{name} {advice}");
    }
    // Negative control: without the last row the page is another one.
    assert_ne!(render(&rows[..rows.len() - 1]).unwrap().page, page);
}
