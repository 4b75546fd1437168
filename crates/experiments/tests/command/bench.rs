//! `theria bench`.

use std::process::Command;

use serde_json::Value;

use crate::{Bench, Ran, text, theria};

const QUICK: [&str; 5] = ["bench", "--shape", "1,2,64,16,causal", "--runs", "5"];

fn bench(more: &[&str]) -> Ran {
    theria(&[&QUICK[..], more].concat())
}

/// With a shell script in the place of the peers.
fn with_peers(bench: &Bench, script: &str, more: &[&str]) -> Ran {
    let path = bench.path("peers.sh");
    std::fs::write(&path, script).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_theria"));
    command.args([&QUICK[..], &["--peers", "--backend", "streaming"], more].concat());
    Ran::of(command.env("THERIA_PYTHON", "sh").env("THERIA_PEERS", path))
}

fn rules(file: &Value) -> Vec<&str> {
    file["rows"].as_array().unwrap().iter().map(|row| row["rule"].as_str().unwrap()).collect()
}

#[test]
fn a_bench_writes_every_key_of_a_result_file_and_no_number_that_was_not_measured() {
    let folder = Bench::new();
    let path = folder.path("bench.json");
    let ran = bench(&["--backend", "streaming", "--json", text(&path)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("TFLOP/s") && ran.out.contains("second-order"), "{}", ran.out);
    assert!(ran.out.contains("the ceiling is not measured"), "{}", ran.out);
    let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(file["schema"], 1);
    for key in ["device", "driver", "cuda", "cpu", "threads", "git", "clocks"] {
        assert!(file["host"].get(key).is_some(), "no {key}");
    }
    assert!(file["ceiling"]["matmul_tflops"].is_null() && file["ceiling"]["copy_gbps"].is_null());
    assert_eq!(rules(&file), ["forward", "backward", "jvp", "second-order"]);
    for row in file["rows"].as_array().unwrap() {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        assert!(0.0 < number("p50_us") && number("p50_us") <= number("p90_us"));
        assert!(number("p90_us") <= number("p99_us") && number("tflops") > 0.0);
        assert!(number("max_error") <= number("bound") && number("peak_extra_bytes") > 0.0);
        assert_eq!(
            (&row["method"], &row["runs"], &row["dtype"]),
            (&"clock".into(), &5.into(), &"f32".into())
        );
        assert_eq!((&row["backend"], &row["family"]), (&"streaming".into(), &"into".into()));
        assert_eq!((&row["mask"], &row["error"]), (&"causal".into(), &Value::Null));
        assert_eq!((&row["shape"]["t"], &row["shape"]["heads_kv"]), (&64.into(), &2.into()));
        assert_eq!(row["peers"], serde_json::json!([]));
    }
}

#[test]
fn peers_stand_in_their_row_with_a_time_and_a_ratio_or_an_error() {
    let script = r#"
while read -r question; do case "$question" in
  *hello*) echo '{"torch": "2.0"}' ;;
  *ceiling*) echo '{"matmul_tflops": 2.0, "copy_gbps": 30.0}' ;;
  *forward*) echo '{"peers": [{"name": "flash", "version": "2.0", "p50_us": 1e9, "p90_us": 1e9, "p99_us": 1e9, "method": "events", "peak_extra_bytes": 8}, {"name": "cudnn", "error": "not for this"}]}' ;;
  *) echo '{"error": "another rule"}' ;;
esac; done
"#;
    let folder = Bench::new();
    let ran = with_peers(&folder, script, &["--rules", "forward,backward", "--json", "-"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let file = ran.json();
    assert_eq!(file["ceiling"], serde_json::json!({"matmul_tflops": 2.0, "copy_gbps": 30.0}));
    let [forward, backward] = &file["rows"].as_array().unwrap()[..] else { panic!("{file}") };
    let [flash, cudnn] = &forward["peers"].as_array().unwrap()[..] else { panic!("{forward}") };
    assert!(flash["ratio"].as_f64().unwrap() > 1e3 && flash["error"].is_null(), "{flash}");
    assert_eq!((&flash["p50_us"], &flash["peak_extra_bytes"]), (&1e9.into(), &8.into()));
    assert_eq!((&cudnn["error"], &cudnn["p50_us"]), (&"not for this".into(), &Value::Null));
    assert_eq!(forward["runs"], 10, "two rounds of theria, the peers between them");
    assert_eq!(backward["peers"][0]["error"], "another rule");
    let text = with_peers(&folder, script, &["--rules", "forward"]).out;
    for words in ["ratio", "flash", "not for this", "% ", "product 2.000 TFLOP/s, copy 30 GB/s"] {
        assert!(text.contains(words), "no '{words}' in {text}");
    }
}

#[test]
fn without_peers_to_be_had_the_bench_goes_on_and_says_why() {
    let folder = Bench::new();
    for (script, words) in [
        ("exit 3\n", "no peers: the process of the peers has ended"),
        ("read q; echo '{\"error\": \"no torch\"}'\n", "no peers: no torch; set THERIA_PYTHON"),
    ] {
        let ran = with_peers(&folder, script, &["--rules", "forward"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains(words) && ran.out.contains("TFLOP/s"), "{}", ran.out);
    }
    // One that ends in the middle is an error of each later row.
    let dies = "read q; echo '{\"torch\": \"2.0\"}'; read q; echo '{}'; exit 1\n";
    let ran = with_peers(&folder, dies, &["--rules", "forward,jvp", "--json", "-"]);
    let file = ran.json();
    assert_eq!((ran.code, rules(&file)), (0, vec!["forward", "jvp"]), "{ran:?}");
    for row in file["rows"].as_array().unwrap() {
        assert!(row["peers"][0]["error"].as_str().unwrap().contains("has ended"), "{row}");
        assert!(row["p50_us"].is_number(), "{row}");
    }
}

#[test]
fn what_a_backend_refuses_has_a_reason_and_no_time_and_nothing_but_refusals_is_no_success() {
    let here = theria_experiments::backend::Backend::CudaRef.availability().is_ok();
    let ran = bench(&["--backend", "cuda-ref", "--rules", "second-order", "--json", "-"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    if here {
        let row = &ran.json()["rows"][0];
        assert!(row["error"].as_str().unwrap().contains("refuses") && row["p50_us"].is_null(), "{row}");
    } else {
        ran.complains(&["cuda-ref is not available here", "--backend auto"]);
    }
}

#[test]
fn wrong_usage_of_bench_says_what_is_allowed() {
    theria(&["bench", "--preset", "huge"]).complains(&["huge", "small", "vit", "mission", "kernels"]);
    theria(&["bench", "--shape", "1,2,3"]).complains(&["1,2,3", "B,H,T,D"]);
    theria(&["bench", "--shape", "0,2,3,4"]).complains(&["at least 1"]);
    theria(&["bench", "--runs", "0"]).complains(&["--runs", "1..=100000"]);
    theria(&["bench", "--seconds=-1"]).complains(&["0 to 3600"]);
    theria(&["bench", "--seconds=nan"]).complains(&["0 to 3600"]);
    theria(&["bench", "--backend", "cuda-fussed"]).complains(&["cuda-fussed", "cuda-fused", "streaming"]);
    bench(&["--json", "no/such/folder/bench.json"]).complains(&["no/such/folder"]);
}
