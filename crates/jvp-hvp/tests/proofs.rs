//! Every proof of the exact backend, for many seeds and problems, and of what it must reject.

use theria_contract::{Attention, Causal, Checks, DType, Host, Problem, Tensor, Window};
use theria_jvp_hvp::proof::{AttentionClaim, Finding, Proof, Verdict, examine, examine_against};
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_jvp_hvp::{Dense, Streaming};

const SEEDS: std::ops::Range<u64> = 0..24;

/// Grouped heads, T ≠ M, D ≠ Dv, a bias that broadcasts, a causal mask, lengths and dropout.
fn everything() -> Problem {
    Problem::builder(DType::F64)
        .batch(2)
        .heads(4, 2)
        .lengths(5, 7)
        .head_dims(4, 3)
        .causal(Causal::BottomRight)
        .bias([1, 4, 5, 7])
        .key_lengths()
        .dropout(0.25, 7)
        .build()
        .unwrap()
}

fn plain() -> Problem {
    Problem::builder(DType::F64).heads(2, 2).lengths(6, 6).head_dims(4, 4).build().unwrap()
}

/// A window, and a mask under which one row sees nothing.
fn masked() -> Problem {
    let builder = Problem::builder(DType::F64).heads(2, 1).lengths(6, 8).head_dims(3, 5);
    builder.window(Window::new(3, 4)).mask([1, 1, 6, 8]).bias([1, 2, 1, 8]).build().unwrap()
}

fn claim<'a, A: Attention<f64, Storage = Host>>(
    attention: &'a A,
    problem: &'a Problem,
) -> AttentionClaim<'a, A> {
    let mut claim = AttentionClaim::new(attention, problem);
    if problem.key_lengths() {
        claim = claim.with_key_lengths(Tensor::from_vec(vec![7, 6], [1, 1, 1, 2]).unwrap());
    }
    if let Some(shape) = problem.mask() {
        let seen = |[_, _, i, j]: [usize; 4]| u8::from(i != 2 && !(i + 2 * j).is_multiple_of(5));
        claim = claim.with_mask(Tensor::from_fn(shape, seen).unwrap());
    }
    claim
}

#[test]
fn the_exact_rules_pass_every_proof_on_every_problem_for_every_seed() {
    let dense = Dense::new().with_checks(Checks::Finite);
    let mut ranges = Proof::ALL.map(|proof| (proof, f64::INFINITY, f64::NEG_INFINITY));
    for problem in [plain(), masked(), everything()] {
        let claim = claim(&dense, &problem);
        for seed in SEEDS {
            for finding in examine_against(&claim, &claim, &claim.point(seed)) {
                assert!(finding.verdict.is_passed(), "seed {seed} of {problem:?}: {finding}");
                let range = ranges.iter_mut().find(|range| range.0 == finding.proof).unwrap();
                let measured = finding.measured.unwrap();
                (range.1, range.2) = (range.1.min(measured), range.2.max(measured));
            }
        }
    }
    // What `cargo test -- --nocapture` shows.
    for (proof, least, most) in ranges {
        println!("{:<20} {least:.4e} to {most:.4e}, allowed {}", proof.name(), proof.allowed());
    }
}

#[test]
fn a_first_order_backend_is_examined_as_far_as_it_goes() {
    let first_order = theria_reference::Dense::new();
    let problem = everything();
    let claim = claim(&first_order, &problem);
    let findings = examine(&claim, &claim.point(1));
    let passed = |finding: &&Finding| finding.verdict.is_passed();
    let passed: Vec<Proof> = findings.iter().filter(passed).map(|finding| finding.proof).collect();
    assert_eq!(
        passed,
        [Proof::ValueOrder, Proof::VjpOrder, Proof::Linearity, Proof::Invariance, Proof::Repeatability]
    );
    for finding in findings.iter().filter(|finding| !passed.contains(&finding.proof)) {
        assert!(matches!(finding.verdict, Verdict::NotApplicable(_)), "{finding}");
    }
}

#[test]
fn a_backend_that_is_right_for_another_scale_is_consistent_in_itself_and_disagrees_with_the_oracle() {
    let dense = Dense::new();
    let problem = plain();
    let other = problem.to_builder().scale(problem.scale() * 1.000_001).build().unwrap();
    let (claim, oracle) = (claim(&dense, &other), claim(&dense, &problem));
    for finding in examine_against(&claim, &oracle, &claim.point(1)) {
        let expected = finding.proof == Proof::Agreement;
        assert_eq!(finding.verdict.is_failed(), expected, "{finding}");
    }
}

#[test]
fn attention_over_a_single_key_is_linear_in_v_and_its_curvature_proves_nothing() {
    let dense = Dense::new();
    let problem = Problem::builder(DType::F64).lengths(3, 1).head_dims(2, 2).build().unwrap();
    let claim = claim(&dense, &problem);
    let findings = examine(&claim, &claim.point(1));
    let verdict = |proof| &findings.iter().find(|finding| finding.proof == proof).unwrap().verdict;
    assert!(verdict(Proof::ValueOrder).is_passed() && verdict(Proof::Adjoint).is_passed());
    for proof in [Proof::JvpOrder, Proof::SecondOrder, Proof::Symmetry] {
        assert!(matches!(verdict(proof), Verdict::Invalid(_)), "{proof:?}: {:?}", verdict(proof));
    }
}

/// Biases that a row does not see, a row that sees one key, and a single key: derivatives that are
/// zero, of which a backend gives rounding.
fn with_zeros() -> Vec<Problem> {
    let builder = |keys| Problem::builder(DType::F64).heads(2, 2).lengths(5, keys).head_dims(8, 8);
    vec![
        builder(5).bias([1, 2, 5, 1]).build().unwrap(),
        builder(5).bias([1, 1, 1, 1]).build().unwrap(),
        builder(5).bias([1, 2, 1, 1]).build().unwrap(),
        builder(5).causal(Causal::TopLeft).bias([1, 2, 5, 5]).build().unwrap(),
        builder(1).build().unwrap(),
        builder(1).bias([1, 2, 5, 1]).build().unwrap(),
    ]
}

fn never_failed<A: Attention<f64, Storage = Host>>(attention: &A, name: &str) {
    let oracle = Dense::new();
    for problem in with_zeros() {
        let (claim, oracle) = (claim(attention, &problem), claim(&oracle, &problem));
        for seed in SEEDS {
            let findings = examine_against(&claim, &oracle, &claim.point(seed));
            for finding in &findings {
                assert!(!finding.verdict.is_failed(), "{name}, seed {seed} of {problem:?}: {finding}");
            }
            // Nor are they excused: what has a value is proved.
            for proof in [Proof::Adjoint, Proof::Linearity, Proof::CotangentTangent, Proof::Agreement] {
                let finding = findings.iter().find(|finding| finding.proof == proof).unwrap();
                assert!(finding.verdict.is_passed(), "{name}, seed {seed} of {problem:?}: {finding}");
            }
        }
    }
}

#[test]
fn right_backends_never_fail_where_a_derivative_is_zero() {
    never_failed(&Dense::new(), "dense");
    never_failed(&Streaming::new(), "streaming");
}

#[test]
fn wrong_operators_are_still_caught_where_another_derivative_is_zero() {
    for problem in with_zeros() {
        // Over a single key dQ is zero and nothing is curved: only the first order can be wrong.
        let variants: &[Variant] = if problem.shape().k()[2] == 1 {
            &[Variant::ZeroJvp, Variant::NegatedJvp, Variant::MissingCotangentTangent]
        } else {
            &[
                Variant::DqWrongBy1e4,
                Variant::DqWrongBy1e6,
                Variant::FrozenLse,
                Variant::FrozenDelta,
                Variant::FrozenStats,
                Variant::NegatedJvp,
                Variant::MissingCotangentTangent,
            ]
        };
        for variant in variants {
            let varied = Varied::new(*variant);
            let claim = claim(&varied, &problem);
            for seed in 0..4 {
                let findings = examine(&claim, &claim.point(seed));
                let caught = findings.iter().any(|finding| finding.verdict.is_failed());
                assert!(caught, "{variant}, seed {seed} of {problem:?}");
            }
        }
    }
}
