//! `G → dP → dS → dQ, dK, dV, dBias`, as the formulas stand.

use faer::{Mat, Scale};
use theria_contract::{
    Cotangent, Element, Host, Inputs, Primal, Problem, Qkv, Result, SavedView, TensorView, TensorViewMut,
};

use super::GradientSums;
use super::head::{self, dropout_weights, hadamard, matrix, probabilities, row_sums, scores};
use crate::Real;

pub(super) fn run<E>(
    problem: &Problem,
    Primal(inputs): Primal<&Inputs<'_, Host, E>>,
    Primal(saved): Primal<SavedView<'_, Host, E>>,
    Cotangent(g): Cotangent<TensorView<'_, E>>,
    Cotangent(mut gradients): Cotangent<Qkv<TensorViewMut<'_, E>>>,
) -> Result<()>
where
    E: Element,
    E::Acc: Real,
{
    if problem.shape().is_empty() {
        gradients.as_mut().named().for_each(|(_, gradient)| gradient.fill(E::default()));
        return Ok(());
    }
    let scale = E::Acc::from_f64(problem.scale());
    let mut sums = GradientSums::new(problem, gradients)?;
    for index in head::indices(problem, inputs)? {
        let q = matrix(inputs.q, index.batch, index.q, problem.shape().t);
        let k = matrix(inputs.k, index.batch, index.kv, index.keys);
        let v = matrix(inputs.v, index.batch, index.kv, index.keys);
        let g = matrix(g, index.batch, index.q, problem.shape().t);

        let s = scores(problem, inputs, index, q.as_ref(), k.as_ref());
        let p = probabilities(s.as_ref(), |i| saved.lse.at([index.batch, index.q, i, 0]));
        let z = dropout_weights(problem, index);

        let dp = hadamard(z.as_ref(), (&g * v.transpose()).as_ref());
        // rowsum(G ∘ O) = rowsum(P ∘ dP); the second form does not inherit the rounding of a saved O.
        let delta = row_sums(hadamard(p.as_ref(), dp.as_ref()).as_ref());
        let ds = Mat::from_fn(dp.nrows(), dp.ncols(), |i, j| p[(i, j)] * (dp[(i, j)] - delta[i]));

        let dq = Scale(scale) * (&ds * &k);
        let dk = Scale(scale) * (ds.transpose() * &q);
        let dv = hadamard(p.as_ref(), z.as_ref()).transpose() * &g;
        sums.add(index, dq.as_ref(), dk.as_ref(), dv.as_ref(), ds.as_ref());
    }
    sums.finish();
    Ok(())
}
