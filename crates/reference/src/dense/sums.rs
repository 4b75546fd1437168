//! Gradients under summation: over the heads of a group and the axes along which a bias is broadcast.
//!
//! Sums stay in the accumulation type until every head is done, then each is rounded once.

use faer::MatRef;
use theria_contract::{Element, Problem, Qkv, Result, Tensor, TensorViewMut};

use super::head::{self, Index};
use crate::Real;

/// dQ, dK, dV and dBias, or their tangents, head by head.
#[derive(Debug)]
pub struct GradientSums<'a, E: Element> {
    gradients: Qkv<TensorViewMut<'a, E>>,
    dk: Tensor<E::Acc>,
    dv: Tensor<E::Acc>,
    dbias: Option<Tensor<E::Acc>>,
}

impl<'a, E> GradientSums<'a, E>
where
    E: Element,
    E::Acc: Real,
{
    /// Zero so far.
    pub fn new(problem: &Problem, gradients: Qkv<TensorViewMut<'a, E>>) -> Result<Self> {
        let wanted = problem.bias().filter(|_| gradients.bias.is_some());
        Ok(Self {
            gradients,
            dk: Tensor::zeros(problem.shape().k())?,
            dv: Tensor::zeros(problem.shape().v())?,
            dbias: wanted.map(Tensor::zeros).transpose()?,
        })
    }

    /// What one query head gives; `ds` is the cotangent of its scores.
    pub fn add(
        &mut self,
        head: Index,
        dq: MatRef<'_, E::Acc>,
        dk: MatRef<'_, E::Acc>,
        dv: MatRef<'_, E::Acc>,
        ds: MatRef<'_, E::Acc>,
    ) {
        head::write(self.gradients.q.reborrow(), head.batch, head.q, dq);
        add_broadcast(&mut self.dk, [head.batch, head.kv], dk);
        add_broadcast(&mut self.dv, [head.batch, head.kv], dv);
        if let Some(dbias) = &mut self.dbias {
            add_broadcast(dbias, [head.batch, head.q], ds);
        }
    }

    /// Rounds the sums into the gradients.
    pub fn finish(self) {
        round(&self.dk, self.gradients.k);
        round(&self.dv, self.gradients.v);
        if let (Some(sum), Some(dbias)) = (&self.dbias, self.gradients.bias) {
            round(sum, dbias);
        }
    }
}

/// Adds a matrix to one head of a sum. An axis of the sum of length 1 stands for any index.
fn add_broadcast<A: Real>(sum: &mut Tensor<A>, [batch, head]: [usize; 2], matrix: MatRef<'_, A>) {
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
