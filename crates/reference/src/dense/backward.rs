//! `G → dP → dS → dQ, dK, dV, dBias`, as the formulas stand.

use faer::{Mat, MatRef, Scale};
use theria_contract::{
    Cotangent, Element, Host, Inputs, Primal, Problem, Qkv, Result, SavedView, Tensor, TensorView,
    TensorViewMut,
};

use super::head::{self, dropout_weights, hadamard, matrix, probabilities, scores};
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
    // Sums over the heads of a group and over broadcast axes are kept in the accumulation type
    // until every head is done.
    let mut dk_sum = Tensor::<E::Acc>::zeros(problem.shape().k())?;
    let mut dv_sum = Tensor::<E::Acc>::zeros(problem.shape().v())?;
    let mut dbias_sum = problem.bias().map(Tensor::<E::Acc>::zeros).transpose()?;

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

        head::write(gradients.q.reborrow(), index.batch, index.q, dq.as_ref());
        add(&mut dk_sum, index.batch, index.kv, dk.as_ref());
        add(&mut dv_sum, index.batch, index.kv, dv.as_ref());
        if let Some(dbias) = &mut dbias_sum {
            add_broadcast(dbias, index.batch, index.q, ds.as_ref());
        }
    }

    round(&dk_sum, gradients.k);
    round(&dv_sum, gradients.v);
    if let (Some(sum), Some(dbias)) = (&dbias_sum, gradients.bias) {
        round(sum, dbias);
    }
    Ok(())
}

/// The sum of each row.
fn row_sums<A: Real>(matrix: MatRef<'_, A>) -> Vec<A> {
    (0..matrix.nrows()).map(|i| (0..matrix.ncols()).map(|c| matrix[(i, c)]).sum()).collect()
}

/// Adds a matrix to one head of a sum.
fn add<A: Real>(sum: &mut Tensor<A>, batch: usize, head: usize, matrix: MatRef<'_, A>) {
    let mut sum = sum.view_mut();
    for i in 0..matrix.nrows() {
        for c in 0..matrix.ncols() {
            let at = [batch, head, i, c];
            sum.set(at, sum.at(at) + matrix[(i, c)]);
        }
    }
}

/// Adds a matrix of the shape of the scores to a sum whose axes of length 1 stand for any index.
fn add_broadcast<A: Real>(sum: &mut Tensor<A>, batch: usize, head: usize, matrix: MatRef<'_, A>) {
    let shape = sum.shape();
    let mut sum = sum.view_mut();
    for i in 0..matrix.nrows() {
        for j in 0..matrix.ncols() {
            let index = [batch, head, i, j];
            let at = std::array::from_fn(|axis| if shape[axis] == 1 { 0 } else { index[axis] });
            sum.set(at, sum.at(at) + matrix[(i, j)]);
        }
    }
}

/// Rounds a sum to the element type of the output.
fn round<E: Element>(sum: &Tensor<E::Acc>, mut output: TensorViewMut<'_, E>) {
    let [batch, heads, rows, columns] = sum.shape();
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..rows {
                for c in 0..columns {
                    output.set([b, h, i, c], E::from_acc(sum.at([b, h, i, c])));
                }
            }
        }
    }
}
