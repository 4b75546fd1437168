//! Phase 1: forward and backward on the CPU agree with an independent system.

use half::{bf16, f16};
use theria_contract::judge::Output;
use theria_contract::{Attention, DType, Element, Host, Precision, Rule, bound};
use theria_experiments::evaluation::evaluate;
use theria_reference::{Dense, Streaming};
use theria_tests::evidence::Row;
use theria_tests::fixtures::{self, Fixture};

/// Evaluates one stored case and compares everything that phase 1 speaks of.
fn judge<E: Element, B: Attention<E, Storage = Host>>(backend: &B, fixture: &Fixture, rows: &mut Vec<Row>) {
    // Binary64 is held to a tenth of the general bound: both sides are exact up to rounding.
    let bound_of = |rule| match E::DTYPE {
        DType::F64 => 1e-13,
        other => bound(Precision::of(other), rule),
    };
    let case = fixture.case.load::<E>().unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    let rules: Vec<Rule> =
        [Rule::Forward, Rule::Backward].into_iter().filter(|rule| case.missing_for(*rule).is_none()).collect();
    let results = evaluate(backend, &case, &rules).unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    for (output, tensor) in results.iter() {
        let name = format!("fixture: {} {}", fixture.name, output.name());
        let comparison = fixture.compare(&case, output, tensor).unwrap_or_else(|| panic!("{name} is not expected"));
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

fn judge_all<B>(backend: &B) -> Vec<Row>
where
    B: Attention<f64, Storage = Host>
        + Attention<f32, Storage = Host>
        + Attention<f16, Storage = Host>
        + Attention<bf16, Storage = Host>,
{
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
        .map(|row| format!("{} {} {}: {:.2e} > {:.0e}", row.backend, row.dtype, row.name, row.error, row.bound))
        .collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
    assert!(rows.len() > 400, "only {} rows: fixtures are missing", rows.len());
}

#[test]
fn dense_agrees_with_the_independent_system() {
    assert_passed(&judge_all(&Dense::new()));
}

#[test]
fn streaming_agrees_with_the_independent_system() {
    assert_passed(&judge_all(&Streaming::new()));
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
