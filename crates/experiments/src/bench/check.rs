//! Whether what is timed is right: no bench of a wrong kernel may read as a success.
//!
//! Every output is poisoned before, and every element of it must be finite. The last head is held
//! against the oracle: whole where it is small enough to store, else its last rows, of which every
//! output that belongs to queries (out, lse, dq and their tangents) can be had alone.

use theria_contract::judge::{Magnitudes, Output, compare};
use theria_contract::{
    Attention, Causal, Checks, Directions, Element, Precision, Problem, Qkv, Rule, Storage, Tensor, bound,
};

use super::stage::{Drawn, Outputs};
use crate::backend::{self, Backend};
use crate::case_file::Case;
use crate::evaluation::Results;

/// Scores of a head that the oracle stores whole.
const WHOLE: usize = 1 << 20;
/// Rows that it computes otherwise.
const ROWS: usize = 64;

/// How far what was timed is from the oracle.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// The largest error, by the measure of the judge.
    pub error: f64,
    /// The largest that the table of bounds allows.
    pub bound: f64,
}

/// The last rows of a packed tensor, as one head.
fn last_rows<E: Element>(tensor: &Tensor<E>, rows: usize) -> theria_contract::Result<Tensor<E>> {
    let [.., columns] = tensor.shape();
    let data = tensor.data();
    Tensor::from_vec(data[data.len() - rows * columns..].to_vec(), [1, 1, rows, columns])
}

/// The last queries of the last head, with all of its keys.
fn last_head<E: Element>(
    problem: &Problem,
    drawn: &Drawn<E>,
    rows: usize,
) -> theria_contract::Result<Case<E>> {
    let m = problem.shape().m;
    let causal = if problem.causal() == Causal::None { Causal::None } else { Causal::BottomRight };
    let three = |operands: &Qkv<Tensor<E>>| -> theria_contract::Result<_> {
        Ok(Qkv {
            q: last_rows(&operands.q, rows)?,
            k: last_rows(&operands.k, m)?,
            v: last_rows(&operands.v, m)?,
            bias: None,
        })
    };
    Ok(Case {
        problem: problem.to_builder().batch(1).heads(1, 1).lengths(rows, m).causal(causal).build()?,
        operands: three(&drawn.primal)?,
        bias_rank: 4,
        mask: None,
        key_lengths: None,
        directions: drawn
            .direction
            .as_ref()
            .map(three)
            .transpose()?
            .map_or_else(Directions::default, Into::into),
        dout: drawn.cotangent.as_ref().map(|dout| last_rows(dout, rows)).transpose()?,
        dout_tangent: None,
    })
}

/// The oracle's answers for the last rows.
struct Reference {
    results: Results<f64>,
    magnitudes: Magnitudes,
    problem: Problem,
    rows: usize,
}

impl Reference {
    /// The error of one output; infinite where an element is not finite.
    fn error<T: Element>(&self, output: Output, tensor: &Tensor<T>) -> theria_contract::Result<f64> {
        if !tensor.data().iter().all(|x| x.is_finite()) {
            return Ok(f64::INFINITY);
        }
        let whole = self.rows == self.problem.shape().m;
        let of_keys = matches!(output, Output::Dk | Output::Dv | Output::DkTangent | Output::DvTangent);
        let Some(reference) = self.results.get(output).filter(|_| whole || !of_keys) else { return Ok(0.0) };
        let made = last_rows(tensor, reference.shape()[2])?;
        let size = self.magnitudes.natural_size(&self.problem, output);
        Ok(compare(made.view(), reference.view(), size).error)
    }
}

/// Holds what the first call made against the oracle.
pub(super) fn check<E: Element, A: Attention<E>>(
    backend: &A,
    problem: &Problem,
    rule: Rule,
    precision: Precision,
    drawn: &Drawn<E>,
    outputs: &Outputs<E, A>,
) -> anyhow::Result<Checked> {
    let shape = problem.shape();
    let rows = if shape.t * shape.m <= WHOLE { shape.t } else { ROWS.min(shape.t) };
    let case = last_head(problem, drawn, rows)?;
    let wide = case.widen();
    let results = backend::evaluate(Backend::ORACLE, Checks::Finite, &wide, &[Rule::Forward, rule])?;
    let magnitudes = results.get(Output::Out).map(|out| case.magnitudes(out)).unwrap_or_default();
    let reference = Reference { results, magnitudes, problem: case.problem.clone(), rows };

    let storage = backend.storage();
    let mut error: f64 = 0.0;
    match outputs {
        Outputs::Saved(saved) => {
            let names = if rule == Rule::Forward {
                [Output::Out, Output::Lse]
            } else {
                [Output::OutTangent, Output::LseTangent]
            };
            error =
                error.max(reference.error(names[0], &storage.download(A::Storage::view(&saved.output))?)?);
            error = error.max(reference.error(names[1], &storage.download(A::Storage::view(&saved.lse))?)?);
        }
        Outputs::Gradients(gradients) => {
            let names = if rule == Rule::Backward {
                [Output::Dq, Output::Dk, Output::Dv]
            } else {
                [Output::DqTangent, Output::DkTangent, Output::DvTangent]
            };
            for (name, tensor) in names.into_iter().zip([&gradients.q, &gradients.k, &gradients.v]) {
                error = error.max(reference.error(name, &storage.download(A::Storage::view(tensor))?)?);
            }
        }
    }
    Ok(Checked { error, bound: bound(precision, rule) })
}

impl Checked {
    /// Whether the bound holds.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}
