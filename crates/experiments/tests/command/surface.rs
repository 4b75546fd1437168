//! Help, exit codes, tables, and readers that leave early.

use std::io::Read as _;
use std::process::{Command, Stdio};

use theria_contract::{DType, Rule};
use theria_experiments::backend::Backend;

use crate::{Bench, theria};

#[test]
fn help_of_every_command_has_examples() {
    for command in ["eval", "check", "boundary", "bench", "doctor", "tune", "maml", "experiment"] {
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
    with(&["--backend", "frozen-stats"]).complains(&["frozen-stats", "another linear map", "streaming"]);
    with(&["--backend", "opaque"]).complains(&["not a backend", "cannot be differentiated", "auto"]);
    with(&["--backend", "opaque(streaming)"]).complains(&["opaque(streaming)", "theria boundary"]);
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
    for (name, rule, support) in [
        ("opaque(streaming)", "backward", "exact"),
        ("opaque(streaming)", "second-order", "refused"),
        ("frozen-stats", "forward", "exact"),
        ("frozen-stats", "jvp", "frozen-stats"),
    ] {
        let mut said = entries.iter().filter(|entry| entry["backend"] == name && entry["rule"] == rule);
        assert!(said.clone().count() > 0, "{name} {rule} is missing");
        assert!(said.all(|entry| entry["support"] == support && entry["standing"] == "experiment"));
    }
    let text = theria(&["boundary"]).out;
    assert!(text.contains("Experiments only, refused by every production path"), "{text}");
    assert!(text.contains("grouped heads") && text.contains("exact"), "{text}");
    assert!(!text.contains('\x1b'), "no colours when nobody watches");
}

#[test]
fn the_doctor_finds_every_backend_within_bounds() {
    let ran = theria(&["doctor", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    let tests = json["self_test"].as_array().unwrap();
    assert_eq!(tests.len(), Backend::present().count() * DType::ALL.len());
    for test in tests {
        let rules = test["rules"].as_array().unwrap();
        assert_eq!(rules.len(), Rule::ALL.len());
        for rule in rules {
            let passed = rule["verdict"] == "passed" && rule["error"].is_number();
            let refused = rule["support"].as_str().unwrap().starts_with("refused") && rule["error"].is_null();
            let on_the_host = ["streaming", "dense"].contains(&test["backend"].as_str().unwrap());
            assert!(passed || (refused && !on_the_host), "{test}");
        }
    }
    let text = theria(&["doctor"]).out;
    assert!(text.contains("Self-test") && text.contains("threads") && text.contains("nvrtc"), "{text}");
}

#[test]
fn what_is_missing_of_cuda_is_advice_of_the_doctor_and_an_error_of_eval_and_never_a_failure() {
    let json = theria(&["doctor", "--json"]).json();
    let here = Backend::CudaRef.availability().is_ok();
    assert_eq!(json["gpu_backend"], here, "{json}");
    assert_eq!(json["cuda"]["error"].is_null(), here, "{json}");
    let entries = theria(&["boundary", "--json"]).json();
    let of_cuda = |entry: &&serde_json::Value| entry["backend"] == "cuda-ref" && entry["rule"] == "forward";
    let answers: Vec<_> = entries["entries"].as_array().unwrap().iter().filter(of_cuda).collect();
    assert!(!answers.is_empty() && answers.iter().all(|entry| (entry["support"] == "exact") == here));
    let (bench, _) = Bench::with_case();
    let ran = bench.eval("case.safetensors", "out.safetensors", &["--backend", "cuda-ref"]);
    if here {
        assert_eq!((ran.code, json["cuda"]["kernels"][0]["kernel"].is_string()), (0, true), "{ran:?}");
        let lists = ["forward", "sweeps"].map(serde_json::Value::from);
        let tuned = json["cuda"]["tuned"].as_array().unwrap().iter();
        assert!(tuned.map(|table| &table["list"]).eq(&lists), "{json}");
        return;
    }
    assert!(json["findings"][0]["todo"].as_str().unwrap().len() > 10, "{json}");
    ran.complains(&["cuda-ref is not available here", "use the CPU backends", "--backend auto"]);
    assert!(!bench.names().contains(&"out.safetensors".to_owned()), "nothing is written");
    let reason = answers[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("not available here: no"), "{reason}");
    // Another backend is never put in its place, and auto never is one that is not here.
    let ran = bench.eval("case.safetensors", "out.safetensors", &["--rules", "forward", "--json"]);
    assert_eq!((ran.code, &ran.json()["backend"]), (0, &"streaming".into()), "{ran:?}");
}

#[test]
fn the_tour_proves_what_it_shows() {
    let ran = theria(&["--json", "--seed", "3"]);
    let json = ran.json();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!((&json["passed"], &json["deterministic"]["same_bits"]), (&true.into(), &true.into()));
    assert_eq!((&json["seed"], json["rules"].as_array().unwrap().len()), (&3.into(), 4));
    let proofs = json["proofs"].as_array().unwrap();
    assert_eq!(proofs.len(), theria_jvp_hvp::proof::Proof::ALL.len());
    for proof in proofs {
        assert_eq!((&proof["passed"], &proof["verdict"]), (&true.into(), &"passed".into()), "{proof}");
        let control = &proof["control"];
        assert_eq!((&control["rejected"], &control["verdict"]), (&true.into(), &"failed".into()), "{proof}");
    }
    let control = |what: &str| {
        let proof = proofs.iter().find(|proof| proof["what"] == what).unwrap();
        (proof["control"]["operator"].as_str().unwrap(), proof["control"]["value"].as_f64().unwrap())
    };
    let (operator, slope) = control("order 3: φ");
    assert!(operator == "frozen-lse" && (slope - 2.0).abs() < 0.05, "{operator} {slope}");
    let (operator, slope) = control("order 2: VJP");
    assert!(operator == "gradient-off-by-0.1%" && slope < 1.9, "{operator} {slope}");
    assert!(control("adjoint").1 > 1e-7);
}

#[test]
fn the_memory_of_the_tour_grows_with_the_length_and_that_of_the_scores_with_its_square() {
    let json = theria(&["--json"]).json();
    let at = json["memory"]["at"].as_array().unwrap();
    assert_eq!((&at[0]["t"], &at[1]["t"]), (&1024.into(), &4096.into()));
    let ratio = |of: &dyn Fn(&serde_json::Value) -> f64| of(&at[1]) / of(&at[0]);
    assert!(ratio(&|at| at["workspace_bytes"]["second-order"].as_f64().unwrap()) <= 4.0);
    assert_eq!(ratio(&|at| at["score_matrix_bytes"].as_f64().unwrap()), 16.0);
}

#[test]
fn pictures_are_written_whole_into_a_folder_that_need_not_exist_and_are_the_same_again() {
    let bench = Bench::new();
    let folder = bench.path("some/pictures");
    let draw = || {
        let ran = theria(&["--plots", crate::text(&folder)]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("written") && ran.out.contains("taylor.svg"), "{}", ran.out);
        std::fs::read_to_string(folder.join("taylor.svg")).unwrap()
    };
    let svg = draw();
    assert_eq!(svg, draw());
    for words in ["slope 3.00", "slope 2.00", "slope 1.00", "frozen statistics", "10⁻³"] {
        assert!(svg.contains(words), "no '{words}'");
    }
    let left = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(left, 1, "no temporary file is left");

    std::fs::write(bench.path("file"), "in the way").unwrap();
    theria(&["--plots", crate::text(&bench.path("file"))]).complains(&["cannot make the folder", "file"]);
    theria(&["boundary", "--plots", "x"]).complains(&["--plots"]);
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
