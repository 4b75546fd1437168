//! A backend against the stored cases and through the conformance suite.

use half::{bf16, f16};
use rayon::prelude::*;
use theria_contract::conformance::{Report, Suite};
use theria_contract::{Attention, DType, Element, Host, Precision, Rule, bound};
use theria_experiments::evaluation::evaluate;

use crate::evidence::{Row, rows_of};
use crate::fixtures::{self, Fixture};

/// A backend on the host that serves every element type.
pub trait EveryElement:
    Attention<f64, Storage = Host>
    + Attention<f32, Storage = Host>
    + Attention<f16, Storage = Host>
    + Attention<bf16, Storage = Host>
{
}

impl<B> EveryElement for B where
    B: Attention<f64, Storage = Host>
        + Attention<f32, Storage = Host>
        + Attention<f16, Storage = Host>
        + Attention<bf16, Storage = Host>
{
}

/// The bound against stored cases. Binary64 is held to a tenth of the general bound: both sides are
/// exact up to rounding.
pub fn bound_of(dtype: DType, rule: Rule) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        other => bound(Precision::of(other), rule),
    }
}

/// One row for each output of these rules on each stored case.
///
/// # Panics
/// If a stored case cannot be read or evaluated, or lacks what a rule makes on it.
pub fn judge_fixtures<B: EveryElement>(backend: &B, rules: &[Rule]) -> Vec<Row> {
    let mut rows = Vec::new();
    for fixture in fixtures::all() {
        match fixture.dtype() {
            DType::F64 => judge::<f64, _>(backend, &fixture, rules, &mut rows),
            DType::F32 => judge::<f32, _>(backend, &fixture, rules, &mut rows),
            DType::F16 => judge::<f16, _>(backend, &fixture, rules, &mut rows),
            DType::Bf16 => judge::<bf16, _>(backend, &fixture, rules, &mut rows),
        }
    }
    rows
}

fn judge<E: Element, B: Attention<E, Storage = Host>>(
    backend: &B,
    fixture: &Fixture,
    rules: &[Rule],
    rows: &mut Vec<Row>,
) {
    let case = fixture.case.load::<E>().unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    let rules: Vec<Rule> = rules.iter().copied().filter(|rule| case.missing_for(*rule).is_none()).collect();
    let results =
        evaluate(backend, &case, &rules).unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    for (output, tensor) in results.iter() {
        let name = format!("fixture: {} {}", fixture.name, output.name());
        let comparison =
            fixture.compare(&case, output, tensor).unwrap_or_else(|| panic!("{name} is not expected"));
        let rule = output.rule();
        let (backend, dtype, bound) = (backend.name(), E::DTYPE.name(), bound_of(E::DTYPE, rule));
        rows.push(Row::measured(name, rule.name(), backend, dtype, comparison.error, bound));
    }
}

/// The conformance suite in these element types, judged by an oracle. Nothing of it may fail; what is
/// given back are the rows of these rules.
pub fn conform<B, O>(backend: &B, oracle: &O, types: &[DType], rules: &[Rule]) -> Vec<Row>
where
    B: EveryElement + Sync,
    O: Attention<f64, Storage = Host> + Sync,
{
    let suite = Suite::standard();
    let run = |dtype: &DType| match dtype {
        DType::F64 => suite.run::<f64, _, _>(backend, oracle),
        DType::F32 => suite.run::<f32, _, _>(backend, oracle),
        DType::F16 => suite.run::<f16, _, _>(backend, oracle),
        DType::Bf16 => suite.run::<bf16, _, _>(backend, oracle),
    };
    // The textbook works on one thread; the reports stay in the order of the types.
    let mut report = Report::default();
    types.par_iter().map(run).collect::<Vec<_>>().into_iter().for_each(|found| report.extend(found));
    report.assert_passed();
    report.outcomes.retain(|outcome| rules.contains(&outcome.rule));
    rows_of(&report)
}
