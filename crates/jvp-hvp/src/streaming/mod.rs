//! The default backend, whole: one sweep over tiles for each rule, memory linear in the length.
//!
//! Forward and backward are those of [`theria_reference::Streaming`]. The other two rules rebuild a tile
//! of P from the saved `lse`, as the backward does, and with it the tile of S′:
//!
//! ```text
//! jvp           by blocks of queries       A += (P ∘ Z ∘ S′) V + (P ∘ Z) V′      μ += rowsum(P ∘ S′)
//!               at the end of a row        O′ = A - μ ∘ O                        lse′ = μ
//!
//! second order  by tiles, in waves         P′ = P ∘ (S′ - μ)
//!                                          dS = P ∘ (dP - δ)        dS′ = P′ ∘ (dP - δ) + P ∘ (dP′ - δ′)
//!               dQ′ += scale · (dS′ K + dS K′)      dK′ += scale · (dS′ᵀ Q + dSᵀ Q′)
//!               dV′ += (P′ ∘ Z)ᵀ G + (P ∘ Z)ᵀ G′
//! ```
//!
//! Every row statistic of the second order is known before its sweep starts: `lse` from the forward, μ
//! from the JVP, δ and δ′ from G, G′, O and O′. So it is one sweep of the shape of a backward, whatever
//! G and G′ are. Products of an absent direction are not computed. Two things cost a sweep more: row
//! statistics where O is rounded to f16 or bf16, or of a block of queries with a large |lse|
//! (`row_statistics`), and each gradient of a bias that is wanted.
//!
//! Tasks and the order of every sum are functions of the problem: the bits do not depend on the number
//! of threads. After the first call on its threads an `_into` call allocates nothing, except to copy
//! operands whose rows overlap, and for a list of scratch in pools of more than 128 threads.

// Vector code must melt into the function that pulp compiles for an instruction set; otherwise every
// operation is a call that passes registers through memory.
#![allow(clippy::inline_always)]

mod jvp;
mod passes;
mod row_statistics;
mod second_order;
mod tangent_tile;

use theria_contract::{
    Attention, Checks, Cotangent, Directions, Host, Inputs, Primal, Problem, Qkv, Result, Rule, SavedView,
    SavedViewMut, SecondOrder, Support, Tangent, TensorView, TensorViewMut, Workspace,
};
use theria_reference::streaming::Operand;
use theria_reference::streaming::operand::{Apart, Target, packed_rows};
use theria_reference::streaming::policy::Policy;
use theria_reference::streaming::slots::Slots;

use row_statistics::RowStatistics;
use tangent_tile::{Operands, TileMaker};

/// Attention by tiles and its derivatives to second order, on all threads of the current rayon pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streaming {
    first: theria_reference::Streaming,
}

impl Streaming {
    /// A backend that takes values as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with checks on values.
    #[must_use]
    pub fn with_checks(self, checks: Checks) -> Self {
        Self { first: self.first.with_checks(checks) }
    }
}

/// Widened operands of the JVP: Q, K, V and their tangents. O is used in place or not at all.
fn jvp_widened_bytes<E: Operand>(problem: &Problem) -> usize {
    let shape = problem.shape();
    2 * [shape.q(), shape.k(), shape.v()].map(E::widened_bytes).iter().sum::<usize>()
}

impl<E> Attention<E> for Streaming
where
    E: Operand,
    E::Acc: Operand,
{
    type Storage = Host;

    fn name(&self) -> &'static str {
        Attention::<E>::name(&self.first)
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn checks(&self) -> Checks {
        Attention::<E>::checks(&self.first)
    }

    fn support(&self, _problem: &Problem, _rule: Rule) -> Support {
        Support::Exact
    }

    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        let shape = problem.shape();
        let statistic = Target::<E::Acc>::bytes(shape.rows());
        let widened = jvp_widened_bytes::<E>(problem);
        match rule {
            Rule::Forward | Rule::Backward => Attention::<E>::workspace_bytes(&self.first, problem, rule),
            Rule::Jvp => {
                let threads = Slots::<E::Acc>::bytes(jvp::scratch::<E>(problem));
                widened + threads + Target::<E>::bytes(shape.output()) + 2 * statistic
            }
            Rule::SecondOrder => {
                let threads = Slots::<E::Acc>::bytes(tangent_tile::scratch::<E::Acc>(problem));
                let gradients =
                    [shape.q(), shape.k(), shape.v()].map(Target::<E>::bytes).iter().sum::<usize>();
                let bias = problem.bias().map_or(0, Target::<E>::bytes);
                let cotangents = 2 * E::widened_bytes(shape.output());
                widened + cotangents + threads + 2 * (gradients + bias) + 5 * statistic
            }
        }
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedViewMut<'_, Host, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.first.forward_kernel(problem, inputs, saved, workspace)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        cotangent: Cotangent<TensorView<'_, E>>,
        gradients: Cotangent<Qkv<TensorViewMut<'_, E>>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.first.backward_kernel(problem, inputs, saved, cotangent, gradients, workspace)
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedView<'_, Host, E>>,
        Tangent(directions): Tangent<Directions<TensorView<'_, E>>>,
        Tangent(saved_tangent): Tangent<SavedViewMut<'_, Host, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut arena = workspace.arena();
        let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(Apart::new);
        let tangents = [directions.q, directions.k, directions.v].map(|tangent| tangent.map(Apart::new));
        let [q, k, v] = [&q, &k, &v].map(|operand| E::widen(operand.view(), &mut arena));
        let [q_tangent, k_tangent, v_tangent] =
            tangents.each_ref().map(|tangent| Some(E::widen(tangent.as_ref()?.view(), &mut arena)));
        let rule = jvp::Rule {
            problem,
            operands: tangent_tile::Directed { q, k, v, q_tangent, k_tangent, v_tangent },
            policy: &Policy::new(problem, inputs, pulp::Arch::new()),
            bias_tangent: directions.bias,
            // Rounded to f16 or bf16, O is summed anew.
            output: E::IN_PLACE.then(|| E::widen(saved.output, &mut arena)),
            lse: packed_rows(saved.lse, &mut arena),
        };
        let slots = Slots::new(&mut arena, jvp::scratch::<E>(problem));
        let mut out = Target::<E>::new(saved_tangent.output, &mut arena);
        let mut mu = Target::<E::Acc>::new(saved_tangent.lse, &mut arena);
        rule.run(out.data(), mu.data(), &slots);
        out.finish_with_rest(saved_tangent.rest);
        mu.finish();
        Ok(())
    }

    fn second_order_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedView<'_, Host, E>>,
        Tangent(directions): Tangent<Directions<TensorView<'_, E>>>,
        Tangent(saved_tangent): Tangent<SavedView<'_, Host, E>>,
        Cotangent(g): Cotangent<TensorView<'_, E>>,
        g_tangent: Option<Tangent<Cotangent<TensorView<'_, E>>>>,
        SecondOrder { tangent: Tangent(Cotangent(tangent)), first }: SecondOrder<TensorViewMut<'_, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut arena = workspace.arena();
        let g_tangent = g_tangent.map(|g_tangent| g_tangent.0.0);
        let [q, k, v, g] = [inputs.q, inputs.k, inputs.v, g].map(Apart::new);
        let tangents =
            [directions.q, directions.k, directions.v, g_tangent].map(|tangent| tangent.map(Apart::new));
        let [q, k, v, g] = [&q, &k, &v, &g].map(|operand| E::widen(operand.view(), &mut arena));
        let [q_tangent, k_tangent, v_tangent, g_tangent] =
            tangents.each_ref().map(|tangent| Some(E::widen(tangent.as_ref()?.view(), &mut arena)));
        let directed = tangent_tile::Directed { q, k, v, q_tangent, k_tangent, v_tangent };
        let maker = TileMaker {
            problem,
            operands: Operands { directed, g, g_tangent },
            policy: &Policy::new(problem, inputs, pulp::Arch::new()),
            bias_tangent: directions.bias,
        };
        let slots = Slots::new(&mut arena, tangent_tile::scratch::<E::Acc>(problem));

        let lse = packed_rows(saved.lse, &mut arena);
        let mu = packed_rows(saved_tangent.lse, &mut arena);
        let mut take = || arena.take::<E::Acc>(lse.len());
        let (factor, delta, delta_tangent) = (take(), take(), take());
        let outputs = E::IN_PLACE
            .then(|| [saved.output, saved_tangent.output].map(|output| E::widen(output, &mut arena)));
        row_statistics::fill(&maker, outputs, [lse, mu], [factor, delta, delta_tangent], &slots);
        let statistics = RowStatistics { lse, factor, mu, delta, delta_tangent };
        second_order::run(&maker, statistics, tangent, first.map(|first| first.0), &mut arena, &slots);
        Ok(())
    }
}
