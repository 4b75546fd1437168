//! `G, G′ → dP, dP′ → dS, dS′ → dQ′, dK′, dV′, dBias′`, as the formulas stand.

use faer::{Mat, Scale};
use theria_contract::{
    Cotangent, Directions, Element, Host, Inputs, Primal, Problem, Qkv, Result, SavedView, SecondOrder,
    Tangent, TensorView, TensorViewMut,
};
use theria_reference::Real;
use theria_reference::dense::GradientSums;
use theria_reference::dense::head::{
    self, dropout_weights, hadamard, matrix, probabilities, row_sums, scores,
};

use super::{probabilities_tangent, scores_tangent};

pub(super) fn run<E>(
    problem: &Problem,
    Primal(inputs): Primal<&Inputs<'_, Host, E>>,
    Primal(saved): Primal<SavedView<'_, Host, E>>,
    Tangent(directions): Tangent<Directions<TensorView<'_, E>>>,
    Tangent(saved_tangent): Tangent<SavedView<'_, Host, E>>,
    Cotangent(g): Cotangent<TensorView<'_, E>>,
    g_tangent: Option<Tangent<Cotangent<TensorView<'_, E>>>>,
    SecondOrder { tangent: Tangent(Cotangent(mut tangent)), mut first }: SecondOrder<TensorViewMut<'_, E>>,
) -> Result<()>
where
    E: Element,
    E::Acc: Real,
{
    let shape = problem.shape();
    if shape.is_empty() {
        let zero = |gradients: &mut Qkv<TensorViewMut<'_, E>>| {
            gradients.as_mut().named().for_each(|(_, gradient)| gradient.fill(E::default()));
        };
        zero(&mut tangent);
        if let Some(first) = &mut first {
            zero(&mut first.0);
        }
        return Ok(());
    }
    let scale = E::Acc::from_f64(problem.scale());
    let mut tangent_sums = GradientSums::new(problem, tangent)?;
    let mut first_sums = first.map(|first| GradientSums::new(problem, first.0)).transpose()?;
    for index in head::indices(problem, inputs)? {
        let queries = |view| matrix(view, index.batch, index.q, shape.t);
        let keys = |view| matrix(view, index.batch, index.kv, index.keys);
        let (q, k, v, g) = (queries(inputs.q), keys(inputs.k), keys(inputs.v), queries(g));
        let g_tangent = g_tangent.map(|g_tangent| queries(g_tangent.0.0));

        let s = scores(problem, inputs, index, q.as_ref(), k.as_ref());
        let p = probabilities(s.as_ref(), |i| saved.lse.at([index.batch, index.q, i, 0]));
        let z = dropout_weights(problem, index);
        let s_tangent = scores_tangent(problem, index, &s, [&q, &k], &directions);
        // μ is what the JVP saved.
        let mu = |i| saved_tangent.lse.at([index.batch, index.q, i, 0]);
        let p_tangent = probabilities_tangent(&p, &s_tangent, mu);

        let dp = hadamard(z.as_ref(), (&g * v.transpose()).as_ref());
        let mut dp_tangent = Mat::<E::Acc>::zeros(s.nrows(), s.ncols());
        if let Some(g_tangent) = &g_tangent {
            dp_tangent += g_tangent * v.transpose();
        }
        if let Some(v_tangent) = directions.v {
            dp_tangent += &g * keys(v_tangent).transpose();
        }
        let dp_tangent = hadamard(z.as_ref(), dp_tangent.as_ref());

        // rowsum(G ∘ O) and rowsum(G′ ∘ O + G ∘ O′), without the rounding of a saved O and O′.
        let delta = row_sums(hadamard(p.as_ref(), dp.as_ref()).as_ref());
        let delta_tangent = row_sums(
            (hadamard(p_tangent.as_ref(), dp.as_ref()) + hadamard(p.as_ref(), dp_tangent.as_ref())).as_ref(),
        );
        let ds = Mat::from_fn(s.nrows(), s.ncols(), |i, j| p[(i, j)] * (dp[(i, j)] - delta[i]));
        let ds_tangent = Mat::from_fn(s.nrows(), s.ncols(), |i, j| {
            p_tangent[(i, j)] * (dp[(i, j)] - delta[i]) + p[(i, j)] * (dp_tangent[(i, j)] - delta_tangent[i])
        });

        let mut dq_tangent = &ds_tangent * &k;
        if let Some(k_tangent) = directions.k {
            dq_tangent += &ds * keys(k_tangent);
        }
        let mut dk_tangent = ds_tangent.transpose() * &q;
        if let Some(q_tangent) = directions.q {
            dk_tangent += ds.transpose() * queries(q_tangent);
        }
        let weights = hadamard(p.as_ref(), z.as_ref());
        let mut dv_tangent = hadamard(p_tangent.as_ref(), z.as_ref()).transpose() * &g;
        if let Some(g_tangent) = &g_tangent {
            dv_tangent += weights.transpose() * g_tangent;
        }
        let (dq_tangent, dk_tangent) = (Scale(scale) * dq_tangent, Scale(scale) * dk_tangent);
        tangent_sums.add(
            index,
            dq_tangent.as_ref(),
            dk_tangent.as_ref(),
            dv_tangent.as_ref(),
            ds_tangent.as_ref(),
        );
        if let Some(sums) = &mut first_sums {
            let dq = Scale(scale) * (&ds * &k);
            let dk = Scale(scale) * (ds.transpose() * &q);
            let dv = weights.transpose() * &g;
            sums.add(index, dq.as_ref(), dk.as_ref(), dv.as_ref(), ds.as_ref());
        }
    }
    tangent_sums.finish();
    if let Some(sums) = first_sums {
        sums.finish();
    }
    Ok(())
}
