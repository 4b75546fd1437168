//! One head of one batch entry, and every quantity of the rules that a variant may change.
//!
//! ```text
//! forward   P′ = P ∘ (S′ - μ)  |  P ∘ S′  |  0          as `Terms::forward` says
//!           dS = P ∘ (dP - δ)  |  P ∘ dP  |  0          its transpose
//! backward  dS′ = P′ ∘ (dP - δ) + P ∘ (dP′ - δ′)        P′ as `Terms::rebuilt` says
//! ```

use faer::{Mat, Scale};
use theria_contract::{Directions, Host, Inputs, Problem, Tensor, TensorView};
use theria_reference::dense::head::{
    Index, dropout_weights, hadamard, matrix, probabilities, row_sums, scores,
};

use super::{Softmax, Terms};
use crate::dense::scores_tangent;

/// What a rule makes of one head, ready to be summed.
pub(super) struct HeadGradients {
    pub(super) q: Mat<f64>,
    pub(super) k: Mat<f64>,
    pub(super) v: Mat<f64>,
    pub(super) scores: Mat<f64>,
}

/// The operands of one head with P and Z.
pub(super) struct Head<'a> {
    terms: Terms,
    problem: &'a Problem,
    index: Index,
    q: Mat<f64>,
    k: Mat<f64>,
    v: Mat<f64>,
    s: Mat<f64>,
    p: Mat<f64>,
    z: Mat<f64>,
}

/// A direction, as one head sees it.
pub(super) struct HeadDirection {
    q: Mat<f64>,
    k: Mat<f64>,
    v: Mat<f64>,
    s: Mat<f64>,
    /// μ
    pub(super) mu: Vec<f64>,
}

impl<'a> Head<'a> {
    /// `problem` is that of the derivative rules: its dropout is drawn here.
    pub(super) fn new(
        terms: Terms,
        problem: &'a Problem,
        inputs: &Inputs<'_, Host, f64>,
        lse: TensorView<'_, f64>,
        index: Index,
    ) -> Self {
        let q = matrix(inputs.q, index.batch, index.q, problem.shape().t);
        let k = matrix(inputs.k, index.batch, index.kv, index.keys);
        let v = matrix(inputs.v, index.batch, index.kv, index.keys);
        let s = scores(problem, inputs, index, q.as_ref(), k.as_ref());
        let p = probabilities(s.as_ref(), |i| lse.at([index.batch, index.q, i, 0]));
        let z = dropout_weights(problem, index);
        Self { terms, problem, index, q, k, v, s, p, z }
    }

    /// G, or any other tensor of the shape of the output.
    pub(super) fn of_output(&self, view: TensorView<'_, f64>) -> Mat<f64> {
        matrix(view, self.index.batch, self.index.q, self.q.nrows())
    }

    /// Q′, K′, V′, S′ and μ.
    pub(super) fn direction(&self, directions: &Directions<TensorView<'_, f64>>) -> HeadDirection {
        let Index { batch, q, kv, .. } = self.index;
        let of = |view: Option<TensorView<'_, f64>>, head, like: &Mat<f64>| match view {
            Some(view) => matrix(view, batch, head, like.nrows()),
            None => Mat::zeros(like.nrows(), like.ncols()),
        };
        let s = scores_tangent(self.problem, self.index, &self.s, [&self.q, &self.k], directions);
        HeadDirection {
            q: of(directions.q, q, &self.q),
            k: of(directions.k, kv, &self.k),
            v: of(directions.v, kv, &self.v),
            mu: row_sums(hadamard(self.p.as_ref(), s.as_ref()).as_ref()),
            s,
        }
    }

    /// `O′ = (P′ ∘ Z) V + (P ∘ Z) V′`.
    pub(super) fn output_tangent(&self, along: &HeadDirection) -> Mat<f64> {
        let moved = self.moved(self.terms.forward, along);
        hadamard(moved.as_ref(), self.z.as_ref()) * &self.v + self.weights() * &along.v
    }

    /// `lse′`: μ, unless the statistics do not move.
    pub(super) fn lse_tangent(&self, along: &HeadDirection, row: usize) -> f64 {
        if self.terms.forward == Softmax::Centred { along.mu[row] } else { 0.0 }
    }

    /// dQ, dK, dV and dS.
    pub(super) fn backward(&self, g: &Mat<f64>) -> HeadGradients {
        let dp = hadamard(self.z.as_ref(), (g * self.v.transpose()).as_ref());
        let ds = self.scores_cotangent(&dp);
        self.gradients(&ds * &self.k, ds.transpose() * &self.q, self.weights().transpose() * g, ds)
            .scaled(self.terms.backward, self.terms.dq)
    }

    /// dQ′, dK′, dV′ and dS′.
    pub(super) fn second_order(
        &self,
        along: &HeadDirection,
        g: &Mat<f64>,
        g_tangent: Option<&Mat<f64>>,
    ) -> HeadGradients {
        let terms = self.terms;
        let g_tangent = match g_tangent {
            Some(g_tangent) if terms.cotangent_tangent => g_tangent.clone(),
            _ => Mat::zeros(g.nrows(), g.ncols()),
        };
        let moved = self.moved(terms.rebuilt, along);
        let dp = hadamard(self.z.as_ref(), (g * self.v.transpose()).as_ref());
        let from_cotangent = hadamard(self.z.as_ref(), (&g_tangent * self.v.transpose()).as_ref());
        let from_values = hadamard(self.z.as_ref(), (g * along.v.transpose()).as_ref());
        let whole = &from_cotangent + &from_values;

        let delta = self.delta(&dp);
        // O and O′ carry δ′, so it knows the true motion of P and of V whatever dP′ forgets.
        let delta_tangent = if terms.delta_moves && terms.forward == Softmax::Centred {
            let true_motion = self.moved(Softmax::Centred, along);
            row_sums(
                (hadamard(true_motion.as_ref(), dp.as_ref()) + hadamard(self.p.as_ref(), whole.as_ref()))
                    .as_ref(),
            )
        } else {
            vec![0.0; g.nrows()]
        };
        let dp_tangent = if terms.value_tangent { whole } else { from_cotangent };
        let ds = self.scores_cotangent(&dp);
        let ds_tangent = if terms.forward == Softmax::Still {
            Mat::zeros(dp.nrows(), dp.ncols())
        } else {
            Mat::from_fn(dp.nrows(), dp.ncols(), |i, j| {
                moved[(i, j)] * (dp[(i, j)] - delta[i])
                    + self.p[(i, j)] * (dp_tangent[(i, j)] - delta_tangent[i])
            })
        };
        self.gradients(
            &ds_tangent * &self.k + &ds * &along.k,
            ds_tangent.transpose() * &self.q + ds.transpose() * &along.q,
            hadamard(moved.as_ref(), self.z.as_ref()).transpose() * g
                + self.weights().transpose() * g_tangent,
            ds_tangent,
        )
        .scaled(terms.second_order, terms.dq)
    }

    /// `P ∘ Z`.
    fn weights(&self) -> Mat<f64> {
        hadamard(self.p.as_ref(), self.z.as_ref())
    }

    /// P′.
    fn moved(&self, softmax: Softmax, along: &HeadDirection) -> Mat<f64> {
        Mat::from_fn(self.p.nrows(), self.p.ncols(), |i, j| match softmax {
            Softmax::Centred => self.p[(i, j)] * (along.s[(i, j)] - along.mu[i]),
            Softmax::Uncentred => self.p[(i, j)] * along.s[(i, j)],
            Softmax::Still => 0.0,
        })
    }

    /// δ, which is zero where the backward has no such term.
    fn delta(&self, dp: &Mat<f64>) -> Vec<f64> {
        match self.terms.forward {
            Softmax::Centred => row_sums(hadamard(self.p.as_ref(), dp.as_ref()).as_ref()),
            Softmax::Uncentred | Softmax::Still => vec![0.0; dp.nrows()],
        }
    }

    /// dS: the transpose of how the forward sees P move.
    fn scores_cotangent(&self, dp: &Mat<f64>) -> Mat<f64> {
        let delta = self.delta(dp);
        Mat::from_fn(dp.nrows(), dp.ncols(), |i, j| match self.terms.forward {
            Softmax::Still => 0.0,
            Softmax::Centred | Softmax::Uncentred => self.p[(i, j)] * (dp[(i, j)] - delta[i]),
        })
    }

    /// The scores carry a scale that the bias does not.
    fn gradients(&self, q: Mat<f64>, k: Mat<f64>, v: Mat<f64>, scores: Mat<f64>) -> HeadGradients {
        let scale = Scale(self.problem.scale());
        HeadGradients { q: scale * q, k: scale * k, v, scores }
    }
}

impl HeadGradients {
    fn scaled(self, all: f64, dq: f64) -> Self {
        Self {
            q: Scale(all * dq) * self.q,
            k: Scale(all) * self.k,
            v: Scale(all) * self.v,
            scores: Scale(all) * self.scores,
        }
    }
}

/// A tensor of ones in the shape of the output.
pub(super) fn ones(problem: &Problem) -> theria_contract::Result<Tensor<f64>> {
    Tensor::from_fn(problem.shape().output(), |_| 1.0)
}
