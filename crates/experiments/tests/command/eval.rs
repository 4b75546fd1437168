//! `theria eval`.

use safetensors::SafeTensors;
use theria_contract::judge::Output;
use theria_contract::{
    Attention, Checks, Cotangent, DType, Directions, Inputs, Primal, Problem, Rule, Tensor,
};
use theria_experiments::backend::{self, Backend};
use theria_experiments::case_file::{Candidate, Case};
use theria_jvp_hvp::Dense;
use theria_jvp_hvp::composition::double_backward;

use crate::{Bench, theria};

fn exact(case: &Case<f64>) -> Vec<Rule> {
    Rule::ALL
        .into_iter()
        .filter(|rule| Backend::best(&case.problem, &Rule::ALL).support(&case.problem, *rule).is_exact())
        .collect()
}

#[test]
fn the_results_in_the_file_are_the_bits_that_the_library_computes() {
    let (bench, case) = Bench::with_case();
    let ran = bench.eval("case.safetensors", "out.safetensors", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let bytes = std::fs::read(bench.path("out.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let rules = exact(&case);
    let expected =
        backend::evaluate(Backend::best(&case.problem, &Rule::ALL), Checks::Finite, &case, &rules).unwrap();
    assert_eq!(file.len(), expected.iter().count());
    for (output, tensor) in expected.iter() {
        let view = file.tensor(output.name()).unwrap();
        assert_eq!(view.data(), bytemuck::cast_slice::<f64, u8>(tensor.data()), "{}", output.name());
        let rank = if output == Output::Lse || output == Output::LseTangent { 3 } else { 4 };
        assert_eq!(view.shape(), &tensor.shape()[..rank]);
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!(metadata["dtype"], "f64");
    assert_eq!(metadata["version"], env!("CARGO_PKG_VERSION"));
    assert!(Backend::named(&metadata["backend"]).is_some());
    let support: serde_json::Value = serde_json::from_str(&metadata["support"]).unwrap();
    assert_eq!(support["forward"], "exact");
    assert_eq!(support.as_object().unwrap().len(), 4);
}

#[test]
fn a_complete_case_gives_all_twelve_results_and_check_judges_every_one() {
    let (bench, _) = Bench::with_case();
    let ran = bench.eval("case.safetensors", "out.safetensors", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let bytes = std::fs::read(bench.path("out.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for output in Output::ALL {
        assert!(file.tensor(output.name()).is_ok(), "no {}", output.name());
    }
    assert_eq!((file.len(), Output::ALL.len()), (12, 12));
    let ran = bench.check("case.safetensors", "out.safetensors", &["--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let judged = ran.json();
    let tensors = judged["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 12);
    assert!(tensors.iter().all(|tensor| tensor["verdict"] == "passed"), "{judged}");
}

#[test]
fn the_recipe_of_the_help_for_the_double_backward_gives_what_the_composition_gives() {
    let (bench, mut case) = Bench::with_case();
    // The cotangents that arrive on dq, dk, dv and dbias are the directions of the case.
    case.dout_tangent = None;
    case.write(&bench.path("double.safetensors")).unwrap();
    let rules = ["--rules", "jvp,second-order", "--backend", "streaming"];
    let ran = bench.eval("double.safetensors", "out.safetensors", &rules);
    assert_eq!(ran.code, 0, "{ran:?}");

    let (operands, directions, dense) = (&case.operands, &case.directions, Dense::new());
    let inputs = Inputs::new(operands.q.view(), operands.k.view(), operands.v.view());
    let inputs = Primal(&Inputs { bias: operands.bias.as_ref().map(Tensor::view), ..inputs });
    let saved = dense.forward(&case.problem, inputs).unwrap();
    let arrived = Cotangent(Cotangent(Directions {
        q: directions.q.as_ref().map(Tensor::view),
        k: directions.k.as_ref().map(Tensor::view),
        v: directions.v.as_ref().map(Tensor::view),
        bias: directions.bias.as_ref().map(Tensor::view),
    }));
    let dout = case.dout.as_ref().unwrap();
    let made =
        double_backward(&dense, &case.problem, inputs, saved.as_ref(), Cotangent(dout.view()), arrived)
            .unwrap();

    let ours = Candidate::read(&bench.path("out.safetensors")).unwrap();
    let gradients = &made.inputs.0;
    let expected = [
        (Output::OutTangent, &made.cotangent.0.0),
        (Output::DqTangent, &gradients.q),
        (Output::DkTangent, &gradients.k),
        (Output::DvTangent, &gradients.v),
        (Output::DbiasTangent, gradients.bias.as_ref().unwrap()),
    ];
    let error = |ours: &Candidate, (output, tensor): (Output, &Tensor<f64>)| {
        ours.compare(output, tensor, 0.0).unwrap().error
    };
    for pair in expected {
        assert!(error(&ours, pair) < 1e-13, "{}: {}", pair.0.name(), error(&ours, pair));
    }

    // With dout_tangent it is another derivative, which is why the help says to leave it out.
    bench.eval("case.safetensors", "other.safetensors", &rules);
    let other = Candidate::read(&bench.path("other.safetensors")).unwrap();
    assert!(error(&other, expected[1]) > 1e-2);
}

#[test]
fn the_same_case_gives_the_same_file() {
    let (bench, _) = Bench::with_case();
    bench.eval("case.safetensors", "a.safetensors", &[]);
    bench.eval("case.safetensors", "b.safetensors", &[]);
    let read = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("a.safetensors"), read("b.safetensors"));
}

#[test]
fn only_the_rules_asked_for_are_written() {
    let (bench, _) = Bench::with_case();
    let ran = bench.eval("case.safetensors", "out.safetensors", &["--rules", "backward", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!(json["rules"].as_array().unwrap().len(), 1);
    assert_eq!(json["rules"][0]["results"]["dbias"], serde_json::json!([1, 4, 1, 9]));
    let bytes = std::fs::read(bench.path("out.safetensors")).unwrap();
    let mut names =
        SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["dbias", "dk", "dq", "dv"]);
}

#[test]
fn every_backend_that_is_here_serves_a_case_in_every_type_of_its_own() {
    let (bench, case) = Bench::with_case();
    for name in backend::names() {
        for dtype in DType::ALL {
            let problem = case.problem.with_dtype(dtype);
            let serves = |backend: Backend| backend.support(&problem, Rule::Forward).is_exact();
            if !Backend::named(name).is_none_or(serves) {
                continue;
            }
            let ran = bench.eval(
                "case.safetensors",
                "out.safetensors",
                &["--backend", name, "--dtype", dtype.name()],
            );
            assert_eq!(ran.code, 0, "{name} {dtype}: {ran:?}");
            let ran = bench.check("case.safetensors", "out.safetensors", &["--json"]);
            assert_eq!(ran.code, 0, "{name} {dtype}: {ran:?}");
            assert_eq!(ran.json()["precision"], dtype.name());
        }
    }
}

#[test]
fn a_rule_asked_for_by_name_needs_its_operands() {
    let (bench, mut case) = Bench::with_case();
    case.dout = None;
    case.dout_tangent = None;
    case.directions = theria_contract::Directions::default();
    case.write(&bench.path("bare.safetensors")).unwrap();
    bench
        .eval("bare.safetensors", "out.safetensors", &["--rules", "backward"])
        .complains(&["backward", "dout"]);
    bench.eval("bare.safetensors", "out.safetensors", &["--rules", "jvp"]).complains(&["jvp", "q_tangent"]);
    assert_eq!(bench.names(), ["bare.safetensors", "case.safetensors"], "nothing half-written is left");
    let ran = bench.eval("bare.safetensors", "out.safetensors", &[]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("none: the case lacks dout"), "{}", ran.out);
}

#[test]
fn a_rule_asked_for_by_name_that_is_refused_is_an_error_with_the_reason() {
    let (bench, case) = Bench::with_case();
    for backend in Backend::ALL {
        for rule in Rule::ALL {
            let ran = bench.eval(
                "case.safetensors",
                "out.safetensors",
                &["--backend", backend.name(), "--rules", rule.name()],
            );
            match backend.support(&case.problem, rule) {
                theria_contract::Support::Refused(reason) => {
                    ran.complains(&[
                        backend.name(),
                        "refuses",
                        rule.name(),
                        &reason.to_string(),
                        "theria boundary",
                    ]);
                }
                _ => assert_eq!(ran.code, 0, "{ran:?}"),
            }
        }
    }
}

#[test]
fn a_nan_is_named_and_counted_unless_checks_are_off() {
    let (bench, mut case) = Bench::with_case();
    case.operands.v.data_mut()[..3].fill(f64::NAN);
    case.write(&bench.path("nan.safetensors")).unwrap();
    bench.eval("nan.safetensors", "out.safetensors", &[]).complains(&["3 elements of v", "NaN"]);
    assert!(!bench.path("out.safetensors").exists());
    let ran = bench.eval("nan.safetensors", "out.safetensors", &["--checks", "none"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(bench.path("out.safetensors").exists());
}

#[test]
fn a_value_that_overflows_the_type_asked_for_is_named() {
    let (bench, mut case) = Bench::with_case();
    case.operands.k.data_mut()[0] = 1e6;
    case.write(&bench.path("large.safetensors")).unwrap();
    bench
        .eval("large.safetensors", "out.safetensors", &["--dtype", "f16"])
        .complains(&["1 elements of 'k'", "too large for f16"]);
    assert_eq!(bench.eval("large.safetensors", "out.safetensors", &["--dtype", "bf16"]).code, 0);
}

#[test]
fn an_output_that_cannot_be_written_is_an_error_before_the_work() {
    let (bench, _) = Bench::with_case();
    bench.eval("case.safetensors", "no/such/folder/out.safetensors", &[]).complains(&[
        "cannot write",
        "out.safetensors",
        "folder that exists",
    ]);
    std::fs::create_dir(bench.path("folder")).unwrap();
    bench.eval("case.safetensors", "folder", &[]).complains(&["not a regular file"]);
    bench.eval("case.safetensors", "case.safetensors", &[]).complains(&["is the case itself"]);
    let case = bench.path("case.safetensors");
    theria(&["eval", "--input", crate::text(&case), "--output", "/dev/null"])
        .complains(&["not a regular file"]);
}

#[test]
fn a_failed_run_leaves_an_earlier_result_alone() {
    let (bench, mut case) = Bench::with_case();
    bench.eval("case.safetensors", "out.safetensors", &[]);
    let before = std::fs::read(bench.path("out.safetensors")).unwrap();
    case.operands.q.data_mut()[0] = f64::INFINITY;
    case.write(&bench.path("infinite.safetensors")).unwrap();
    bench.eval("infinite.safetensors", "out.safetensors", &[]).complains(&["1 elements of q"]);
    assert_eq!(std::fs::read(bench.path("out.safetensors")).unwrap(), before);
    assert_eq!(bench.names().len(), 3);
}

#[test]
fn empty_problems_are_served() {
    let bench = Bench::new();
    for (batch, t, m) in [(0, 3, 3), (1, 0, 3), (1, 3, 0)] {
        let problem =
            Problem::builder(DType::F32).batch(batch).lengths(t, m).head_dims(4, 4).build().unwrap();
        Case::<f32>::random(&problem, 1).unwrap().write(&bench.path("empty.safetensors")).unwrap();
        let ran = bench.eval("empty.safetensors", "out.safetensors", &[]);
        assert_eq!(ran.code, 0, "B={batch} T={t} M={m}: {ran:?}");
        let ran = bench.check("empty.safetensors", "out.safetensors", &[]);
        assert_eq!(ran.code, 0, "B={batch} T={t} M={m}: {ran:?}");
    }
}

#[test]
fn a_bias_of_two_axes_gets_a_gradient_of_two_axes() {
    let bench = Bench::new();
    let problem =
        Problem::builder(DType::F64).heads(2, 2).lengths(3, 5).head_dims(4, 4).bias([1, 1, 3, 5]).build();
    let mut case = Case::<f64>::random(&problem.unwrap(), 1).unwrap();
    case.bias_rank = 2;
    case.write(&bench.path("case.safetensors")).unwrap();
    assert_eq!(bench.eval("case.safetensors", "out.safetensors", &[]).code, 0);
    let bytes = std::fs::read(bench.path("out.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("dbias").unwrap().shape(), [3, 5]);
    assert_eq!(bench.check("case.safetensors", "out.safetensors", &[]).code, 0);
}
