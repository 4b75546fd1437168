//! The proofs on functions whose derivatives everybody knows, and on derivatives that are a little
//! wrong.

use std::convert::Infallible;

use super::{
    Allowed, Answer, Block, Claim, Detail, Finding, Gap, Point, Proof, Verdict, examine, examine_against,
};

/// A function of one number, applied to sums of three neighbours so that H is not diagonal.
type Scalar = fn(f64) -> f64;

/// fᵢ = s(xᵢ + 2 xᵢ₊₁ - xᵢ₊₂), around the end, with derivatives that can be scaled.
#[derive(Clone, Copy)]
struct Neighbours {
    s: [Scalar; 3],
    value: f64,
    jvp: f64,
    vjp: f64,
    curvature: f64,
    cotangent_tangent: f64,
    /// A part of H that is antisymmetric.
    twist: f64,
    /// A part of every derivative that is not linear.
    bend: f64,
}

const WEIGHTS: [f64; 3] = [1.0, 2.0, -1.0];
const N: usize = 7;

impl Neighbours {
    fn right(s: [Scalar; 3]) -> Self {
        Self {
            s,
            value: 1.0,
            jvp: 1.0,
            vjp: 1.0,
            curvature: 1.0,
            cotangent_tangent: 1.0,
            twist: 0.0,
            bend: 0.0,
        }
    }

    fn gather(x: &[f64]) -> Vec<f64> {
        (0..N).map(|i| (0..3).map(|j| WEIGHTS[j] * x[(i + j) % N]).sum()).collect()
    }

    fn scatter(y: &[f64]) -> Vec<f64> {
        (0..N).map(|i| (0..3).map(|j| WEIGHTS[j] * y[(i + N - j) % N]).sum()).collect()
    }

    /// s⁽ᵏ⁾ at every sum.
    fn derivative(&self, k: usize, x: &[f64]) -> Vec<f64> {
        Self::gather(x).into_iter().map(self.s[k]).collect()
    }

    fn finish(&self, factor: f64, numbers: impl Iterator<Item = f64>) -> Vec<f64> {
        numbers.map(|number| factor * number + self.bend * number * number).collect()
    }
}

fn times(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

impl Claim for Neighbours {
    type Error = Infallible;

    fn outputs(&self) -> usize {
        N
    }

    fn value(&self, x: &[f64]) -> Answer {
        Ok(self.derivative(0, x).into_iter().map(|value| self.value * value).collect())
    }

    fn jvp(&self, x: &[f64], v: &[f64]) -> Answer {
        Ok(self.finish(self.jvp, times(&self.derivative(1, x), &Self::gather(v)).into_iter()))
    }

    fn vjp(&self, x: &[f64], u: &[f64]) -> Answer {
        Ok(self.finish(self.vjp, Self::scatter(&times(&self.derivative(1, x), u)).into_iter()))
    }

    fn second_order(&self, x: &[f64], v: &[f64], u: &[f64], u_tangent: Option<&[f64]>) -> Answer {
        let mut inner = times(&times(&self.derivative(2, x), &Self::gather(v)), u);
        for entry in &mut inner {
            *entry *= self.curvature;
        }
        if let Some(u_tangent) = u_tangent {
            let pulled = times(&self.derivative(1, x), u_tangent);
            for (entry, more) in inner.iter_mut().zip(pulled) {
                *entry += self.cotangent_tangent * more;
            }
        }
        let mut second = Self::scatter(&inner);
        // The rotation (x₀, x₁) → (x₁, -x₀), times what u brings so that it stays linear in u.
        second[0] += self.twist * u[0] * v[1];
        second[1] -= self.twist * u[0] * v[0];
        Ok(self.finish(1.0, second.into_iter()))
    }
}

const EXP: [Scalar; 3] = [f64::exp, f64::exp, f64::exp];
const SINE: [Scalar; 3] = [f64::sin, f64::cos, |y| -y.sin()];
const QUADRATIC: [Scalar; 3] = [|y| y * y, |y| 2.0 * y, |_| 2.0];
const CONSTANT: [Scalar; 3] = [|_| 3.0, |_| 0.0, |_| 0.0];
const LINEAR: [Scalar; 3] = [|y| y, |_| 1.0, |_| 0.0];

fn point(seed: u64) -> Point {
    let mut point = Point::random(N, seed).with_reach(0.3);
    point.x = point.x.iter().map(|x| 0.3 * x).collect();
    point
}

fn failed(claim: &Neighbours) -> Vec<Proof> {
    let right = Neighbours::right(claim.s);
    let findings = examine_against(claim, &right, &point(1));
    findings.iter().filter(|finding| finding.verdict.is_failed()).map(|finding| finding.proof).collect()
}

#[test]
fn right_derivatives_of_exp_and_sine_pass_every_proof_at_thirty_points() {
    for s in [EXP, SINE] {
        for seed in 0..30 {
            let claim = Neighbours::right(s);
            for finding in examine_against(&claim, &claim, &point(seed)) {
                let passed = finding.verdict.is_passed();
                let no_invariance = finding.proof == Proof::Invariance;
                assert!(passed || no_invariance, "seed {seed}: {finding}");
            }
        }
    }
}

#[test]
fn a_derivative_that_is_wrong_by_a_thousandth_is_caught_by_the_proofs_that_are_about_it() {
    let right = Neighbours::right(SINE);
    let caught = |claim| failed(&claim);
    assert_eq!(caught(right), []);
    assert_eq!(
        caught(Neighbours { jvp: 1.001, ..right }),
        [Proof::JvpOrder, Proof::Adjoint, Proof::Agreement]
    );
    assert_eq!(
        caught(Neighbours { vjp: 1.001, ..right }),
        [
            Proof::VjpOrder,
            Proof::SecondOrder,
            Proof::GradientOrder,
            Proof::Adjoint,
            Proof::CotangentTangent,
            Proof::CentralDifference,
            Proof::Agreement
        ]
    );
    assert_eq!(
        caught(Neighbours { curvature: 1.001, ..right }),
        [Proof::SecondOrder, Proof::GradientOrder, Proof::CentralDifference, Proof::Agreement]
    );
    assert_eq!(
        caught(Neighbours { cotangent_tangent: 1.001, ..right }),
        [Proof::CotangentTangent, Proof::Agreement]
    );
}

#[test]
fn a_twisted_hessian_is_caught_by_its_symmetry_and_not_by_the_third_order() {
    let caught = failed(&Neighbours { twist: 0.01, ..Neighbours::right(SINE) });
    assert_eq!(caught, [Proof::GradientOrder, Proof::Symmetry, Proof::CentralDifference, Proof::Agreement]);
}

#[test]
fn a_rule_that_is_not_linear_is_caught() {
    assert!(failed(&Neighbours { bend: 1e-6, ..Neighbours::right(SINE) }).contains(&Proof::Linearity));
}

#[test]
fn a_value_that_is_scaled_is_caught_although_its_derivatives_fit_together() {
    let caught = failed(&Neighbours { value: 1.01, ..Neighbours::right(SINE) });
    assert_eq!(caught, [Proof::JvpOrder, Proof::VjpOrder, Proof::SecondOrder, Proof::Agreement]);
}

#[test]
fn a_constant_function_proves_nothing_rather_than_everything() {
    let claim = Neighbours::right(CONSTANT);
    for finding in examine(&claim, &point(1)) {
        match finding.proof {
            Proof::Repeatability => assert!(finding.verdict.is_passed()),
            Proof::Invariance | Proof::Agreement => {
                assert!(matches!(finding.verdict, Verdict::NotApplicable(_)), "{finding}");
            }
            _ => assert!(matches!(finding.verdict, Verdict::Invalid(_)), "{finding}"),
        }
    }
}

#[test]
fn a_polynomial_that_the_terms_meet_exactly_proves_only_the_orders_below() {
    let verdict = |s, proof: Proof| proof.run(&Neighbours::right(s), &point(1)).verdict;
    assert!(verdict(LINEAR, Proof::ValueOrder).is_passed());
    assert!(matches!(verdict(LINEAR, Proof::JvpOrder), Verdict::Invalid(_)));
    assert!(verdict(QUADRATIC, Proof::JvpOrder).is_passed());
    assert!(matches!(verdict(QUADRATIC, Proof::SecondOrder), Verdict::Invalid(_)));
    // A wrong curvature is still caught: it leaves a remainder.
    let wrong = Neighbours { curvature: 1.001, ..Neighbours::right(QUADRATIC) };
    assert!(Proof::SecondOrder.run(&wrong, &point(1)).verdict.is_failed());
}

/// A function with nothing but a value.
struct Bare;

impl Claim for Bare {
    type Error = &'static str;
    fn outputs(&self) -> usize {
        1
    }
    fn value(&self, x: &[f64]) -> Answer<Self::Error> {
        if x[0] > 10.0 { Err(Gap::Failed("out of range")) } else { Ok(vec![x[0].exp()]) }
    }
    fn jvp(&self, _x: &[f64], _v: &[f64]) -> Answer<Self::Error> {
        Ok(vec![f64::NAN])
    }
}

#[test]
fn a_rule_that_is_not_claimed_is_said_to_be_missing() {
    let finding = Proof::Symmetry.run(&Bare, &Point::random(1, 1));
    assert_eq!(finding.verdict, Verdict::NotApplicable("no second order is claimed".into()));
    assert_eq!(finding.measured, None);
}

#[test]
fn a_rule_that_fails_is_invalid_with_its_error_and_one_that_gives_nan_fails() {
    let far = Proof::ValueOrder.run(&Bare, &Point::new(vec![20.0], 1));
    assert_eq!(far.verdict, Verdict::Invalid("a rule failed: out of range".into()));
    let near: Finding = Proof::JvpOrder.run(&Bare, &Point::random(1, 1));
    assert_eq!(near.verdict, Verdict::Failed);
}

#[test]
fn a_finding_reads_as_a_sentence_and_carries_its_remainders() {
    let finding = Proof::JvpOrder.run(&Neighbours::right(EXP), &point(1));
    assert_eq!(finding.to_string(), "order 2: JVP: passed, measured 2.0000, allowed 1.95 to 2.05");
    assert_eq!(finding.allowed, Allowed::Between(1.95, 2.05));
    assert!(matches!(finding.detail, Detail::Remainders(remainders) if remainders.steps.len() == 7));
}

/// f = scale · x entry by entry, with its derivatives scaled once more, and the rules that it has.
#[derive(Clone)]
struct Scaled {
    scale: f64,
    jvp: Option<f64>,
    vjp: f64,
    /// The last entry of the VJP, times this.
    last: f64,
    blocks: Vec<Block>,
}

impl Scaled {
    fn right(scale: f64) -> Self {
        Self { scale, jvp: Some(1.0), vjp: 1.0, last: 1.0, blocks: Vec::new() }
    }
}

impl Claim for Scaled {
    type Error = Infallible;
    fn outputs(&self) -> usize {
        4
    }
    fn value(&self, x: &[f64]) -> Answer {
        Ok(x.iter().map(|x| self.scale * x).collect())
    }
    fn jvp(&self, _x: &[f64], v: &[f64]) -> Answer {
        let factor = self.jvp.ok_or_else(|| Gap::not_claimed("JVP"))?;
        Ok(v.iter().map(|v| factor * self.scale * v).collect())
    }
    fn vjp(&self, _x: &[f64], u: &[f64]) -> Answer {
        let mut pulled: Vec<f64> = u.iter().map(|u| self.vjp * self.scale * u).collect();
        pulled[3] *= self.last;
        Ok(pulled)
    }
    fn blocks(&self) -> Vec<Block> {
        self.blocks.clone()
    }
}

fn against(claim: &Scaled, oracle: &Scaled) -> Finding {
    Proof::Agreement.run_against(claim, oracle, &Point::random(4, 1))
}

#[test]
fn derivatives_whose_squares_overflow_are_still_right_or_wrong() {
    for scale in [1e160, 1e-200] {
        let right = Scaled::right(scale);
        let wrong = Scaled { jvp: Some(3.0), vjp: 2.0, ..right.clone() };
        let adjoint = |claim: &Scaled| Proof::Adjoint.run(claim, &Point::random(4, 1)).verdict;
        assert_eq!((adjoint(&right), against(&right, &right).verdict), (Verdict::Passed, Verdict::Passed));
        assert_eq!((adjoint(&wrong), against(&wrong, &right).verdict), (Verdict::Failed, Verdict::Failed));
    }
    // At the end of the range the sizes themselves overflow, and nothing passes.
    let beyond = Scaled::right(1e308);
    for proof in [Proof::Adjoint, Proof::Linearity] {
        assert!(!proof.run(&beyond, &Point::random(4, 1)).verdict.is_passed());
    }
}

#[test]
fn a_mistake_outside_of_every_block_is_caught_by_the_whole() {
    let right = Scaled { blocks: vec![Block::new("most", 0..3)], ..Scaled::right(1.0) };
    assert!(against(&right, &right).verdict.is_passed());
    let finding = against(&Scaled { last: 7.0, ..right.clone() }, &right);
    assert!(finding.verdict.is_failed());
    assert!(finding.to_string().contains("the VJP, all inputs"), "{finding}");
}

#[test]
fn an_oracle_without_a_rule_of_the_claim_passes_nothing_and_still_fails_what_it_sees() {
    let right = Scaled::right(1.0);
    let blind = Scaled { jvp: None, ..right.clone() };
    let finding = against(&Scaled { jvp: Some(5.0), ..right.clone() }, &blind);
    let reason = "the JVP is claimed, and the oracle has none";
    assert_eq!(finding.verdict, Verdict::Invalid(reason.into()));
    assert!(finding.to_string().ends_with("of the value, the VJP compared"), "{finding}");
    assert!(against(&Scaled { vjp: 5.0, ..right.clone() }, &blind).verdict.is_failed());
    // A rule that only the oracle has is not missed.
    assert!(against(&blind, &right).verdict.is_passed());
}

#[test]
fn a_cotangent_tangent_that_is_lost_in_the_second_order_proves_nothing() {
    let right = Neighbours::right(SINE);
    let ignored = Neighbours { cotangent_tangent: 0.0, ..right };
    let verdict = |claim: &Neighbours, reach| {
        Proof::CotangentTangent.run(claim, &Point::random(N, 1).with_reach(reach)).verdict
    };
    assert!(verdict(&right, 1.0).is_passed() && verdict(&ignored, 1.0).is_failed());
    for claim in [right, ignored] {
        assert!(matches!(verdict(&claim, 1e14), Verdict::Invalid(reason) if reason.contains("lost")));
    }
}

/// A function of which every number is the same.
struct Same {
    outputs: usize,
    number: f64,
}

impl Claim for Same {
    type Error = Infallible;
    fn outputs(&self) -> usize {
        self.outputs
    }
    fn value(&self, _x: &[f64]) -> Answer {
        Ok(vec![self.number; self.outputs])
    }
}

#[test]
fn what_is_not_finite_or_not_there_repeats_without_a_proof() {
    let verdict =
        |outputs, number| Proof::Repeatability.run(&Same { outputs, number }, &Point::random(2, 1)).verdict;
    assert!(verdict(3, 1.0).is_passed());
    assert_eq!(verdict(3, f64::NAN), Verdict::Invalid("the value is not finite".into()));
    assert_eq!(verdict(0, 1.0), Verdict::Invalid("there is no output".into()));
}
