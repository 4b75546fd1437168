//! `S′ → μ → P′ → O′`, as the formulas stand.

use theria_contract::{
    Directions, Element, Host, Inputs, Primal, Problem, Result, SavedView, SavedViewMut, Tangent, TensorView,
};
use theria_reference::Real;
use theria_reference::dense::head::{
    self, dropout_weights, hadamard, matrix, probabilities, row_sums, scores,
};

use super::{probabilities_tangent, scores_tangent};

pub(super) fn run<E>(
    problem: &Problem,
    Primal(inputs): Primal<&Inputs<'_, Host, E>>,
    Primal(saved): Primal<SavedView<'_, Host, E>>,
    Tangent(directions): Tangent<Directions<TensorView<'_, E>>>,
    Tangent(mut saved_tangent): Tangent<SavedViewMut<'_, Host, E>>,
) -> Result<()>
where
    E: Element,
    E::Acc: Real,
{
    if problem.shape().is_empty() {
        return Ok(());
    }
    for index in head::indices(problem, inputs)? {
        let q = matrix(inputs.q, index.batch, index.q, problem.shape().t);
        let k = matrix(inputs.k, index.batch, index.kv, index.keys);
        let v = matrix(inputs.v, index.batch, index.kv, index.keys);

        let s = scores(problem, inputs, index, q.as_ref(), k.as_ref());
        let p = probabilities(s.as_ref(), |i| saved.lse.at([index.batch, index.q, i, 0]));
        let z = dropout_weights(problem, index);

        let s_tangent = scores_tangent(problem, index, &s, [&q, &k], &directions);
        let mu = row_sums(hadamard(p.as_ref(), s_tangent.as_ref()).as_ref());
        let p_tangent = probabilities_tangent(&p, &s_tangent, |i| mu[i]);

        let mut o_tangent = hadamard(p_tangent.as_ref(), z.as_ref()) * &v;
        if let Some(v_tangent) = directions.v {
            let v_tangent = matrix(v_tangent, index.batch, index.kv, index.keys);
            o_tangent += hadamard(p.as_ref(), z.as_ref()) * v_tangent;
        }
        head::write_with_rest(&mut saved_tangent, index.batch, index.q, o_tangent.as_ref());
        for (i, mu) in mu.into_iter().enumerate() {
            saved_tangent.lse.set([index.batch, index.q, i, 0], mu);
        }
    }
    Ok(())
}
