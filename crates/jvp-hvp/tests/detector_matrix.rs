//! The detector matrix: what it must show, and that the page shows what it shows.

use std::path::Path;
use std::sync::LazyLock;

use theria_jvp_hvp::matrix::{Matrix, proofs_to_markdown};
use theria_jvp_hvp::proof::{Proof, Verdict};
use theria_jvp_hvp::variant::Variant;

/// The seed of the page, and others: what is asserted does not depend on luck.
const SEEDS: [u64; 3] = [1, 2, 3];

static MATRICES: LazyLock<Vec<Matrix>> =
    LazyLock::new(|| SEEDS.iter().map(|seed| Matrix::run(*seed).unwrap()).collect());

const FIRST_ORDER: [Proof; 4] = [Proof::ValueOrder, Proof::JvpOrder, Proof::VjpOrder, Proof::Adjoint];

/// Asserts which of `proofs` catch a variant, at every seed.
#[track_caller]
fn only(variant: Variant, proofs: &[Proof], catching: &[Proof]) {
    for matrix in MATRICES.iter() {
        for proof in proofs {
            let finding = matrix.row(variant.name()).unwrap().finding(*proof).unwrap();
            assert_eq!(finding.verdict.is_failed(), catching.contains(proof), "{variant}: {finding}");
        }
    }
}

#[test]
fn every_proof_passes_on_every_right_operator() {
    for row in MATRICES.iter().flat_map(|matrix| &matrix.rows).filter(|row| row.right) {
        for finding in &row.findings {
            assert!(finding.verdict.is_passed(), "{}: {finding}", row.name);
        }
    }
    let right = MATRICES[0].rows.iter().filter(|row| row.right).count();
    assert!(right >= 2, "a backend, and the exact variant");
}

#[test]
fn every_mistake_is_caught_by_a_proof_that_needs_no_oracle() {
    for row in MATRICES.iter().flat_map(|matrix| &matrix.rows).filter(|row| !row.right) {
        let without_oracle = row.caught_by().into_iter().any(|proof| proof != Proof::Agreement);
        assert!(without_oracle, "{} is caught by {:?}", row.name, row.caught_by());
    }
}

#[test]
fn every_proof_catches_a_mistake() {
    for matrix in MATRICES.iter() {
        for proof in Proof::ALL {
            assert!(!matrix.caught(proof).is_empty(), "{} catches nothing", proof.name());
        }
    }
}

#[test]
fn no_proof_but_the_oracle_catches_every_mistake() {
    let mistakes = MATRICES[0].rows.iter().filter(|row| !row.right).count();
    for proof in Proof::ALL {
        let caught = MATRICES[0].caught(proof).len();
        assert_eq!(caught == mistakes, proof == Proof::Agreement, "{} catches {caught}", proof.name());
    }
}

#[test]
fn first_order_proofs_do_not_see_a_frozen_backward_and_the_third_order_does() {
    for variant in
        [Variant::FrozenLse, Variant::FrozenDelta, Variant::FrozenBoth, Variant::OnceDifferentiable]
    {
        only(variant, &FIRST_ORDER, &[]);
        let second = [Proof::SecondOrder, Proof::GradientOrder, Proof::CentralDifference];
        only(variant, &second, &second);
    }
}

#[test]
fn symmetry_sees_one_frozen_statistic_and_not_two() {
    only(Variant::FrozenLse, &[Proof::Symmetry], &[Proof::Symmetry]);
    only(Variant::FrozenDelta, &[Proof::Symmetry], &[Proof::Symmetry]);
    only(Variant::FrozenBoth, &[Proof::Symmetry], &[]);
}

#[test]
fn symmetry_and_the_adjoint_do_not_see_a_detached_forward_and_the_first_order_does() {
    for variant in [Variant::FrozenStats, Variant::DetachedLogits, Variant::DetachedOutput] {
        only(variant, &[Proof::Symmetry, Proof::Adjoint], &[]);
        let taylor = [Proof::JvpOrder, Proof::VjpOrder];
        only(variant, &taylor, &taylor);
    }
}

#[test]
fn row_shifts_tell_frozen_statistics_from_detached_logits() {
    only(Variant::FrozenStats, &[Proof::Invariance], &[Proof::Invariance]);
    only(Variant::DetachedLogits, &[Proof::Invariance], &[]);
}

#[test]
fn a_gradient_that_is_off_by_a_millionth_fails_two_identities_and_passes_the_second_order_slopes() {
    let proofs =
        [Proof::VjpOrder, Proof::GradientOrder, Proof::CentralDifference, Proof::Adjoint, Proof::Symmetry];
    only(Variant::DqWrongBy1e6, &proofs, &[Proof::Adjoint, Proof::Symmetry]);
}

#[test]
fn a_forgotten_cotangent_tangent_is_seen_only_by_its_own_identity() {
    let all_but_the_oracle = &Proof::ALL[..Proof::ALL.len() - 1];
    only(Variant::MissingCotangentTangent, all_but_the_oracle, &[Proof::CotangentTangent]);
}

#[test]
fn dropout_redrawn_for_the_derivatives_is_consistent_and_only_the_function_itself_objects() {
    let all_but_the_oracle = &Proof::ALL[..Proof::ALL.len() - 1];
    let taylor = [Proof::JvpOrder, Proof::VjpOrder, Proof::SecondOrder];
    only(Variant::RedrawnDropout, all_but_the_oracle, &taylor);
}

#[test]
fn a_jvp_that_is_zero_or_negated_is_seen_by_its_slope_and_by_the_adjoint_alone() {
    let all_but_the_oracle = &Proof::ALL[..Proof::ALL.len() - 1];
    for variant in [Variant::ZeroJvp, Variant::NegatedJvp] {
        only(variant, all_but_the_oracle, &[Proof::JvpOrder, Proof::Adjoint]);
    }
}

#[test]
fn only_calls_that_differ_from_each_other_fail_to_repeat() {
    assert_eq!(MATRICES[0].caught(Proof::Repeatability), ["redrawn-each-call"]);
    assert_eq!(MATRICES[0].caught(Proof::ValueOrder), ["redrawn-each-call"]);
}

#[test]
fn a_zero_hessian_is_invalid_where_a_symmetric_one_would_pass() {
    for variant in [Variant::OnceDifferentiable, Variant::DetachedOutput] {
        let row = MATRICES[0].row(variant.name()).unwrap();
        let verdict = &row.finding(Proof::Symmetry).unwrap().verdict;
        assert!(matches!(verdict, Verdict::Invalid(reason) if reason.contains("zero")), "{verdict:?}");
    }
}

/// The page with the text between two markers replaced.
fn replaced(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the page has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("the page has no {end}"));
    format!("{before}{begin}\n{table}\n{end}{after}")
}

#[test]
fn the_page_shows_the_matrix() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/detector_matrix.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let fresh = replaced(&page, "detector matrix", &MATRICES[0].to_markdown());
    let fresh = replaced(&fresh, "proofs", &proofs_to_markdown());
    if std::env::var_os("THERIA_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, &fresh).unwrap();
        return;
    }
    for (shown, measured) in page.lines().zip(fresh.lines()) {
        assert_eq!(shown, measured, "run with THERIA_BLESS=1 if the matrix may change");
    }
    assert_eq!(page, fresh, "run with THERIA_BLESS=1 if the matrix may change");
}
