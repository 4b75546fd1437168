//! Learners with somewhere to begin, and numbers of what they find.

use theria_contract::{Element, Storage, Tensor};
use theria_maml::machine::TensorOf;
use theria_maml::meta::{Inner, Learner, Mode};
use theria_maml::{Machine, Result};

/// A parameter, and how it begins.
pub(super) struct Begin<'a> {
    pub(super) name: &'a str,
    pub(super) shape: (usize, usize),
    pub(super) numbers: Vec<f64>,
}

/// A learner and where it begins.
pub(super) struct Workload<M: Machine> {
    pub(super) learner: Learner<M>,
    start: Vec<TensorOf<M>>,
}

impl<M: Machine> Workload<M> {
    /// Of a learner that has these parameters and no others.
    pub(super) fn new(machine: &M, learner: Learner<M>, begin: &[Begin<'_>]) -> Result<Self> {
        let mut start = Vec::with_capacity(begin.len());
        for name in learner.names() {
            let given = begin.iter().find(|begin| begin.name == name);
            let given = given
                .ok_or_else(|| theria_maml::Error::Unpaired { name: name.into(), model: "the start" })?;
            let (rows, columns) = given.shape;
            let numbers = given.numbers.iter().map(|x| M::Element::from_f64(*x)).collect();
            start.push(machine.storage().upload(&Tensor::from_vec(numbers, [1, 1, rows, columns])?)?);
        }
        Ok(Self { learner, start })
    }

    /// Adapts, and computes the gradient of a mode, which is left where learners leave it.
    pub(super) fn run(&mut self, machine: &M, inner: &Inner, mode: Mode) -> Result<()> {
        self.learner.meta_gradient(machine, &self.start.iter().collect::<Vec<_>>(), inner, mode).map(drop)
    }

    /// The same, and its numbers.
    pub(super) fn gradient(&mut self, machine: &M, inner: &Inner, mode: Mode) -> Result<Vec<f64>> {
        self.run(machine, inner, mode)?;
        numbers(machine, self.learner.gradients())
    }
}

/// The numbers of tensors, one after the other, on the host.
pub(super) fn numbers<'a, M: Machine>(
    machine: &M,
    tensors: impl Iterator<Item = &'a TensorOf<M>>,
) -> Result<Vec<f64>>
where
    TensorOf<M>: 'a,
{
    let mut all = Vec::new();
    for tensor in tensors {
        let on_host = machine.storage().download(M::Storage::view(tensor))?;
        all.extend(on_host.data().iter().map(|x| x.to_f64()));
    }
    Ok(all)
}

/// |given - expected| / |expected|; not a number where they are not as many.
pub(super) fn error(given: &[f64], expected: &[f64]) -> f64 {
    if given.len() != expected.len() {
        return f64::NAN;
    }
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut given.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// Whether two lists are the same to the last bit.
pub(super) fn same_bits(left: &[f64], right: &[f64]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a.to_bits() == b.to_bits())
}
