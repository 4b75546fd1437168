//! Phase 2: the dense second-order rule is the derivative of the backward.

use theria_contract::judge::Output;
use theria_contract::{DType, Rule};
use theria_jvp_hvp::Dense;
use theria_jvp_hvp::matrix::{self, Matrix};
use theria_jvp_hvp::proof::Proof;
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_tests::evidence::{self, Row, assert_passed};
use theria_tests::fixtures;
use theria_tests::judging::{conform, judge_fixtures};
use theria_tests::proving::prove;

/// Each operator of the detector matrix: one that is right passes every proof, one that is wrong is
/// caught without an oracle.
fn detected(row: &matrix::Row, seed: u64) -> Row {
    let (what, holds, found) = if row.right {
        let failed = row.findings.iter().filter(|finding| !finding.verdict.is_passed()).count();
        ("passes every proof", failed == 0, format!("{failed} proofs do not pass"))
    } else {
        let mut caught = row.caught_by();
        caught.retain(|proof| *proof != Proof::Agreement);
        let names: Vec<&str> = caught.iter().map(|proof| proof.name()).collect();
        ("is caught without an oracle", !caught.is_empty(), names.join(", "))
    };
    let name = format!("detectors: {} {what}, seed {seed}", row.name);
    Row::statement(name, Rule::SecondOrder.name(), &row.name, "f64", holds, found)
}

#[test]
fn the_dense_second_order_is_the_derivative_of_the_backward() {
    let dense = Dense::new();
    let mut rows = judge_fixtures(&dense, &[Rule::SecondOrder]);
    assert_passed(&rows, 300);

    // The oracle of the proofs is written apart from the textbook.
    let proofs = prove(&dense, &Varied::new(Variant::Exact), &Proof::ALL);
    assert_passed(&proofs, 3 * Proof::ALL.len());
    rows.extend(proofs);

    let matrices: Vec<Matrix> = [1, 2, 3].map(|seed| Matrix::run(seed).unwrap()).into();
    for (seed, matrix) in (1..).zip(&matrices) {
        rows.extend(matrix.rows.iter().map(|row| detected(row, seed)));
    }

    // In binary64 the textbook is its own oracle, and the suite would say nothing of its formulas.
    let narrow = [DType::F32, DType::F16, DType::Bf16];
    rows.extend(conform(&dense, &dense, &narrow, &[Rule::SecondOrder]));
    assert_passed(&rows, 500);
    evidence::write(2, &rows);
}

/// The control: what is asserted of the dense rule fails for one that forgets a term.
#[test]
fn a_second_order_with_a_frozen_statistic_does_not_pass() {
    for variant in [Variant::FrozenLse, Variant::FrozenDelta, Variant::MissingValueTangent] {
        let proofs = [Proof::SecondOrder, Proof::GradientOrder, Proof::CentralDifference];
        let rows = prove(&Varied::new(variant), &Dense::new(), &proofs);
        assert_eq!(rows.len(), 9);
        assert!(rows.iter().all(|row| row.verdict == "failed"), "{variant}: {rows:?}");
    }
}

#[test]
fn stored_cases_have_every_second_order_output_in_every_type() {
    let all = fixtures::all();
    for dtype in DType::ALL {
        for output in Output::ALL.into_iter().filter(|output| output.rule() == Rule::SecondOrder) {
            let stored =
                |fixture: &fixtures::Fixture| fixture.dtype() == dtype && fixture.expected(output).is_some();
            assert!(all.iter().any(stored), "{} in {dtype}", output.name());
        }
    }
}
