//! `theria experiment phase10`.

use std::fs;

use serde_json::{Value, json};
use theria_experiments::backend::Backend;

use crate::{Bench, Ran, text, theria};

fn phase10(arguments: &[&str]) -> Ran {
    theria(&[&["experiment", "phase10"], arguments].concat())
}

impl Bench {
    fn rows(&self, more: &[&str]) -> (Ran, Vec<Value>) {
        let path = self.path("rows.jsonl");
        let ran = phase10(&[&["--rows", text(&path)], more].concat());
        let lines = fs::read_to_string(&path).unwrap_or_default();
        (ran, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn report(&self, rows: &str) -> Ran {
        phase10(&["--report", text(&self.path(rows)), "--out", text(&self.path("report"))])
    }

    fn page(&self) -> String {
        fs::read_to_string(self.path("report/phase10_report.md")).unwrap()
    }
}

fn of<'a>(rows: &'a [Value], part: &str, backend: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["part"] == part && row["backend"] == backend).collect()
}

#[test]
fn a_quick_measurement_makes_rows_of_every_part_and_a_report_of_them() {
    let bench = Bench::new();
    let (ran, rows) = bench.rows(&["--quick", "--backend", "dense,streaming"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for row in &rows {
        // Sources that were copied without their history have no revision.
        assert!(row["git"].is_string() || row["git"].is_null(), "{row}");
        assert!(row["cpu"].is_string() && row["threads"] == 1 && row["device"] == "cpu", "{row}");
        assert!(row["toolchain"].as_str().unwrap().starts_with("rustc"), "{row}");
        assert!(row["verdict"] == row["expected"] && row["quick"] == true, "{row}");
    }
    // An oracle that is somebody else's, with every optimiser in every type.
    for backend in ["dense", "streaming"] {
        let gradients = of(&rows, "gradients", backend);
        let judged = |dtype: &str, mode: &str, key: &str| {
            let of_mode = gradients.iter().filter(|row| row["dtype"] == dtype && row["mode"] == mode);
            of_mode.filter(|row| !row[key].is_null()).count()
        };
        for dtype in ["f64", "f32"] {
            assert_eq!(judged(dtype, "full", "error"), 3);
            for mode in ["truncated:0", "truncated:3", "first-order-strict"] {
                assert_eq!(judged(dtype, mode, "same_bits"), 3, "{mode}");
            }
        }
        let off = gradients.iter().filter(|row| row["mode"] == "first-order");
        assert!(off.clone().count() == 6 && off.clone().all(|row| row["from_full"].as_f64().unwrap() > 0.3));
        let refused = of(&rows, "gradients", &format!("opaque({backend})"));
        assert!(refused.len() == 6 && refused.iter().all(|row| row["verdict"] == "refused"), "{refused:?}");
    }
    for wrong in ["frozen-both", "once-differentiable"] {
        let (gradients, paths) = (of(&rows, "gradients", wrong), of(&rows, "rel-diff", wrong));
        assert!(gradients.len() == 3 && paths.len() == 2, "{gradients:?}");
        assert!(gradients.iter().chain(&paths).all(|row| row["error"].as_f64().unwrap() > 1e-2));
    }
    let paths = of(&rows, "rel-diff", "streaming");
    assert_eq!(paths.len(), 4);
    assert!(paths.iter().all(|row| row["rel_diff"].as_f64().unwrap() > 0.1 && row["hvp_error"].is_number()));
    assert_eq!((of(&rows, "depth", "dense").len(), of(&rows, "timings", "streaming").len()), (4, 2));
    let bytes = |row: &&Value| row["bytes"].as_f64().unwrap();
    assert!(of(&rows, "timings", "streaming").iter().all(|row| (1e4..1e8).contains(&bytes(row))));
    for task in ["key-value", "sinusoid"] {
        let trained = of(&rows, task, "dense");
        assert_eq!(trained.len(), 4);
        let loss =
            |mode: &str| trained.iter().find(|row| row["mode"] == mode).unwrap()["loss"].as_f64().unwrap();
        assert_ne!(loss("full"), loss("first-order"), "{task}");
    }

    let ran = bench.report("rows.jsonl");
    assert!(ran.code == 0 && ran.out.contains("phase10_report.md"), "{ran:?}");
    let page = bench.page();
    for words in
        ["`--quick`", "`streaming` f32 [A]", "refused", "FULL - FO, paired", "Otherwise than expected: 0."]
    {
        assert!(page.contains(words), "no '{words}' in {page}");
    }
    for picture in ["phase10_rel_diff.svg", "phase10_depth.svg"] {
        let svg = fs::read_to_string(bench.path("report").join(picture)).unwrap();
        assert!(svg.starts_with("<svg") && page.contains(picture), "{picture}");
    }
}

#[test]
fn rows_are_added_and_the_last_of_equal_ones_counts() {
    let bench = Bench::new();
    let measure = || bench.rows(&["--part", "gradients", "--backend", "dense"]);
    let (ran, once) = measure();
    assert_eq!(ran.code, 0, "{ran:?}");
    let (_, twice) = measure();
    assert_eq!((twice.len(), &twice[..once.len()]), (2 * once.len(), &once[..]));
    assert_eq!(bench.report("rows.jsonl").code, 0);
    let page = bench.page();
    assert!(page.contains(&format!("and count no more: {}.", once.len())), "{page}");
    assert!(page.contains("There are no rows of `sinusoid`."), "{page}");
    // An older number that is wrong is not seen, a newer one is.
    let write = |lines: [&Value; 2]| {
        fs::write(bench.path("two.jsonl"), format!("{}\n{}\n", lines[0], lines[1])).unwrap();
        assert_eq!(bench.report("two.jsonl").code, 0);
        bench.page()
    };
    let mut wrong = once[0].clone();
    (wrong["error"], wrong["verdict"]) = (json!(0.125), json!("failed"));
    let page = write([&wrong, &once[0]]);
    assert!(page.contains("Otherwise than expected: 0.") && !page.contains("1.2e-1"), "{page}");
    let page = write([&once[0], &wrong]);
    assert!(page.contains("Otherwise than expected: 1.") && page.contains("failed, not passed"), "{page}");
    assert!(page.contains("| 1.2e-1 |"), "{page}");
}

#[test]
fn a_run_of_theria_maml_stands_for_a_training() {
    let bench = Bench::new();
    let train = |folder: &str, more: &[&str]| {
        let path = bench.path(folder);
        let usual =
            ["maml", "--task", "key-value", "--outer-steps", "3", "--batch", "4", "--out", text(&path)];
        assert_eq!(theria(&[&usual, more].concat()).code, 0);
        path
    };
    let full = train("full", &["--evaluate", "1000", "--json"]);
    let (ran, rows) = bench.rows(&["--from-runs", text(&full)]);
    assert_eq!((ran.code, rows.len()), (0, 1), "{ran:?}");
    assert_eq!((&rows[0]["mode"], &rows[0]["steps"]), (&json!("full"), &json!(3)));
    assert_eq!(rows[0]["trained_by"], rows[0]["git"].as_str().unwrap_or("unknown"));
    let again = theria(&["maml", "--resume", text(&full), "--evaluate", "1000", "--json"]).json();
    assert_eq!(rows[0]["loss"], again["evaluation"]["loss"]["mean"]);
    let other = train("other", &["--mode", "truncated:1"]);
    bench.rows(&["--from-runs", text(&other)]).0.complains(&["other", "truncated:1", "full and first-order"]);
    bench.rows(&["--from-runs", text(&bench.path("none"))]).0.complains(&["none", "has no run"]);
}

#[test]
fn files_that_are_no_rows_are_told_by_line_and_left_alone() {
    let bench = Bench::new();
    let (_, rows) = bench.rows(&["--part", "gradients", "--backend", "dense"]);
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut row = rows[0].clone();
        change(&mut row);
        fs::write(bench.path("bad.jsonl"), format!("{}\n{row}\n", rows[0])).unwrap();
        bench.report("bad.jsonl")
    };
    let without = |key: &'static str| move |row: &mut Value| drop(row.as_object_mut().unwrap().remove(key));
    broken(&without("optimiser")).complains(&["bad.jsonl", "line 2", "no `optimiser`", "gradients"]);
    broken(&without("git")).complains(&["line 2", "no `git`"]);
    broken(&|row| row["schema"] = json!(7)).complains(&["line 2", "its schema is 7"]);
    broken(&|row| row["part"] = json!("taste")).complains(&["line 2", "taste", "rel-diff"]);
    broken(&|row| row["verdict"] = json!("fine")).complains(&["line 2", "passed, failed, refused"]);
    broken(&|row| *row = json!([1])).complains(&["line 2", "no object"]);
    fs::write(bench.path("notes.txt"), "my notes\n").unwrap();
    bench.report("notes.txt").complains(&["line 1 of", "notes.txt", "no JSON"]);
    let notes = bench.path("notes.txt");
    phase10(&["--rows", text(&notes), "--quick"]).complains(&["notes.txt", "no JSON"]);
    assert_eq!(fs::read_to_string(&notes).unwrap(), "my notes\n");
    fs::write(bench.path("empty.jsonl"), "\n").unwrap();
    bench.report("empty.jsonl").complains(&["empty.jsonl", "has no rows", "--rows"]);
    bench.report("none.jsonl").complains(&["cannot read", "none.jsonl"]);
    assert!(!bench.path("report").exists(), "nothing is written");
}

#[test]
fn wrong_usage_of_an_experiment_says_what_is_allowed() {
    let bench = Bench::new();
    theria(&["experiment"]).complains(&["phase10"]);
    theria(&["experiment", "phase9"]).complains(&["phase9"]);
    phase10(&[]).complains(&["--rows"]);
    phase10(&["--report", "rows.jsonl"]).complains(&["--out"]);
    let with = |more: &[&str]| bench.rows(more).0;
    with(&["--part", "taste"]).complains(&["taste", "gradients, rel-diff"]);
    with(&["--backend", "cuda-fast"]).complains(&["cuda-fast", "streaming, dense, cuda-ref, cuda-fused"]);
    with(&["--backend", "opaque(dense)"]).complains(&["opaque(dense)", "comes with dense"]);
    phase10(&["--bytes-of", "cuda-fused"]).complains(&["cuda-fused", "BACKEND:TYPE"]);
    with(&["--seeds", "0"]).complains(&["--seeds"]);
    if Backend::CudaRef.availability().is_err() {
        with(&["--backend", "cuda-ref", "--part", "gradients"]).complains(&["no device"]);
    }
    let help = phase10(&["--help"]);
    assert!(help.out.contains("Examples:") && help.out.contains("--from-runs"), "{}", help.out);
}
