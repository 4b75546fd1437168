//! Phase 1: forward and backward on the CPU agree with an independent system.

use theria_contract::judge::Output;
use theria_contract::{DType, Rule, Tensor};
use theria_experiments::evaluation::evaluate;
use theria_reference::{Dense, Streaming};
use theria_tests::evidence::{self, assert_passed};
use theria_tests::fixtures;
use theria_tests::judging::{conform, judge_fixtures};

#[test]
fn both_backends_agree_with_the_independent_system_and_pass_the_suite() {
    let (rules, dense, streaming) = ([Rule::Forward, Rule::Backward], Dense::new(), Streaming::new());
    let mut rows = judge_fixtures(&dense, &rules);
    assert_passed(&rows, 400);
    let others = judge_fixtures(&streaming, &rules);
    assert_passed(&others, 400);
    rows.extend(others);
    // With the rules that both refuse: a refusal is a promise as well.
    rows.extend(conform(&dense, &dense, &DType::ALL, &Rule::ALL));
    rows.extend(conform(&streaming, &dense, &DType::ALL, &Rule::ALL));
    evidence::write(1, &rows);
}

/// ⟨G, O'⟩ = ⟨dQ, Q'⟩ + ⟨dK, K'⟩ + ⟨dV, V'⟩ + ⟨dBias, bias'⟩ with the independent system's O': our
/// backward is the adjoint of its forward mode, in which no rule of ours had a part.
#[test]
fn the_backward_is_the_adjoint_of_an_independent_forward_mode() {
    let mut judged = 0;
    for fixture in fixtures::all().iter().filter(|fixture| fixture.dtype() == DType::F64) {
        let case = fixture.case.load::<f64>().unwrap();
        let (Some(dout), Some(out_tangent)) = (&case.dout, fixture.expected(Output::OutTangent)) else {
            continue;
        };
        let results = evaluate(&Streaming::new(), &case, &[Rule::Forward, Rule::Backward]).unwrap();
        let directions = &case.directions;
        let pairs = [
            (Output::Dq, &directions.q),
            (Output::Dk, &directions.k),
            (Output::Dv, &directions.v),
            (Output::Dbias, &directions.bias),
        ];
        let pulled = |scale: f64| -> (f64, f64) {
            pairs
                .iter()
                .filter_map(|(output, direction)| Some((results.get(*output)?, direction.as_ref()?)))
                .fold((0.0, 0.0), |(sum, size), (gradient, direction)| {
                    let (inner, magnitude) = inner(gradient, direction);
                    (sum + scale * inner, size + magnitude)
                })
        };
        let (pushed, size) = inner(dout, out_tangent);
        let (sum, other) = pulled(1.0);
        let scale = size + other;
        assert!((pushed - sum).abs() <= 1e-12 * scale, "{}: {pushed} and {sum}", fixture.name);
        // The control: a gradient that is off by one part in a million is not an adjoint.
        let off = pulled(1.0 + 1e-6).0;
        if sum.abs() > 1e-3 * scale {
            assert!((pushed - off).abs() > 1e-12 * scale, "{}: a wrong gradient passes", fixture.name);
            judged += 1;
        }
    }
    assert!(judged > 50, "only {judged} cases could have failed");
}

/// Σ a b, and Σ |a b|: what rounding is relative to.
fn inner(a: &Tensor<f64>, b: &Tensor<f64>) -> (f64, f64) {
    let (a, b) = (a.view().to_tensor(), b.view().to_tensor());
    let products = a.data().iter().zip(b.data()).map(|(a, b)| a * b);
    products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}

#[test]
fn there_are_stored_cases_of_every_output_and_type() {
    let all = fixtures::all();
    assert!(all.len() >= 100);
    for dtype in DType::ALL {
        assert!(all.iter().any(|fixture| fixture.dtype() == dtype), "{dtype}");
    }
    for output in Output::ALL {
        assert!(all.iter().any(|fixture| fixture.expected(output).is_some()), "{}", output.name());
    }
}
