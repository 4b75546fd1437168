//! `theria check`: what is right passes, what is wrong fails, and nothing else is claimed.

use std::collections::BTreeMap;

use theria_contract::judge::Output;
use theria_contract::{Checks, Rule, Support, Tensor};
use theria_experiments::backend::{self, Backend};
use theria_experiments::case_file::{Case, FileTensor, encode};
use theria_experiments::evaluation::{Results, evaluate};
use theria_jvp_hvp::variant::{Variant, Varied};

use crate::{Bench, theria};

fn reference(case: &Case<f64>) -> Results<f64> {
    backend::evaluate(Backend::ORACLE, Checks::Finite, case, &Rule::ALL).unwrap()
}

fn write(bench: &Bench, tensors: &[FileTensor]) {
    std::fs::write(bench.path("theirs.safetensors"), encode(tensors, &BTreeMap::new())).unwrap();
}

#[test]
fn an_exact_candidate_passes_and_one_that_is_wrong_by_a_thousandth_fails() {
    let (bench, case) = Bench::with_case();
    let results = reference(&case);
    for output in Output::ALL {
        let right = results.get(output).unwrap();
        write(&bench, &[FileTensor::floating(output.name(), right, 4)]);
        let ran = bench.check("case.safetensors", "theirs.safetensors", &[]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("passed: 1 within bounds, 0 wrong"), "{}", ran.out);

        let mut wrong = right.clone();
        let last = wrong.data().len() - 1;
        wrong.data_mut()[last] += 1e-3;
        write(&bench, &[FileTensor::floating(output.name(), &wrong, 4)]);
        let ran = bench.check("case.safetensors", "theirs.safetensors", &["--json"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let json = ran.json();
        assert_eq!(json["verdict"], "failed");
        let [b, h, i, c] = right.shape();
        assert_eq!(json["tensors"][0]["at"], serde_json::json!([b - 1, h - 1, i - 1, c - 1]));
        assert!(json["tensors"][0]["error"].as_f64().unwrap() > 1e-5);
    }
}

#[test]
fn a_backward_of_the_backward_that_takes_delta_for_a_constant_fails() {
    let (bench, case) = Bench::with_case();
    // The mistake of a system that saved δ and forgot that it moves: δ′ is missing from dS′.
    for (variant, code) in [(Variant::Exact, 0), (Variant::FrozenDelta, 1)] {
        let dq_tangent = evaluate(&Varied::new(variant), &case, &[Rule::SecondOrder]).unwrap();
        let dq_tangent = dq_tangent.get(Output::DqTangent).unwrap();
        write(&bench, &[FileTensor::floating("dq_tangent", dq_tangent, 4)]);
        let ran = bench.check("case.safetensors", "theirs.safetensors", &["--json"]);
        assert_eq!(ran.code, code, "{variant}: {ran:?}");
        let error = ran.json()["tensors"][0]["error"].as_f64().unwrap();
        assert!(if code == 0 { error < 1e-13 } else { error > 1e-2 }, "{variant}: {error}");
    }
}

#[test]
fn the_bound_follows_the_type_of_the_candidate_or_the_precision_asked_for() {
    let (bench, case) = Bench::with_case();
    let mut off = reference(&case).get(Output::Out).unwrap().clone();
    off.data_mut()[0] += 1e-4;
    write(&bench, &[FileTensor::floating("out", &off, 4)]);
    assert_eq!(bench.check("case.safetensors", "theirs.safetensors", &[]).code, 1);
    let ran = bench.check("case.safetensors", "theirs.safetensors", &["--precision", "tf32"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("bounds of tf32"), "{}", ran.out);
    bench
        .check("case.safetensors", "theirs.safetensors", &["--precision", "fp8"])
        .complains(&["fp8", "tf32"]);
}

#[test]
fn a_nan_in_the_candidate_is_an_infinite_error() {
    let (bench, case) = Bench::with_case();
    let mut broken = reference(&case).get(Output::Dk).unwrap().clone();
    broken.data_mut()[5] = f64::NAN;
    write(&bench, &[FileTensor::floating("dk", &broken, 4)]);
    let ran = bench.check("case.safetensors", "theirs.safetensors", &["--json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["tensors"][0]["error"], "inf");
}

#[test]
fn a_wrong_shape_is_a_judged_failure_that_says_both_shapes() {
    let (bench, _) = Bench::with_case();
    let wrong = Tensor::<f64>::zeros([2, 4, 6, 5]).unwrap();
    write(&bench, &[FileTensor::floating("out", &wrong, 4)]);
    let ran = bench.check("case.safetensors", "theirs.safetensors", &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("[2, 4, 6, 5]") && ran.out.contains("[2, 4, 6, 4]"), "{}", ran.out);
}

#[test]
fn the_gradient_of_a_bias_that_is_not_there_is_a_failure() {
    let (bench, mut case) = Bench::with_case();
    let dbias = reference(&case).get(Output::Dbias).unwrap().clone();
    case.problem = theria_contract::Problem::for_qkv(
        case.problem.dtype(),
        case.operands.q.shape(),
        case.operands.k.shape(),
        case.operands.v.shape(),
    )
    .build()
    .unwrap();
    case.operands.bias = None;
    case.directions.bias = None;
    case.write(&bench.path("unbiased.safetensors")).unwrap();
    write(&bench, &[FileTensor::floating("dbias", &dbias, 4)]);
    let ran = bench.check("unbiased.safetensors", "theirs.safetensors", &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("the case has no bias"), "{}", ran.out);
}

#[test]
fn a_row_statistic_may_keep_its_last_axis() {
    let (bench, case) = Bench::with_case();
    let results = reference(&case);
    let lse = results.get(Output::Lse).unwrap();
    for tensor in [FileTensor::rows("lse", lse), FileTensor::floating("lse", lse, 4)] {
        write(&bench, &[tensor]);
        assert_eq!(bench.check("case.safetensors", "theirs.safetensors", &[]).code, 0);
    }
}

#[test]
fn results_without_a_reference_are_not_judged_and_alone_they_give_exit_code_2() {
    let (bench, mut case) = Bench::with_case();
    let results = reference(&case);
    case.dout = None;
    case.dout_tangent = None;
    case.write(&bench.path("no-dout.safetensors")).unwrap();
    let dq = results.get(Output::Dq).unwrap();
    write(&bench, &[FileTensor::floating("dq", dq, 4)]);
    let ran = bench.check("no-dout.safetensors", "theirs.safetensors", &[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.out.contains("not judged: the case lacks dout"), "{}", ran.out);
    let out = results.get(Output::Out).unwrap();
    write(&bench, &[FileTensor::floating("dq", dq, 4), FileTensor::floating("out", out, 4)]);
    assert_eq!(bench.check("no-dout.safetensors", "theirs.safetensors", &[]).code, 0);
}

#[test]
fn a_rule_that_the_oracle_refuses_is_not_judged_with_its_reason() {
    let (bench, case) = Bench::with_case();
    let tangent = Tensor::<f64>::zeros(case.problem.shape().output()).unwrap();
    write(&bench, &[FileTensor::floating("out_tangent", &tangent, 4)]);
    let ran = bench.check("case.safetensors", "theirs.safetensors", &[]);
    match Backend::ORACLE.support(&case.problem, Rule::Jvp) {
        Support::Refused(reason) => {
            assert_eq!(ran.code, 2, "{ran:?}");
            assert!(ran.out.contains(&reason.to_string()), "{}", ran.out);
        }
        // Zeros are not the tangent of anything here.
        _ => assert_eq!(ran.code, 1, "{ran:?}"),
    }
}

#[test]
fn unknown_results_and_files_without_any_are_errors() {
    let (bench, case) = Bench::with_case();
    let out = reference(&case).get(Output::Out).unwrap().clone();
    write(&bench, &[FileTensor::floating("output", &out, 4)]);
    bench.check("case.safetensors", "theirs.safetensors", &[]).complains(&[
        "candidate",
        "'output'",
        "dq_tangent",
    ]);
    write(&bench, &[]);
    bench.check("case.safetensors", "theirs.safetensors", &[]).complains(&["no tensors"]);
    let case = bench.path("case.safetensors");
    theria(&["check", "--case", crate::text(&case), "--candidate", "/no/such/file"])
        .complains(&["cannot read", "/no/such/file"]);
}
