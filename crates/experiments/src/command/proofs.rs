//! Every proof of a backend on the spot, each beside a mistake that it must reject.

use serde_json::{Value, json};
use theria_contract::{Causal, DType, Problem};
use theria_jvp_hvp::proof::{Allowed, Detail, Finding, Proof, Verdict};

use super::console::{json_number, scientific};
use crate::backend::Backend;
use crate::claim::{Evaluated, Mistake, control};

/// What a proof found about the backend, and about its negative control.
pub(super) struct Proved {
    pub(super) finding: Finding,
    pub(super) mistake: Mistake,
    pub(super) control: Finding,
}

impl Proved {
    /// A proof of what the backend has not got is no failure. One that says nothing is, and so is one
    /// that lets its control pass.
    pub(super) fn failed(&self) -> bool {
        let holds = matches!(self.finding.verdict, Verdict::Passed | Verdict::NotApplicable(_));
        !holds || !self.rejected()
    }

    /// Whether the control was found wrong.
    pub(super) fn rejected(&self) -> bool {
        self.control.verdict.is_failed()
    }

    pub(super) fn json(&self) -> Value {
        let mut value = finding_json(&self.finding);
        value["what"] = json!(self.finding.proof.name());
        value["identity"] = json!(self.finding.proof.identity());
        value["blind_to"] = json!(self.finding.proof.blind_to());
        value["passed"] = json!(!self.failed());
        value["control"] = finding_json(&self.control);
        value["control"]["operator"] = json!(self.mistake.name());
        value["control"]["what_is_wrong"] = json!(self.mistake.summary());
        value["control"]["rejected"] = json!(self.rejected());
        value
    }
}

/// The problem of the proofs: small, with everything in which a mistake can show itself.
pub(super) fn problem() -> theria_contract::Result<Problem> {
    Problem::builder(DType::F64)
        .batch(2)
        .heads(4, 2)
        .lengths(20, 24)
        .head_dims(8, 6)
        .causal(Causal::BottomRight)
        .bias([1, 4, 1, 24])
        .dropout(0.2, 7)
        .build()
}

/// Puts a backend to every proof.
pub(super) fn prove(backend: Backend, problem: &Problem, seed: u64) -> Vec<Proved> {
    let (claim, oracle) = (Evaluated::new(backend, problem), Evaluated::new(Backend::ORACLE, problem));
    let point = claim.point(seed);
    let prove = |proof: Proof| {
        let mistake = control(proof);
        let control = mistake.examine(proof, &oracle, &point);
        Proved { finding: proof.run_against(&claim, &oracle, &point), mistake, control }
    };
    Proof::ALL.into_iter().map(prove).collect()
}

/// The number that decides, for people.
pub(super) fn measured(finding: &Finding) -> String {
    match (finding.measured, finding.allowed) {
        (None, _) => String::new(),
        (Some(slope), Allowed::Between(..)) => format!("slope {slope:.3}"),
        // A count of differing values.
        (Some(count), Allowed::AtMost(0.0)) => format!("{count}"),
        (Some(error), Allowed::AtMost(_)) => scientific(error),
    }
}

/// The word for a finding.
pub(super) fn word(finding: &Finding) -> String {
    match &finding.verdict {
        Verdict::Passed => "passed".into(),
        Verdict::Failed => "FAILED".into(),
        Verdict::Invalid(reason) => format!("FAILED: {reason}"),
        Verdict::NotApplicable(reason) => format!("not judged: {reason}"),
    }
}

fn finding_json(finding: &Finding) -> Value {
    let allowed = match finding.allowed {
        Allowed::AtMost(bound) => json!({"at_most": bound}),
        Allowed::Between(low, high) => json!({"low": low, "high": high}),
    };
    let (verdict, reason) = match &finding.verdict {
        Verdict::Passed => ("passed", None),
        Verdict::Failed => ("failed", None),
        Verdict::Invalid(reason) => ("invalid", Some(reason)),
        Verdict::NotApplicable(reason) => ("not-applicable", Some(reason)),
    };
    let mut value = json!({
        "value": finding.measured.map(json_number),
        "allowed": allowed,
        "verdict": verdict,
        "reason": reason,
    });
    match &finding.detail {
        Detail::None => {}
        Detail::Where(place) => value["where"] = json!(place),
        Detail::Remainders(remainders) => {
            value["steps"] = json!(remainders.steps);
            value["remainders"] = json!(remainders.remainders);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_passes_every_proof_for_any_seed_and_every_control_is_rejected() {
        let problem = problem().unwrap();
        let whole = |backend: &Backend| {
            theria_contract::Rule::ALL.iter().all(|rule| backend.support(&problem, *rule).is_exact())
        };
        for backend in Backend::ALL.iter().filter(|backend| whole(backend)) {
            for seed in 0..6 {
                for proved in prove(*backend, &problem, seed) {
                    assert!(proved.finding.verdict.is_passed(), "{backend} seed {seed}: {}", proved.finding);
                    let mistake = proved.mistake.name();
                    assert!(proved.rejected(), "{mistake} seed {seed}: {}", proved.control);
                    assert!(!proved.failed());
                }
            }
        }
    }

    #[test]
    fn a_control_that_passes_or_a_proof_that_says_nothing_is_a_failure() {
        let right = || prove(Backend::ORACLE, &problem().unwrap(), 0).swap_remove(0);
        let lenient = Proved { control: right().finding, ..right() };
        assert!(lenient.failed() && lenient.json()["passed"] == false);
        let verdict = Verdict::Invalid("nothing moves".into());
        let silent = Proved { finding: Finding { verdict, ..right().finding }, ..right() };
        assert!(silent.failed() && word(&silent.finding).contains("nothing moves"));
    }
}
