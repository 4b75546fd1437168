//! Judges somebody's results: every tensor against the oracle in binary64.

use theria_contract::judge::{Comparison, Output};
use theria_contract::{Checks, DType, Precision, Rule, Support, bound};

use crate::backend::{self, Backend, with_element};
use crate::case_file::{Candidate, CaseFile};

/// What is said of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The error is within the bound.
    Passed,
    /// It is not.
    Failed,
    /// The tensor cannot be compared: `expected` is its shape, if the case gives it one.
    WrongShape {
        /// The shape it has.
        given: Vec<usize>,
        /// The shape it must have; `None` for the gradient of a bias that is not there.
        expected: Option<Vec<usize>>,
    },
    /// There is nothing to compare it with, for this reason.
    NotJudged(String),
}

/// One tensor of the candidate.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which.
    pub output: Output,
    /// The largest error allowed.
    pub bound: f64,
    /// How far it is from the oracle, where that could be said.
    pub comparison: Option<Comparison>,
    /// What follows.
    pub verdict: Verdict,
}

/// What is said of a candidate.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Every tensor, in the order of the rules.
    pub findings: Vec<Finding>,
    /// The precision whose bounds were applied.
    pub precision: Precision,
    /// The type in which the oracle's inputs were rounded before it widened them.
    pub inputs: DType,
}

impl Judgement {
    /// Whether a tensor was found wrong.
    pub fn failed(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| matches!(finding.verdict, Verdict::Failed | Verdict::WrongShape { .. }))
    }

    /// Whether no tensor could be judged.
    pub fn is_empty(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding.verdict, Verdict::NotJudged(_)))
    }
}

/// Recomputes the case in binary64 and holds the candidate against it. The bounds are those of
/// `precision`, or else of the candidate's own type.
pub fn judge(
    case: &CaseFile,
    candidate: &Candidate,
    precision: Option<Precision>,
) -> theria_contract::Result<Judgement> {
    // A candidate narrower than the case has worked on inputs rounded to its own type.
    let inputs = case.problem().dtype().max(candidate.dtype());
    let case = with_element!(inputs, E => case.load::<E>().map(|case| case.widen())).map_err(|error| {
        theria_contract::Error::Backend { backend: Backend::ORACLE.name(), source: Box::new(error) }
    })?;
    let problem = &case.problem;
    let precision = precision.unwrap_or(Precision::of(candidate.dtype()));
    let obstacle = |rule: Rule| -> Option<String> {
        if let Some(missing) = case.missing_for(rule) {
            return Some(format!("the case lacks {}", missing.0));
        }
        match Backend::ORACLE.support(problem, rule) {
            Support::Exact => None,
            support => Some(format!("{}: {support}", Backend::ORACLE)),
        }
    };
    let wanted =
        |rule: &Rule| *rule == Rule::Forward || candidate.outputs().any(|output| output.rule() == *rule);
    let rules: Vec<Rule> =
        Rule::ALL.into_iter().filter(|rule| wanted(rule) && obstacle(*rule).is_none()).collect();
    let oracle = backend::evaluate(Backend::ORACLE, Checks::None, &case, &rules)?;
    let magnitudes = oracle.get(Output::Out).map(|out| case.magnitudes(out)).unwrap_or_default();

    let finding = |output: Output| {
        let bound = bound(precision, output.rule());
        let wrong_shape = |expected: Option<[usize; 4]>| Verdict::WrongShape {
            given: candidate.shape(output).to_vec(),
            expected: expected.map(|shape| shape.to_vec()),
        };
        let Some(expected) = output.shape(problem) else {
            return Finding { output, bound, comparison: None, verdict: wrong_shape(None) };
        };
        let Some(reference) = oracle.get(output) else {
            let reason = obstacle(output.rule()).unwrap_or_else(|| "the oracle does not make it".into());
            return Finding { output, bound, comparison: None, verdict: Verdict::NotJudged(reason) };
        };
        let comparison = candidate.compare(output, reference, magnitudes.natural_size(problem, output));
        let verdict = match comparison {
            None => wrong_shape(Some(expected)),
            Some(comparison) if comparison.error <= bound => Verdict::Passed,
            Some(_) => Verdict::Failed,
        };
        Finding { output, bound, comparison, verdict }
    };
    Ok(Judgement { findings: candidate.outputs().map(finding).collect(), precision, inputs })
}
