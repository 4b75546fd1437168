//! One head of one batch entry as plain matrices, and the score policy written once.
//!
//! Everything that makes attention more than two products (bias, masks, windows, lengths, dropout)
//! is decided here, entry by entry; the rules only see matrices.

use faer::{Mat, MatRef};
use theria_contract::{
    Element, Host, Inputs, Problem, Result, SavedViewMut, TensorView, TensorViewMut, Visibility,
};

use crate::{Real, give_back_registers};

/// Which head: the batch entry, the query head, and the key/value head that it shares.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Batch entry.
    pub batch: usize,
    /// Query head.
    pub q: usize,
    /// Key/value head.
    pub kv: usize,
    /// Real keys of this batch entry: later ones are never read.
    pub keys: usize,
}

/// Every query head of a problem.
pub fn indices<E: Element>(problem: &Problem, inputs: &Inputs<'_, Host, E>) -> Result<Vec<Index>> {
    let shape = problem.shape();
    let mut all = Vec::with_capacity(shape.batch * shape.heads_q);
    for batch in 0..shape.batch {
        let keys = inputs.key_length(problem, batch)?;
        all.extend((0..shape.heads_q).map(|q| Index { batch, q, kv: shape.head_kv(q), keys }));
    }
    Ok(all)
}

/// The first `rows` rows of one head, in the accumulation type.
pub fn matrix<E: Element>(view: TensorView<'_, E>, batch: usize, head: usize, rows: usize) -> Mat<E::Acc>
where
    E::Acc: Real,
{
    Mat::from_fn(rows, view.shape()[3], |i, c| view.at([batch, head, i, c]).to_acc())
}

/// Rounds a matrix into one head of a tensor, and writes zero to the rows beyond it.
pub fn write<E: Element>(view: TensorViewMut<'_, E>, batch: usize, head: usize, matrix: MatRef<'_, E::Acc>)
where
    E::Acc: Real,
{
    write_each(view, batch, head, matrix, E::from_acc);
}

/// The same, and what rounding takes into another place.
pub fn write_with_rest<E: Element>(
    saved: &mut SavedViewMut<'_, Host, E>,
    batch: usize,
    head: usize,
    matrix: MatRef<'_, E::Acc>,
) where
    E::Acc: Real,
{
    write(saved.output.reborrow(), batch, head, matrix);
    if let Some(rest) = &mut saved.rest {
        write_each(rest.reborrow(), batch, head, matrix, E::rest_of);
    }
}

fn write_each<E: Element>(
    mut view: TensorViewMut<'_, E>,
    batch: usize,
    head: usize,
    matrix: MatRef<'_, E::Acc>,
    element: impl Fn(E::Acc) -> E,
) where
    E::Acc: Real,
{
    let [_, _, rows, columns] = view.shape();
    for i in 0..rows {
        for c in 0..columns {
            let value = if i < matrix.nrows() { element(matrix[(i, c)]) } else { E::default() };
            view.set([batch, head, i, c], value);
        }
    }
}

/// `S`: scaled scores plus bias, `-inf` where a query does not see a key.
pub fn scores<E: Element>(
    problem: &Problem,
    inputs: &Inputs<'_, Host, E>,
    index: Index,
    q: MatRef<'_, E::Acc>,
    k: MatRef<'_, E::Acc>,
) -> Mat<E::Acc>
where
    E::Acc: Real,
{
    let scale = E::Acc::from_f64(problem.scale());
    let visibility = Visibility::of(problem);
    let products = q * k.transpose();
    give_back_registers();
    Mat::from_fn(products.nrows(), products.ncols(), |i, j| {
        let at = [index.batch, index.q, i, j];
        let unmasked = inputs.mask.is_none_or(|mask| mask.at_broadcast(at) != 0);
        if unmasked && visibility.keys(i, index.keys).contains(&j) {
            let bias = inputs.bias.map_or(E::Acc::default(), |bias| bias.at_broadcast(at).to_acc());
            scale * products[(i, j)] + bias
        } else {
            E::Acc::from_f64(f64::NEG_INFINITY)
        }
    })
}

/// `P = exp(S - lse)`; zero where the score is `-inf`, also in a row that sees nothing, unless that
/// row's `lse` is NaN.
///
/// A saved `lse` of size 1000 is rounded by 1e-13, and every probability of its row inherits that as
/// a relative error. The row must sum to one, so dividing by its sum takes the error out again.
pub fn probabilities<A: Real>(scores: MatRef<'_, A>, lse: impl Fn(usize) -> A) -> Mat<A> {
    let unseen = A::from_f64(f64::NEG_INFINITY);
    give_back_registers();
    let mut p = Mat::from_fn(scores.nrows(), scores.ncols(), |i, j| match scores[(i, j)] {
        s if s == unseen && !lse(i).to_f64().is_nan() => A::default(),
        s => Real::exp(s - lse(i)),
    });
    for i in 0..p.nrows() {
        let sum: A = (0..p.ncols()).map(|j| p[(i, j)]).sum();
        if sum != A::default() {
            for j in 0..p.ncols() {
                p[(i, j)] /= sum;
            }
        }
    }
    p
}

/// `Z`: the dropout weights, 1 without dropout.
pub fn dropout_weights<A: Real>(problem: &Problem, index: Index) -> Mat<A> {
    let Some(dropout) = problem.dropout() else {
        return Mat::from_fn(problem.shape().t, index.keys, |_, _| A::from_f64(1.0));
    };
    let kept = A::from_f64(dropout.kept_weight());
    Mat::from_fn(problem.shape().t, index.keys, |i, j| {
        if dropout.row(index.batch, index.q, i).keeps(j) { kept } else { A::default() }
    })
}

/// The entry-wise product `A ∘ B`.
pub fn hadamard<A: Real>(a: MatRef<'_, A>, b: MatRef<'_, A>) -> Mat<A> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)] * b[(i, j)])
}

/// The sum of each row.
pub fn row_sums<A: Real>(matrix: MatRef<'_, A>) -> Vec<A> {
    (0..matrix.nrows()).map(|i| (0..matrix.ncols()).map(|c| matrix[(i, c)]).sum()).collect()
}
