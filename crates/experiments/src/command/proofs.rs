//! What the tour and the doctor prove on the spot, for whatever rules a backend has.

use theria_contract::judge::{Output, compare};
use theria_contract::{
    Causal, Checks, DType, Element, Precision, Problem, Qkv, Result, Rule, Support, Tensor, bound,
};

use crate::backend::{self, Backend, Served};
use crate::case_file::{Case, CaseError};
use crate::evaluation::Results;
use crate::taylor::{self, Remainders};

/// A rule against the oracle, and how fast it was.
pub(super) struct Accuracy {
    pub(super) rule: Rule,
    pub(super) support: Support,
    /// Largest error of its results, and the time of the fastest repetition in seconds; absent
    /// when the backend refuses the rule, the error also when the oracle does.
    pub(super) error: Option<f64>,
    /// The result that has this error.
    pub(super) worst: Option<Output>,
    pub(super) seconds: Option<f64>,
    pub(super) bound: f64,
}

impl Accuracy {
    pub(super) fn failed(&self) -> bool {
        self.error.is_some_and(|error| error > self.bound)
    }
}

/// Rules that a backend computes exactly on this problem.
pub(super) fn exact_rules(backend: Backend, problem: &Problem) -> Vec<Rule> {
    Rule::ALL.into_iter().filter(|rule| backend.support(problem, *rule).is_exact()).collect()
}

/// Every rule of a backend on random data of type `E`, against the oracle in binary64.
pub(super) fn accuracy<E: Served>(
    backend: Backend,
    problem: &Problem,
    seed: u64,
    repetitions: usize,
) -> anyhow::Result<Vec<Accuracy>> {
    let case = Case::<E>::random(&problem.with_dtype(E::DTYPE), seed)?;
    let rules = exact_rules(backend, &case.problem);
    let mut runs = Vec::new();
    for _ in 0..repetitions.max(1) {
        runs.push(backend::evaluate(backend, Checks::Finite, &case, &rules)?);
    }
    let wide = case.widen();
    let oracle = backend::evaluate(
        Backend::ORACLE,
        Checks::Finite,
        &wide,
        &exact_rules(Backend::ORACLE, &wide.problem),
    )?;
    let magnitudes = oracle.get(Output::Out).map(|out| case.magnitudes(out)).unwrap_or_default();
    let worst_of = |rule: Rule| -> Option<(Output, f64)> {
        runs[0]
            .iter()
            .filter(|(output, _)| output.rule() == rule)
            .filter_map(|(output, tensor)| {
                let natural_size = magnitudes.natural_size(&case.problem, output);
                Some((output, compare(tensor.view(), oracle.get(output)?.view(), natural_size).error))
            })
            .max_by(|a, b| a.1.total_cmp(&b.1))
    };
    let precision = Precision::of(E::DTYPE);
    Ok(Rule::ALL
        .into_iter()
        .map(|rule| Accuracy {
            rule,
            support: backend.support(&case.problem, rule),
            error: worst_of(rule).map(|(_, error)| error),
            worst: worst_of(rule).map(|(output, _)| output),
            seconds: runs
                .iter()
                .filter_map(|run| run.time(rule))
                .map(|time| time.as_secs_f64())
                .reduce(f64::min),
            bound: bound(precision, rule),
        })
        .collect())
}

/// A small case in binary64 whose direction follows the gradient's signs, so that the first-order
/// term is far from zero and a wrong gradient cannot hide behind a small one.
pub(super) struct Probe {
    backend: Backend,
    case: Case<f64>,
    gradients: Results<f64>,
    rules: Vec<Rule>,
}

impl Probe {
    pub(super) fn new(backend: Backend, seed: u64) -> anyhow::Result<Self> {
        let problem = Problem::builder(DType::F64)
            .batch(2)
            .heads(4, 2)
            .lengths(20, 24)
            .head_dims(8, 6)
            .causal(Causal::BottomRight)
            .bias([1, 4, 1, 24])
            .build()?;
        let mut case = Case::<f64>::random(&problem, seed)?;
        case.dout_tangent = None;
        let rules = exact_rules(backend, &problem);
        let first = backend::evaluate(backend, Checks::Finite, &case, &[Rule::Forward, Rule::Backward])?;
        let gradients = [Output::Dq, Output::Dk, Output::Dv, Output::Dbias];
        let directions = &mut case.directions;
        let all = [&mut directions.q, &mut directions.k, &mut directions.v, &mut directions.bias];
        for (direction, gradient) in all.into_iter().zip(gradients) {
            if let (Some(direction), Some(gradient)) = (direction, first.get(gradient)) {
                for (x, g) in direction.data_mut().iter_mut().zip(gradient.data()) {
                    *x = x.abs().copysign(*g);
                }
            }
        }
        let gradients = backend::evaluate(backend, Checks::Finite, &case, &rules)?;
        Ok(Self { backend, case, gradients, rules })
    }

    /// φ = ⟨G, O⟩ at a step along the direction.
    fn value(&self, step: f64) -> Result<f64> {
        let mut moved = self.case.clone();
        let directions = &self.case.directions;
        let Qkv { q, k, v, bias } = &mut moved.operands;
        let all = [
            (Some(q), &directions.q),
            (Some(k), &directions.k),
            (Some(v), &directions.v),
            (bias.as_mut(), &directions.bias),
        ];
        for (operand, direction) in all {
            if let (Some(operand), Some(direction)) = (operand, direction) {
                for (x, d) in operand.data_mut().iter_mut().zip(direction.data()) {
                    *x += step * d;
                }
            }
        }
        let results = backend::evaluate(self.backend, Checks::Finite, &moved, &[Rule::Forward])?;
        Ok(inner(results.get(Output::Out), self.case.dout.as_ref()))
    }

    /// The inner product of gradients, or of their tangents, with the direction.
    fn along(&self, outputs: [Output; 4]) -> f64 {
        let directions = &self.case.directions;
        let all = [&directions.q, &directions.k, &directions.v, &directions.bias];
        outputs
            .into_iter()
            .zip(all)
            .map(|(output, direction)| inner(self.gradients.get(output), direction.as_ref()))
            .sum()
    }

    fn slope_along(&self) -> f64 {
        self.along([Output::Dq, Output::Dk, Output::Dv, Output::Dbias])
    }

    /// The remainder after the first-order term, with the backward's gradient times `factor`: 1 to
    /// prove it, anything else to show that the proof can fail.
    pub(super) fn first_order(&self, factor: f64) -> Result<Remainders> {
        let coefficients = [self.value(0.0)?, factor * self.slope_along()];
        taylor::remainders(|step| self.value(step), &coefficients, 0.5_f64.powi(9), 6)
    }

    /// The remainder after the second-order term, if the backend has the rule.
    pub(super) fn second_order(&self, factor: f64) -> Result<Option<Remainders>> {
        if !self.rules.contains(&Rule::SecondOrder) {
            return Ok(None);
        }
        let curvature =
            self.along([Output::DqTangent, Output::DkTangent, Output::DvTangent, Output::DbiasTangent]);
        let coefficients = [self.value(0.0)?, self.slope_along(), factor * curvature / 2.0];
        taylor::remainders(|step| self.value(step), &coefficients, 0.5_f64.powi(6), 5).map(Some)
    }

    /// The relative difference of ⟨G, J v⟩ and ⟨Jᵀ G, v⟩, if the backend has both rules.
    pub(super) fn adjoint_gap(&self) -> Option<f64> {
        let pushed = inner(Some(self.gradients.get(Output::OutTangent)?), self.case.dout.as_ref());
        let pulled = self.slope_along();
        Some((pushed - pulled).abs() / pulled.abs().max(f64::MIN_POSITIVE))
    }
}

fn inner(a: Option<&Tensor<f64>>, b: Option<&Tensor<f64>>) -> f64 {
    let (Some(a), Some(b)) = (a, b) else { return 0.0 };
    a.data().iter().zip(b.data()).map(|(a, b)| a * b).sum()
}

/// Whether one thread and several give the same bits, for every rule that the backend has.
pub(super) fn same_bits_on_any_threads<E: Served>(
    backend: Backend,
    problem: &Problem,
    seed: u64,
    threads: usize,
) -> anyhow::Result<bool> {
    let case = Case::<E>::random(&problem.with_dtype(E::DTYPE), seed)?;
    let rules = exact_rules(backend, &case.problem);
    let on = |threads: usize| -> anyhow::Result<Results<E>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        Ok(pool.install(|| backend::evaluate(backend, Checks::None, &case, &rules))?)
    };
    Ok(same_bits(&on(1)?, &on(threads)?))
}

fn same_bits<E: Element>(a: &Results<E>, b: &Results<E>) -> bool {
    a.iter().all(|(output, tensor)| b.get(output).is_some_and(|other| tensor.bytes() == other.bytes()))
}

/// The problem of the doctor's self-test: every feature, and small.
pub(super) fn small_problem(dtype: DType) -> std::result::Result<Problem, CaseError> {
    Ok(Problem::builder(dtype)
        .batch(2)
        .heads(4, 2)
        .lengths(48, 56)
        .head_dims(32, 24)
        .causal(Causal::BottomRight)
        .mask([2, 1, 48, 56])
        .bias([1, 4, 1, 56])
        .key_lengths()
        .dropout(0.1, 1)
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_proves_the_backward_of_every_backend_for_any_seed_and_rejects_a_scaled_gradient() {
        for backend in Backend::ALL {
            for seed in 0..12 {
                let probe = Probe::new(*backend, seed).unwrap();
                let proof = probe.first_order(1.0).unwrap();
                assert!(proof.shows_order(2), "{backend} seed {seed}: {proof:?}");
                let control = probe.first_order(1.001).unwrap();
                assert!(!control.shows_order(2), "{backend} seed {seed}: {control:?}");
                if let Some(proof) = probe.second_order(1.0).unwrap() {
                    assert!(proof.shows_order(3), "{backend} seed {seed}: {proof:?}");
                }
                assert!(probe.adjoint_gap().unwrap_or(0.0) <= 1e-12, "{backend} seed {seed}");
            }
        }
    }

    #[test]
    fn a_different_bit_is_noticed() {
        let case = Case::<f64>::random(&small_problem(DType::F64).unwrap(), 1).unwrap();
        let mut other = case.clone();
        other.operands.v.data_mut()[0] += 1e-9;
        let run = |case| backend::evaluate(Backend::ORACLE, Checks::None, case, &[Rule::Forward]).unwrap();
        assert!(same_bits(&run(&case), &run(&case)));
        assert!(!same_bits(&run(&case), &run(&other)));
    }
}
