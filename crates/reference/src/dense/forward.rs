//! `S → lse → P → O`, as the formulas stand.

use faer::MatRef;
use theria_contract::{
    Element, Host, Inputs, Primal, Problem, Result, SavedViewMut, Visibility, any_visible,
};

use super::head::{self, dropout_weights, hadamard, matrix, probabilities, scores};
use crate::Real;

pub(super) fn run<E>(
    problem: &Problem,
    Primal(inputs): Primal<&Inputs<'_, Host, E>>,
    Primal(mut saved): Primal<SavedViewMut<'_, Host, E>>,
) -> Result<()>
where
    E: Element,
    E::Acc: Real,
{
    if problem.shape().is_empty() {
        return Ok(());
    }
    let visibility = Visibility::of(problem);
    for index in head::indices(problem, inputs)? {
        let q = matrix(inputs.q, index.batch, index.q, problem.shape().t);
        let k = matrix(inputs.k, index.batch, index.kv, index.keys);
        let v = matrix(inputs.v, index.batch, index.kv, index.keys);

        let s = scores(problem, inputs, index, q.as_ref(), k.as_ref());
        let mut lse: Vec<E::Acc> = (0..s.nrows()).map(|i| log_sum_exp(s.as_ref(), i)).collect();
        for (i, lse) in lse.iter_mut().enumerate() {
            // Every score is -inf although a key is visible: they overflowed, and nobody knows the row.
            let (keys, at) = (visibility.keys(i, index.keys), [index.batch, index.q, i]);
            if lse.to_f64() == f64::NEG_INFINITY && any_visible(keys, at, inputs.mask, inputs.bias) {
                *lse = E::Acc::from_f64(f64::NAN);
            }
        }
        let p = probabilities(s.as_ref(), |i| lse[i]);
        let z = dropout_weights(problem, index);
        let o = hadamard(p.as_ref(), z.as_ref()) * v;

        head::write_with_rest(&mut saved, index.batch, index.q, o.as_ref());
        for (i, lse) in lse.into_iter().enumerate() {
            saved.lse.set([index.batch, index.q, i, 0], lse);
        }
    }
    Ok(())
}

/// `max + ln Σ exp(s - max)`; `-inf` for a row that sees nothing, NaN if the row has one.
fn log_sum_exp<A: Real>(s: MatRef<'_, A>, row: usize) -> A {
    let unseen = A::from_f64(f64::NEG_INFINITY);
    let row = || (0..s.ncols()).map(|j| s[(row, j)]);
    let max = row().fold(unseen, |max, s| if s > max { s } else { max });
    if row().all(|s| s == unseen) {
        return unseen;
    }
    max + Real::ln(row().map(|s| Real::exp(s - max)).sum::<A>())
}
