//! Operands that are drawn for a measurement, and results as numbers.

use theria_contract::{Element, Inputs, Problem, Qkv, Result, Storage as _, Tensor, philox4x32_10};

use crate::{Cuda, CudaTensor};

/// Queries, keys and values, and whatever else the problem declares. Nothing is hidden.
#[derive(Debug)]
pub struct Operands<E> {
    primal: Qkv<CudaTensor<E>>,
    mask: Option<CudaTensor<u8>>,
    lengths: Option<CudaTensor<i32>>,
}

impl<E: Element> Operands<E> {
    /// Those of a problem.
    pub fn new(cuda: &Cuda, problem: &Problem) -> Result<Self> {
        let shape = problem.shape();
        let ones = |shape: [usize; 4]| cuda.upload(&Tensor::from_fn(shape, |_| 1_u8)?);
        let lengths = |entries: [usize; 4]| cuda.upload(&Tensor::from_fn(entries, |_| shape.m as i32)?);
        Ok(Self {
            primal: drawn_for_each(cuda, 1, problem)?,
            mask: problem.mask().map(ones).transpose()?,
            lengths: problem.key_lengths().then(|| lengths(shape.key_lengths())).transpose()?,
        })
    }

    /// As rules take them.
    pub fn inputs(&self) -> Inputs<'_, Cuda, E> {
        let Qkv { q, k, v, bias } = self.primal.as_ref().map(Cuda::view);
        Inputs {
            bias,
            mask: self.mask.as_ref().map(Cuda::view),
            key_lengths: self.lengths.as_ref().map(Cuda::view),
            ..Inputs::new(q, k, v)
        }
    }
}

/// A tensor for each operand that a rule differentiates by: the operands themselves, or directions. `tag` and the
/// three numbers after it draw them.
pub fn drawn_for_each<E: Element>(cuda: &Cuda, tag: u32, problem: &Problem) -> Result<Qkv<CudaTensor<E>>> {
    let shape = problem.shape();
    Ok(Qkv {
        q: drawn(cuda, tag, shape.q())?,
        k: drawn(cuda, tag + 1, shape.k())?,
        v: drawn(cuda, tag + 2, shape.v())?,
        bias: problem.bias().map(|shape| drawn(cuda, tag + 3, shape)).transpose()?,
    })
}

/// A tensor of nearly normal numbers; each `tag` draws others.
pub fn drawn<E: Element>(cuda: &Cuda, tag: u32, shape: [usize; 4]) -> Result<CudaTensor<E>> {
    let element = |[b, h, i, c]: [usize; 4]| {
        let words = philox4x32_10([c as u32, i as u32, h as u32, b as u32], [tag, 0]);
        let sum: f64 = words.into_iter().map(|word| f64::from(word) / 4_294_967_296.0 - 0.5).sum();
        E::from_f64(sum * 1.75)
    };
    cuda.upload(&Tensor::from_fn(shape, element)?)
}

/// The elements of a tensor in f32, which holds every type that tensor cores multiply.
pub fn numbers<E: Element>(cuda: &Cuda, tensor: &CudaTensor<E>) -> Result<Vec<f32>> {
    let tensor = cuda.download(Cuda::view(tensor))?;
    Ok(tensor.data().iter().map(|x| x.to_f64() as f32).collect())
}
