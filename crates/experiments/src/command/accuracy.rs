//! How far the rules of a backend are from the oracle, how fast they are, and whether their bits
//! depend on the threads.

use theria_contract::judge::{Output, compare};
use theria_contract::{Causal, Checks, DType, Element, Problem, Rule, Support, bound};

use crate::backend::{self, Backend, Served};
use crate::case_file::{Case, CaseError};
use crate::evaluation::Results;

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
    for _ in 0..if rules.is_empty() { 0 } else { repetitions.max(1) } {
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
        runs.first()?
            .iter()
            .filter(|(output, _)| output.rule() == rule)
            .filter_map(|(output, tensor)| {
                let natural_size = magnitudes.natural_size(&case.problem, output);
                Some((output, compare(tensor.view(), oracle.get(output)?.view(), natural_size).error))
            })
            .max_by(|a, b| a.1.total_cmp(&b.1))
    };
    let precision = backend.precision(E::DTYPE);
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
    fn a_different_bit_is_noticed() {
        let case = Case::<f64>::random(&small_problem(DType::F64).unwrap(), 1).unwrap();
        let mut other = case.clone();
        other.operands.v.data_mut()[0] += 1e-9;
        let run = |case| backend::evaluate(Backend::ORACLE, Checks::None, case, &[Rule::Forward]).unwrap();
        assert!(same_bits(&run(&case), &run(&case)));
        assert!(!same_bits(&run(&case), &run(&other)));
    }
}
