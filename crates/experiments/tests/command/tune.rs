//! `theria tune`.

use std::process::Command;

use theria_experiments::backend::Backend;

use crate::{Bench, Ran, theria};

#[test]
fn wrong_usage_of_tune_says_what_is_allowed() {
    theria(&["tune", "--rules", "hvp"]).complains(&["hvp", "forward, backward, jvp, second-order"]);
    theria(&["tune", "--preset", "huge"]).complains(&["huge", "kernels"]);
    theria(&["tune", "--dtype", "fp8"]).complains(&["fp8", "f64, f32, f16, bf16"]);
    theria(&["tune", "--shape", "1,2,3"]).complains(&["1,2,3", "B,H,T,D"]);
}

/// Wide heads leave few choices.
#[test]
fn a_rule_is_tuned_and_kept_where_there_is_a_device_and_advice_is_given_where_there_is_none() {
    let folder = Bench::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_theria"));
    command.args(["tune", "--shape", "1,1,64,256", "--rules", "jvp", "--json"]);
    let ran = Ran::of(command.env("THERIA_CACHE_DIR", folder.path("cache")));
    if Backend::CudaFused.availability().is_err() {
        ran.complains(&["; "]);
        assert!(folder.names().is_empty(), "nothing is kept");
        return;
    }
    let json = ran.json();
    let [row] = &json["rows"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!(
        (&row["rule"], &row["part"], &row["wrong"]),
        (&"jvp".into(), &"jvp".into(), &0.into()),
        "{row}"
    );
    let kept = json["kept"][0].as_str().unwrap();
    assert!(
        kept.ends_with("-sweeps.toml") && std::fs::read_to_string(kept).unwrap().contains("jvp"),
        "{kept}"
    );
}
