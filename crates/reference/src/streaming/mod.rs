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
//! Scratch, beyond inputs and outputs: one to three tiles a thread, and up to three row statistics.
//! f16 and bf16 operands are widened once, and results that are not packed f32 or f64 are computed in
//! packed scratch first; both are of the size of the operands. `workspace_bytes` does not know the
//! layout of a call's outputs and reserves that scratch for every call; the system gives memory to
//! what is touched. A call allocates a few lists of tasks, nothing of the size of the data.

// Vector code must melt into the function that pulp compiles for an instruction set; otherwise every
// operation is a call that passes registers through memory.
#![allow(clippy::inline_always)]

mod backward;
mod bias;
mod cotangent_tile;
mod exp;
mod forward;
mod operand;
mod policy;
mod row_statistics;
mod slots;
mod softmax;
mod tile;
mod vector;

use theria_contract::{
    Arena, Attention, Checks, Cotangent, Element, Host, Inputs, Primal, Problem, Qkv, Refusal, Result, Rule,
    SavedView, SavedViewMut, Shape, Support, Tensor, TensorView, TensorViewMut, Workspace,
};

pub use operand::Operand;
use operand::Target;
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

/// Elements of a tensor of this shape.
fn count(shape: [usize; 4]) -> usize {
    shape.iter().product()
}

/// Rows that overlap (an axis repeated with stride 0, or interleaved) are copied apart: products
/// want a matrix. Nobody's hot path; everything else is read where it lies.
fn apart<E: Element>(view: TensorView<'_, E>) -> Option<Tensor<E>> {
    let (shape, strides) = (view.shape(), view.layout().strides());
    (shape[2] > 1 && strides[2] < shape[3]).then(|| view.to_tensor())
}

/// The operand where it lies, or its copy.
fn source<'a, E: Element>(view: TensorView<'a, E>, copy: Option<&'a Tensor<E>>) -> TensorView<'a, E> {
    copy.map_or(view, Tensor::view)
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
        .map(|(shape, times)| times * E::widened_bytes(count(shape)))
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
        let target = |shape| Target::<E>::bytes(count(shape));
        let statistic = Workspace::bytes_for::<E::Acc>(count(shape.rows()));
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
        let copies = [apart(inputs.q), apart(inputs.k), apart(inputs.v)];
        let operands = forward::Operands {
            q: E::widen(source(inputs.q, copies[0].as_ref()), &mut arena),
            k: E::widen(source(inputs.k, copies[1].as_ref()), &mut arena),
            v: E::widen(source(inputs.v, copies[2].as_ref()), &mut arena),
        };
        let policy = Policy::new(problem, inputs, pulp::Arch::new())?;
        let slots = Slots::new(&mut arena, forward::scratch::<E::Acc>(problem));
        let mut out = Target::<E>::new(saved.output, &mut arena);
        let mut lse = Target::<E::Acc>::new(saved.lse, &mut arena);
        forward::run(problem, &operands, &policy, out.data(), lse.data(), &slots);
        out.finish();
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
        let shape = problem.shape();
        let mut arena = workspace.arena();
        let copies = [apart(inputs.q), apart(inputs.k), apart(inputs.v), apart(g)];
        let g = E::widen(source(g, copies[3].as_ref()), &mut arena);
        let operands = cotangent_tile::Operands {
            q: E::widen(source(inputs.q, copies[0].as_ref()), &mut arena),
            k: E::widen(source(inputs.k, copies[1].as_ref()), &mut arena),
            v: E::widen(source(inputs.v, copies[2].as_ref()), &mut arena),
            g,
        };
        let arch = pulp::Arch::new();
        let policy = Policy::new(problem, inputs, arch)?;
        let maker = cotangent_tile::TileMaker { problem, operands: &operands, policy: &policy, arch };
        let slots = Slots::new(&mut arena, backward_scratch::<E::Acc>(problem));

        let lse = packed_rows(saved.lse, &mut arena);
        let factor = arena.take::<E::Acc>(lse.len());
        let delta = arena.take::<E::Acc>(lse.len());
        if row_statistics::needs_sweep::<E>(lse) {
            row_statistics::from_tiles(&maker, lse, factor, delta, &slots);
        } else {
            row_statistics::from_output(&shape, g, E::widen(saved.output, &mut arena), factor, delta);
        }
        row_statistics::distrust_blind_rows(&shape, &policy, lse, delta);
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
            bias::run(&maker, statistics, shape, dbias.data(), &slots);
            dbias.finish();
        }
        Ok(())
    }
}

/// A row statistic as one slice.
fn packed_rows<'a, 'w: 'a, A: Vector>(view: TensorView<'a, A>, arena: &mut Arena<'w>) -> &'a [A] {
    let rows = view.layout().len();
    if view.layout().is_packed() {
        return &view.data()[..rows];
    }
    let packed = arena.take::<A>(rows);
    let [batch, heads, t, _] = view.shape();
    for (at, value) in packed.iter_mut().enumerate() {
        *value = view.at([at / (heads * t), at / t % heads, at % t, 0]);
    }
    debug_assert_eq!(rows, batch * heads * t);
    packed
}
