//! Help, exit codes, tables, and readers that leave early.

use std::io::Read as _;
use std::process::{Command, Stdio};

use theria_contract::{DType, Rule};
use theria_experiments::backend::Backend;

use crate::{Bench, theria};

#[test]
fn help_of_every_command_has_examples() {
    for command in ["eval", "check", "boundary", "doctor"] {
        let ran = theria(&[command, "--help"]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("Examples:") && ran.out.contains("--json"), "{command}: {}", ran.out);
    }
    let ran = theria(&["--help"]);
    assert!(ran.out.contains("Examples:") && ran.out.contains("Exit code:"), "{}", ran.out);
    assert!(theria(&["--version"]).out.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_has_exit_code_2_and_says_what_is_allowed() {
    theria(&["evaluate"]).complains(&["evaluate"]);
    theria(&["eval"]).complains(&["--input", "--output"]);
    let files = ["eval", "--input", "a", "--output", "b"];
    let with = |more: &[&str]| theria(&[&files[..], more].concat());
    with(&["--backend", "cuda-fussed"]).complains(&["cuda-fussed", "auto", "dense"]);
    with(&["--dtype", "fp8"]).complains(&["fp8", "f64, f32, f16, bf16"]);
    with(&["--rules", "hvp"]).complains(&["hvp", "forward, backward, jvp, second-order"]);
    with(&["--checks", "some"]).complains(&["some", "finite", "none"]);
    with(&[]).complains(&["cannot read", "a"]);
}

#[test]
fn the_boundary_agrees_with_what_backends_say() {
    let ran = theria(&["boundary", "--json"]);
    assert_eq!(ran.code, 0);
    let json = ran.json();
    let entries = json["entries"].as_array().unwrap();
    for backend in Backend::ALL {
        for rule in Rule::ALL {
            for dtype in DType::ALL {
                let problem = theria_contract::Problem::builder(dtype).head_dims(64, 64).build().unwrap();
                let said = backend.support(&problem, rule);
                let entry = entries.iter().find(|entry| {
                    entry["backend"] == backend.name()
                        && entry["rule"] == rule.name()
                        && entry["dtype"] == dtype.name()
                        && entry["problem"] == "plain"
                });
                let entry = entry.unwrap_or_else(|| panic!("{backend} {rule} {dtype} is missing"));
                assert_eq!(entry["support"] == "exact", said.is_exact());
                assert_eq!(entry["reason"].is_string(), matches!(said, theria_contract::Support::Refused(_)));
            }
        }
    }
    let text = theria(&["boundary"]).out;
    assert!(text.contains("grouped heads") && text.contains("exact"), "{text}");
    assert!(!text.contains('\x1b'), "no colours when nobody watches");
}

#[test]
fn the_doctor_finds_every_backend_within_bounds() {
    let ran = theria(&["doctor", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!(json["self_test"].as_array().unwrap().len(), Backend::ALL.len() * DType::ALL.len());
    assert!(json["findings"][0]["what"].as_str().unwrap().contains("no GPU backend"));
    let text = theria(&["doctor"]).out;
    assert!(text.contains("Self-test") && text.contains("threads"), "{text}");
}

#[test]
fn the_tour_proves_what_it_shows() {
    let ran = theria(&["--json", "--seed", "3"]);
    let json = ran.json();
    assert_eq!(ran.code == 0, json["passed"] == true, "{ran:?}");
    let proofs = json["proofs"].as_array().unwrap();
    assert!(proofs.iter().all(|proof| proof["passed"] == true), "{proofs:?}");
    let control =
        proofs.iter().find(|proof| proof["what"].as_str().unwrap().contains("negative control")).unwrap();
    assert!(control["value"].as_f64().unwrap() < 1.9, "{control}");
    assert_eq!(json["rules"].as_array().unwrap().len(), 4);
    assert_eq!(json["seed"], 3);
}

#[test]
fn a_reader_that_leaves_early_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_theria"))
        .args(["boundary", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    let left = child.wait_with_output().unwrap();
    assert_eq!(left.status.code(), Some(0));
    assert!(left.stderr.is_empty(), "{}", String::from_utf8_lossy(&left.stderr));
}

#[test]
fn a_verdict_stands_when_its_reader_left() {
    let (bench, _) = Bench::with_case();
    let wrong = theria_contract::Tensor::<f64>::zeros([2, 4, 6, 5]).unwrap();
    let tensor = theria_experiments::case_file::FileTensor::floating("out", &wrong, 4);
    let bytes = theria_experiments::case_file::encode(&[tensor], &std::collections::BTreeMap::new());
    std::fs::write(bench.path("theirs.safetensors"), bytes).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_theria"))
        .args(["check", "--json", "--case"])
        .arg(bench.path("case.safetensors"))
        .arg("--candidate")
        .arg(bench.path("theirs.safetensors"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_damaged_case_is_an_error_that_names_the_file() {
    let (bench, _) = Bench::with_case();
    let bytes = std::fs::read(bench.path("case.safetensors")).unwrap();
    std::fs::write(bench.path("cut.safetensors"), &bytes[..bytes.len() - 8]).unwrap();
    bench.eval("cut.safetensors", "out.safetensors", &[]).complains(&["cut.safetensors", "truncated"]);
    std::fs::write(bench.path("text.safetensors"), "not a case, but a text").unwrap();
    bench
        .eval("text.safetensors", "out.safetensors", &[])
        .complains(&["text.safetensors", "no safetensors file"]);
    bench.check("cut.safetensors", "case.safetensors", &[]).complains(&["cut.safetensors", "truncated"]);
}
