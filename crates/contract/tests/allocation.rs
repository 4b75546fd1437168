//! The door allocates nothing: a hot loop that calls the `_into` rules pays for its kernels alone.
//! Counted over all threads, so this file holds a single test.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use theria_contract::{
    Attention, Checks, Cotangent, DType, Directions, Host, Inputs, Primal, Problem, Qkv, Result, Rule,
    SavedTensor, SavedView, SavedViewMut, SecondOrder, Support, Tangent, Tensor, TensorView, TensorViewMut,
    Workspace, saved_mut, saved_view,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A backend whose kernels do nothing, so that what a call allocates the door allocated.
struct Idle(Checks);

impl Attention<f32> for Idle {
    type Storage = Host;

    fn name(&self) -> &'static str {
        "idle"
    }
    fn storage(&self) -> &Host {
        &Host
    }
    fn checks(&self) -> Checks {
        self.0
    }
    fn support(&self, _problem: &Problem, _rule: Rule) -> Support {
        Support::Exact
    }
    fn workspace_bytes(&self, _problem: &Problem, _rule: Rule) -> usize {
        64
    }
    fn forward_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Host, f32>>,
        _saved: Primal<SavedViewMut<'_, Host, f32>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        Ok(())
    }
    fn backward_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Host, f32>>,
        _saved: Primal<SavedView<'_, Host, f32>>,
        _cotangent: Cotangent<TensorView<'_, f32>>,
        _gradients: Cotangent<Qkv<TensorViewMut<'_, f32>>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        Ok(())
    }
    fn jvp_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Host, f32>>,
        _saved: Primal<SavedView<'_, Host, f32>>,
        _directions: Tangent<Directions<TensorView<'_, f32>>>,
        _saved_tangent: Tangent<SavedViewMut<'_, Host, f32>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        Ok(())
    }
    fn second_order_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Host, f32>>,
        _saved: Primal<SavedView<'_, Host, f32>>,
        _directions: Tangent<Directions<TensorView<'_, f32>>>,
        _saved_tangent: Tangent<SavedView<'_, Host, f32>>,
        _cotangent: Cotangent<TensorView<'_, f32>>,
        _cotangent_tangent: Option<Tangent<Cotangent<TensorView<'_, f32>>>>,
        _outputs: SecondOrder<TensorViewMut<'_, f32>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        Ok(())
    }
}

/// Every tensor of a call, for a problem that has every optional one.
struct Memory {
    problem: Problem,
    primal: Qkv<Tensor<f32>>,
    mask: Tensor<u8>,
    lengths: Tensor<i32>,
    g: Tensor<f32>,
    saved: SavedTensor<Host, f32>,
    saved_tangent: SavedTensor<Host, f32>,
    tangent: Qkv<Tensor<f32>>,
    first: Qkv<Tensor<f32>>,
    workspace: Workspace,
}

impl Memory {
    fn new(attention: &Idle) -> Self {
        let builder = Problem::builder(DType::F32).batch(2).heads(2, 1).lengths(3, 4).head_dims(5, 6);
        let problem = builder.bias([1, 2, 3, 4]).mask([1, 1, 1, 4]).key_lengths().build().unwrap();
        let gradients = || attention.allocate_gradients(&problem).unwrap();
        let saved = || attention.allocate_saved(&problem).unwrap();
        Self {
            primal: gradients(),
            mask: Tensor::zeros([1, 1, 1, 4]).unwrap(),
            lengths: Tensor::from_vec(vec![4, 2], [1, 1, 1, 2]).unwrap(),
            g: Tensor::zeros(problem.shape().output()).unwrap(),
            saved: saved(),
            saved_tangent: saved(),
            tangent: gradients(),
            first: gradients(),
            workspace: Workspace::new(64),
            problem,
        }
    }

    /// Calls all four rules.
    fn call(&mut self, attention: &Idle) -> Result<()> {
        let Self { problem, primal, mask, lengths, g, saved, saved_tangent, tangent, first, workspace } =
            self;
        let inputs = Inputs::<Host, f32> {
            q: primal.q.view(),
            k: primal.k.view(),
            v: primal.v.view(),
            bias: primal.bias.as_ref().map(Tensor::view),
            mask: Some(mask.view()),
            key_lengths: Some(lengths.view()),
        };
        let inputs = Primal(&inputs);
        let directions = Tangent(Directions::from(primal.as_ref().map(Tensor::view)));
        attention.forward_into(problem, inputs, Primal(saved_mut::<Host, f32>(saved)), workspace)?;
        let saved = Primal(saved_view::<Host, f32>(saved));
        let lent = Cotangent(first.as_mut().map(Tensor::view_mut));
        attention.backward_into(problem, inputs, saved, Cotangent(g.view()), lent, workspace)?;
        let lent = Tangent(saved_mut::<Host, f32>(saved_tangent));
        attention.jvp_into(problem, inputs, saved, directions, lent, workspace)?;
        let lent = SecondOrder {
            tangent: Tangent(Cotangent(tangent.as_mut().map(Tensor::view_mut))),
            first: Some(Cotangent(first.as_mut().map(Tensor::view_mut))),
        };
        attention.second_order_into(
            problem,
            inputs,
            saved,
            directions,
            Tangent(saved_view::<Host, f32>(saved_tangent)),
            Cotangent(g.view()),
            Some(Tangent(Cotangent(g.view()))),
            lent,
            workspace,
        )
    }
}

/// Allocations of some work.
fn count(work: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn no_rule_allocates_before_or_after_its_kernel() {
    for checks in [Checks::None, Checks::Finite] {
        let attention = Idle(checks);
        let mut memory = Memory::new(&attention);
        let mut outcome = Ok(());
        let allocated = count(|| outcome = memory.call(&attention));
        outcome.unwrap();
        assert_eq!(allocated, 0, "with {checks:?}");
        // The control: a rule that owns its results makes O and lse.
        assert_eq!(count(|| drop(attention.allocate_saved(&memory.problem))), 2);
    }
}
