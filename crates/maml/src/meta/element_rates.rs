//! A rate for each element of the parameters that are adapted, with its gradient.
//!
//! The step of an optimiser goes from nowhere, so that it says how far; then each element goes its own part of it:
//!
//! ```text
//! d = step(0, g)     θ⁺ = θ + a ∘ d     γ = the step's pull-back of a ∘ λ     ∂F/∂a = Σ_k λ_{k+1} ∘ d_k
//! ```
//!
//! No formula of an optimiser is written twice for it. The rate of the parameter is in d: where it is 1, a are the rates, as
//! Meta-SGD has them (Li, Zhou, Chen and Li, "Meta-SGD: Learning to learn quickly for few-shot learning", 2017).

use theria_gpu_fwd::Source;

use super::optimiser::Step;
use crate::Result;
use crate::machine::{Machine, TensorOf, Update, kernel_source};
use crate::number::Number;

/// Factors of the rate of every element of every adapted parameter.
pub(super) struct ElementRates<M: Machine> {
    /// What they are called, among the parameters.
    pub(super) names: Vec<String>,
    /// a.
    pub(super) factors: Vec<TensorOf<M>>,
    /// ∂F/∂a.
    pub(super) gradients: Vec<TensorOf<M>>,
    /// Room for what is multiplied by a.
    room: Vec<TensorOf<M>>,
}

impl<M: Machine> ElementRates<M> {
    /// Of parameters with these names; the tensors are as large as they are, and zero.
    pub(super) fn new(
        names: impl Iterator<Item = String>,
        mut tensors: impl FnMut() -> Result<Vec<TensorOf<M>>>,
    ) -> Result<Self> {
        Ok(Self { names: names.collect(), factors: tensors()?, gradients: tensors()?, room: tensors()? })
    }

    /// A step of the nth parameter, whose memories follow θ.
    pub(super) fn step(
        &mut self,
        machine: &M,
        n: usize,
        step: Step,
        state: Vec<&mut TensorOf<M>>,
        gradient: &TensorOf<M>,
    ) -> Result<()> {
        let way = &mut self.room[n];
        machine.fill(way, 0.0)?;
        let mut state = state.into_iter();
        let Some(theta) = state.next() else { unreachable!("a step has a parameter") };
        machine.update(
            step,
            &mut std::iter::once(&mut *way).chain(state).collect::<Vec<_>>(),
            &[gradient],
        )?;
        machine.update(PlusProduct, &mut [theta], &[&self.factors[n], way])
    }

    /// a ∘ λ.
    pub(super) fn scaled(&mut self, machine: &M, lambda: &[TensorOf<M>]) -> Result<&Vec<TensorOf<M>>> {
        for ((room, factor), lambda) in self.room.iter_mut().zip(&self.factors).zip(lambda) {
            machine.fill(room, 0.0)?;
            machine.update(PlusProduct, &mut [room], &[factor, lambda])?;
        }
        Ok(&self.room)
    }
}

/// `state += a ∘ b`.
#[derive(Clone, Copy, Debug)]
struct PlusProduct;

impl Update for PlusProduct {
    fn update<N: Number>(&self, state: &mut [&mut [N]], read: &[&[N]]) {
        for ((to, a), b) in state[0].iter_mut().zip(read[0]).zip(read[1]) {
            *to += *a * *b;
        }
    }

    fn operands(&self) -> (usize, usize) {
        (1, 2)
    }

    fn cuda(&self) -> Source {
        kernel_source!("plus_product.cu")
    }

    fn constants(&self) -> [f64; 8] {
        [0.0; 8]
    }
}

/// The text of its change.
pub(super) fn sources() -> Vec<Source> {
    vec![PlusProduct.cuda()]
}
