//! The default backend: tiles with an online softmax, memory linear in the length.
//!
//! The scores are never stored: a tile of them lives in the cache of a core, between the product that
//! makes it and the products that use it. Products are faer's, element-wise passes are written once
//! over pulp's vectors, both chosen for the machine at run time; tasks go to rayon's current pool.
//!
//! Deterministic: the partition into tasks and the order of every sum depend on the problem alone, so
//! the bits are the same for any number of threads (on machines with the same instruction set, and for
//! operands laid out alike: a product of one column may sum in another order through other strides).
//!
//! The public modules are the parts that sweeps over tiles are made of; the crate of the JVP and the
//! second order makes its sweeps of the same parts.
//!
//! Scratch, beyond inputs and outputs: one to three tiles a thread, and up to three row statistics.
//! f16 and bf16 operands are widened once, and results that are not packed f32 or f64 are computed in
//! packed scratch first; both are of the size of the operands. `workspace_bytes` does not know the
//! layout of a call's outputs and reserves that scratch for every call; the system gives memory to
//! what is touched. After the first call on its threads, an `_into` call allocates nothing; the one
//! exceptions are operands whose rows overlap, which are copied apart, and pools of more than 128
//! threads, whose list of scratch is one.

// Vector code must melt into the function that pulp compiles for an instruction set; otherwise every
// operation is a call that passes registers through memory.
#![allow(clippy::inline_always)]

mod backward;
pub mod bias;
mod cotangent_tile;
mod exp;
mod forward;
pub mod operand;
pub mod passes;
pub mod policy;
pub mod row_statistics;
pub mod slots;
mod softmax;
pub mod tile;
mod vector;
pub mod waves;

use theria_contract::{
    Attention, Checks, Cotangent, Host, Inputs, Primal, Problem, Qkv, Refusal, Result, Rule, SavedView,
    SavedViewMut, Shape, Support, TensorView, TensorViewMut, Workspace,
};

pub use operand::Operand;
use operand::{Apart, Target};
use policy::Policy;
use slots::Slots;
pub use vector::Vector;

/// Attention by tiles, on all threads of the current rayon pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streaming {
    checks: Checks,
}

impl Streaming {
    /// A backend that takes values as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with checks on values.
    #[must_use]
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }
}

/// Elements of scratch that a thread of the backward rule needs.
fn backward_scratch<A: Vector>(problem: &Problem) -> usize {
    cotangent_tile::tile_scratch::<A>(problem) + row_statistics::scratch::<A>(&problem.shape())
}

fn widened_bytes<E: Operand>(shape: &Shape, rule: Rule) -> usize {
    // G. The saved output is not widened: where it would be, it is not exact enough to be used.
    let outputs = usize::from(rule == Rule::Backward);
    [(shape.q(), 1), (shape.k(), 1), (shape.v(), 1), (shape.output(), outputs)]
        .into_iter()
        .map(|(shape, times)| times * E::widened_bytes(shape))
        .sum()
}

impl<E> Attention<E> for Streaming
where
    E: Operand,
    E::Acc: Operand,
{
    type Storage = Host;

    fn name(&self) -> &'static str {
        "streaming"
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn checks(&self) -> Checks {
        self.checks
    }

    fn support(&self, _problem: &Problem, rule: Rule) -> Support {
        match rule {
            Rule::Forward | Rule::Backward => Support::Exact,
            Rule::Jvp | Rule::SecondOrder => Support::Refused(Refusal::RuleNotImplemented(rule)),
        }
    }

    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        let shape = problem.shape();
        let target = Target::<E>::bytes;
        let statistic = Target::<E::Acc>::bytes(shape.rows());
        let widened = widened_bytes::<E>(&shape, rule);
        match rule {
            Rule::Forward => {
                let threads = Slots::<E::Acc>::bytes(forward::scratch::<E::Acc>(problem));
                widened + threads + target(shape.output()) + statistic
            }
            Rule::Backward => {
                let threads = Slots::<E::Acc>::bytes(backward_scratch::<E::Acc>(problem));
                let gradients = target(shape.q()) + target(shape.k()) + target(shape.v());
                widened + threads + gradients + problem.bias().map_or(0, target) + 3 * statistic
            }
            Rule::Jvp | Rule::SecondOrder => 0,
        }
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedViewMut<'_, Host, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut arena = workspace.arena();
        let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(Apart::new);
        let operands = forward::Operands {
            q: E::widen(q.view(), &mut arena),
            k: E::widen(k.view(), &mut arena),
            v: E::widen(v.view(), &mut arena),
        };
        let policy = Policy::new(problem, inputs, pulp::Arch::new());
        let slots = Slots::new(&mut arena, forward::scratch::<E::Acc>(problem));
        let mut out = Target::<E>::new(saved.output, &mut arena);
        let mut lse = Target::<E::Acc>::new(saved.lse, &mut arena);
        forward::run(problem, &operands, &policy, out.data(), lse.data(), &slots);
        out.finish_with_rest(saved.rest);
        lse.finish();
        Ok(())
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedView<'_, Host, E>>,
        Cotangent(g): Cotangent<TensorView<'_, E>>,
        Cotangent(gradients): Cotangent<Qkv<TensorViewMut<'_, E>>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut arena = workspace.arena();
        let [q, k, v, g] = [inputs.q, inputs.k, inputs.v, g].map(Apart::new);
        let g = E::widen(g.view(), &mut arena);
        let operands = cotangent_tile::Operands {
            q: E::widen(q.view(), &mut arena),
            k: E::widen(k.view(), &mut arena),
            v: E::widen(v.view(), &mut arena),
            g,
        };
        let arch = pulp::Arch::new();
        let policy = Policy::new(problem, inputs, arch);
        let maker = cotangent_tile::TileMaker { problem, operands: &operands, policy: &policy, arch };
        let slots = Slots::new(&mut arena, backward_scratch::<E::Acc>(problem));

        let lse = operand::packed_rows(saved.lse, &mut arena);
        let factor = arena.take::<E::Acc>(lse.len());
        let delta = arena.take::<E::Acc>(lse.len());
        let output = E::IN_PLACE.then(|| E::widen(saved.output, &mut arena));
        row_statistics::fill(&maker, output, lse, factor, delta, &slots);
        let statistics = softmax::RowStatistics { lse, factor, delta };

        let mut dq = Target::<E>::new(gradients.q, &mut arena);
        let mut dk = Target::<E>::new(gradients.k, &mut arena);
        let mut dv = Target::<E>::new(gradients.v, &mut arena);
        backward::run(&maker, statistics, dq.data(), dk.data(), dv.data(), &slots);
        for gradient in [dq, dk, dv] {
            gradient.finish();
        }
        if let (Some(dbias), Some(shape)) = (gradients.bias, problem.bias()) {
            let mut dbias = Target::<E>::new(dbias, &mut arena);
            let tiles = cotangent_tile::BackwardTiles { maker: &maker, statistics };
            bias::run(&tiles, shape, dbias.data(), &slots);
            dbias.finish();
        }
        Ok(())
    }
}
