//! Phase 1: forward and backward on the CPU agree with an independent system.

use half::{bf16, f16};
use theria_contract::conformance::{Report, Suite};
use theria_contract::judge::Output;
use theria_contract::{Attention, DType, Element, Host, Precision, Rule, Tensor, bound};
use theria_experiments::evaluation::evaluate;
use theria_reference::{Dense, Streaming};
use theria_tests::evidence::{self, Row, rows_of};
use theria_tests::fixtures::{self, Fixture};

/// A backend on the host that serves every element type.
trait EveryElement:
    Attention<f64, Storage = Host>
    + Attention<f32, Storage = Host>
    + Attention<f16, Storage = Host>
    + Attention<bf16, Storage = Host>
{
}

impl EveryElement for Dense {}
impl EveryElement for Streaming {}

/// Evaluates one stored case and compares everything that phase 1 speaks of.
fn judge<E: Element, B: Attention<E, Storage = Host>>(backend: &B, fixture: &Fixture, rows: &mut Vec<Row>) {
    // Binary64 is held to a tenth of the general bound: both sides are exact up to rounding.
    let bound_of = |rule| match E::DTYPE {
        DType::F64 => 1e-13,
        other => bound(Precision::of(other), rule),
    };
    let case = fixture.case.load::<E>().unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    let rules: Vec<Rule> = [Rule::Forward, Rule::Backward]
        .into_iter()
        .filter(|rule| case.missing_for(*rule).is_none())
        .collect();
    let results =
        evaluate(backend, &case, &rules).unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    for (output, tensor) in results.iter() {
        let name = format!("fixture: {} {}", fixture.name, output.name());
        let comparison =
            fixture.compare(&case, output, tensor).unwrap_or_else(|| panic!("{name} is not expected"));
        let rule = output.rule();
        rows.push(Row::measured(
            name,
            rule.name(),
            backend.name(),
            E::DTYPE.name(),
            comparison.error,
            bound_of(rule),
        ));
    }
}

fn judge_all<B: EveryElement>(backend: &B) -> Vec<Row> {
    let mut rows = Vec::new();
    for fixture in fixtures::all() {
        match fixture.dtype() {
            DType::F64 => judge::<f64, _>(backend, &fixture, &mut rows),
            DType::F32 => judge::<f32, _>(backend, &fixture, &mut rows),
            DType::F16 => judge::<f16, _>(backend, &fixture, &mut rows),
            DType::Bf16 => judge::<bf16, _>(backend, &fixture, &mut rows),
        }
    }
    rows
}

fn assert_passed(rows: &[Row]) {
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| row.verdict != "passed")
        .map(|row| {
            format!("{} {} {}: {:.2e} > {:.0e}", row.backend, row.dtype, row.name, row.error, row.bound)
        })
        .collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
    assert!(rows.len() > 400, "only {} rows: fixtures are missing", rows.len());
}

/// The conformance suite in every element type, and a check that nothing of it failed.
fn conform<B: EveryElement>(backend: &B) -> Vec<Row> {
    let (suite, oracle) = (Suite::standard(), Dense::new());
    let mut report: Report = suite.run::<f64, _, _>(backend, &oracle);
    report.extend(suite.run::<f32, _, _>(backend, &oracle));
    report.extend(suite.run::<f16, _, _>(backend, &oracle));
    report.extend(suite.run::<bf16, _, _>(backend, &oracle));
    report.assert_passed();
    rows_of(&report)
}

#[test]
fn both_backends_agree_with_the_independent_system_and_pass_the_suite() {
    let mut rows = judge_all(&Dense::new());
    assert_passed(&rows);
    let streaming = judge_all(&Streaming::new());
    assert_passed(&streaming);
    rows.extend(streaming);
    rows.extend(conform(&Dense::new()));
    rows.extend(conform(&Streaming::new()));
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
