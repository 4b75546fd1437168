//! Every proof of a backend, on problems that have what a mistake needs to show itself.

use theria_contract::{Attention, Causal, DType, Host, Problem, Rule, Tensor, Window};
use theria_jvp_hvp::proof::{Allowed, AttentionClaim, Finding, Point, Proof, Verdict};

use crate::evidence::Row;

/// A problem in binary64, with its mask and its key lengths.
#[derive(Debug)]
pub struct Subject {
    /// What it is about.
    pub name: &'static str,
    /// The problem.
    pub problem: Problem,
    mask: Option<Tensor<u8>>,
    key_lengths: Option<Tensor<i32>>,
}

/// The problems: plain, masked so that one row sees nothing, and everything at once.
///
/// # Panics
/// Never: the problems are valid.
pub fn subjects() -> [Subject; 3] {
    let sized = |heads: [usize; 2], lengths: [usize; 2], dims: [usize; 2]| {
        Problem::builder(DType::F64)
            .heads(heads[0], heads[1])
            .lengths(lengths[0], lengths[1])
            .head_dims(dims[0], dims[1])
    };
    let plain = sized([2, 2], [6, 6], [4, 4]);
    let masked =
        sized([2, 1], [6, 8], [3, 5]).window(Window::new(3, 4)).mask([1, 1, 6, 8]).bias([1, 2, 1, 8]);
    let everything = sized([4, 2], [5, 7], [4, 3])
        .batch(2)
        .causal(Causal::BottomRight)
        .bias([1, 4, 5, 7])
        .key_lengths()
        .dropout(0.25, 7);
    [("plain", plain), ("masked", masked), ("everything", everything)].map(|(name, builder)| {
        let problem = builder.build().expect("a valid problem");
        let seen = |[_, _, i, j]: [usize; 4]| u8::from(i != 2 && !(i + 2 * j).is_multiple_of(5));
        Subject {
            name,
            mask: problem.mask().map(|shape| Tensor::from_fn(shape, seen).expect("a small mask")),
            key_lengths: problem
                .key_lengths()
                .then(|| Tensor::from_vec(vec![7, 6], [1, 1, 1, 2]).expect("two lengths")),
            problem,
        }
    })
}

impl Subject {
    /// What a backend claims on this problem.
    pub fn claim<'a, A: Attention<f64, Storage = Host>>(&'a self, attention: &'a A) -> AttentionClaim<'a, A> {
        let mut claim = AttentionClaim::new(attention, &self.problem);
        if let Some(mask) = &self.mask {
            claim = claim.with_mask(mask.clone());
        }
        if let Some(lengths) = &self.key_lengths {
            claim = claim.with_key_lengths(lengths.clone());
        }
        claim
    }

    /// The boolean mask.
    pub fn mask(&self) -> Option<&Tensor<u8>> {
        self.mask.as_ref()
    }

    /// The key lengths.
    pub fn key_lengths(&self) -> Option<&Tensor<i32>> {
        self.key_lengths.as_ref()
    }
}

/// The seeds at which every proof is run. One row speaks for all of them, by its worst.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=8;

/// One row for each of these proofs on each problem.
pub fn prove<A, O>(attention: &A, oracle: &O, proofs: &[Proof]) -> Vec<Row>
where
    A: Attention<f64, Storage = Host>,
    O: Attention<f64, Storage = Host>,
{
    let mut rows = Vec::new();
    for subject in subjects() {
        let (claim, oracle) = (subject.claim(attention), subject.claim(oracle));
        let points: Vec<Point> = SEEDS.map(|seed| claim.point(seed)).collect();
        for proof in proofs {
            let findings = points.iter().map(|point| proof.run_against(&claim, &oracle, point));
            rows.push(worst(subject.name, attention.name(), findings));
        }
    }
    rows
}

/// The row of the worst of several findings of one proof.
///
/// # Panics
/// If there is none.
pub fn worst(what: &str, backend: &str, findings: impl Iterator<Item = Finding>) -> Row {
    let rows = findings.map(|finding| row(what, backend, &finding));
    // A row without a number has an infinite error, and so the last word.
    rows.max_by(|a, b| a.error.total_cmp(&b.error)).expect("a proof is run somewhere")
}

/// The row of one finding: for a slope, how far it is from the order that it must show.
pub fn row(what: &str, backend: &str, finding: &Finding) -> Row {
    let name = format!("proof: {}, {what}", finding.proof.name());
    let rule = rule_of(finding.proof).map_or("all", Rule::name);
    let (error, bound) = match (finding.measured.unwrap_or(f64::INFINITY), finding.allowed) {
        (measured, Allowed::AtMost(bound)) => (measured, bound),
        (slope, Allowed::Between(low, high)) => ((slope - low.midpoint(high)).abs(), (high - low) / 2.0),
    };
    match &finding.verdict {
        Verdict::Passed => Row::measured(name, rule, backend, "f64", error, bound),
        Verdict::NotApplicable(reason) => Row::refused(name, rule, backend, "f64", reason),
        Verdict::Invalid(reason) => Row::failed(name, rule, backend, "f64", reason),
        Verdict::Failed => Row::failed(name, rule, backend, "f64", finding.to_string()),
    }
}

/// The rule that a proof is about; none if it is about all.
fn rule_of(proof: Proof) -> Option<Rule> {
    match proof {
        Proof::ValueOrder => Some(Rule::Forward),
        Proof::JvpOrder => Some(Rule::Jvp),
        Proof::VjpOrder | Proof::Adjoint => Some(Rule::Backward),
        Proof::SecondOrder
        | Proof::GradientOrder
        | Proof::Symmetry
        | Proof::CotangentTangent
        | Proof::CentralDifference => Some(Rule::SecondOrder),
        Proof::Linearity | Proof::Invariance | Proof::Repeatability | Proof::Agreement => None,
    }
}
