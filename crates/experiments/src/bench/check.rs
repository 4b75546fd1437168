//! Whether what is timed is right: no bench of a wrong kernel may read as a success.
//!
//! Every output is poisoned before, and every element of it must be finite. The first and the last head are held
//! against the oracle: whole where they are small enough to store, else the first rows of the one and the last of
//! the other, of which every output that belongs to queries (out, lse, dq and their tangents) can be had alone.

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

/// One end of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    First,
    Last,
}

impl End {
    /// The first or last rows of a packed tensor, as one head.
    fn rows<E: Element>(self, tensor: &Tensor<E>, rows: usize) -> theria_contract::Result<Tensor<E>> {
        let [.., columns] = tensor.shape();
        let (data, count) = (tensor.data(), rows * columns);
        let part = match self {
            Self::First => &data[..count],
            Self::Last => &data[data.len() - count..],
        };
        Tensor::from_vec(part.to_vec(), [1, 1, rows, columns])
    }

    /// The first queries of the first head, or the last of the last, with all of its keys.
    fn case<E: Element>(
        self,
        problem: &Problem,
        drawn: &Drawn<E>,
        rows: usize,
    ) -> theria_contract::Result<Case<E>> {
        let m = problem.shape().m;
        // The bench has as many queries as keys, so that both alignments are one.
        let causal = match (problem.causal(), self) {
            (Causal::None, _) => Causal::None,
            (_, Self::First) => Causal::TopLeft,
            (_, Self::Last) => Causal::BottomRight,
        };
        let three = |operands: &Qkv<Tensor<E>>| -> theria_contract::Result<_> {
            let Qkv { q, k, v, .. } = operands;
            Ok(Qkv { q: self.rows(q, rows)?, k: self.rows(k, m)?, v: self.rows(v, m)?, bias: None })
        };
        let directions = drawn.direction.as_ref().map(three).transpose()?;
        Ok(Case {
            problem: problem.to_builder().batch(1).heads(1, 1).lengths(rows, m).causal(causal).build()?,
            operands: three(&drawn.primal)?,
            bias_rank: 4,
            mask: None,
            key_lengths: None,
            directions: directions.map_or_else(Directions::default, Into::into),
            dout: drawn.cotangent.as_ref().map(|dout| self.rows(dout, rows)).transpose()?,
            dout_tangent: None,
        })
    }
}

/// The oracle's answers for the rows of one end.
struct Reference {
    end: End,
    results: Results<f64>,
    magnitudes: Magnitudes,
    problem: Problem,
    rows: usize,
}

impl Reference {
    fn new<E: Element>(
        end: End,
        problem: &Problem,
        rule: Rule,
        drawn: &Drawn<E>,
    ) -> theria_contract::Result<Self> {
        let shape = problem.shape();
        let rows = if shape.t * shape.m <= WHOLE { shape.t } else { ROWS.min(shape.t) };
        let case = end.case(problem, drawn, rows)?;
        let wide = case.widen();
        let results = backend::evaluate(Backend::ORACLE, Checks::Finite, &wide, &[Rule::Forward, rule])?;
        let magnitudes = results.get(Output::Out).map(|out| case.magnitudes(out)).unwrap_or_default();
        Ok(Self { end, results, magnitudes, problem: case.problem, rows })
    }

    /// The error of one output.
    fn error<T: Element>(&self, output: Output, tensor: &Tensor<T>) -> theria_contract::Result<f64> {
        let whole = self.rows == self.problem.shape().m;
        let of_keys = matches!(output, Output::Dk | Output::Dv | Output::DkTangent | Output::DvTangent);
        let Some(reference) = self.results.get(output).filter(|_| whole || !of_keys) else { return Ok(0.0) };
        let made = self.end.rows(tensor, reference.shape()[2])?;
        let size = self.magnitudes.natural_size(&self.problem, output);
        Ok(compare(made.view(), reference.view(), size).error)
    }
}

/// The oracle's answers for both ends.
struct Judge([Reference; 2]);

impl Judge {
    /// The larger error of one output; infinite where an element is not finite.
    fn error<T: Element>(&self, output: Output, tensor: &Tensor<T>) -> theria_contract::Result<f64> {
        if !tensor.data().iter().all(|x| x.is_finite()) {
            return Ok(f64::INFINITY);
        }
        let [first, last] = &self.0;
        Ok(first.error(output, tensor)?.max(last.error(output, tensor)?))
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
    let references = [End::First, End::Last].map(|end| Reference::new(end, problem, rule, drawn));
    let [first, last] = references;
    let judge = Judge([first?, last?]);
    let storage = backend.storage();
    let error = match outputs {
        Outputs::Saved(saved) => {
            let [out, lse] = match rule {
                Rule::Forward => [Output::Out, Output::Lse],
                _ => [Output::OutTangent, Output::LseTangent],
            };
            let error = judge.error(out, &storage.download(A::Storage::view(&saved.output))?)?;
            error.max(judge.error(lse, &storage.download(A::Storage::view(&saved.lse))?)?)
        }
        Outputs::Gradients(gradients) => {
            let names = match rule {
                Rule::Backward => [Output::Dq, Output::Dk, Output::Dv],
                _ => [Output::DqTangent, Output::DkTangent, Output::DvTangent],
            };
            let mut error: f64 = 0.0;
            for (name, tensor) in names.into_iter().zip([&gradients.q, &gradients.k, &gradients.v]) {
                error = error.max(judge.error(name, &storage.download(A::Storage::view(tensor))?)?);
            }
            error
        }
    };
    Ok(Checked { error, bound: bound(precision, rule) })
}

impl Checked {
    /// Of two results the worse one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.error <= other.error { other } else { self }
    }

    /// Whether the bound holds.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}
