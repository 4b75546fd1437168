//! Machines of models on a device, what they are called in rows, and how far they may be off.

use std::sync::OnceLock;

use theria_contract::{Checks, Element, Storage, Tensor};
use theria_gpu_bwd::{CudaFused, CudaRef};
use theria_gpu_fwd::Cuda;
use theria_gpu_fwd::forward::Table;
use theria_maml::machine::{Attended, Precision, TensorOf};
use theria_maml::tasks::Stream;
use theria_maml::{Gpu, Machine, Result};

use theria_tests::evidence::Row;

/// The device of the first test for all of them: threads that share one wait while one of them records, and those of
/// another would not.
fn shared(cuda: &Cuda) -> Cuda {
    static SHARED: OnceLock<Cuda> = OnceLock::new();
    SHARED.get_or_init(|| cuda.clone()).clone()
}

/// With the shipped choices: evidence speaks for what is shipped.
pub fn fused(cuda: &Cuda) -> CudaFused {
    CudaFused::new(shared(cuda)).with_table(Table::default()).with_sweeps(Table::default())
}

/// `cuda-ref` in f64.
pub fn in_f64(cuda: &Cuda) -> Result<Gpu<CudaRef, f64>> {
    Gpu::new(CudaRef::new(shared(cuda)))
}

/// `cuda-ref` in f64, which looks at every value.
pub fn checked_in_f64(cuda: &Cuda) -> Result<Gpu<CudaRef, f64>> {
    Gpu::new(CudaRef::new(shared(cuda)).with_checks(Checks::Finite))
}

/// `cuda-ref` in f32.
pub fn in_f32(cuda: &Cuda) -> Result<Gpu<CudaRef, f32>> {
    Gpu::new(CudaRef::new(shared(cuda)))
}

/// `cuda-fused` in f32, every product in three of TF32.
pub fn fused_in_f32(cuda: &Cuda) -> Result<Gpu<CudaFused, f32>> {
    Gpu::new(fused(cuda))
}

/// `cuda-fused` in 16 bits, with factors of other products rounded to this.
pub fn rounded<E: Attended<f32>>(cuda: &Cuda, precision: Precision) -> Result<Gpu<CudaFused, f32, E>>
where
    CudaFused: theria_contract::Attention<E, Storage = Cuda>,
{
    Ok(Gpu::new(fused(cuda))?.with_products(precision))
}

/// A machine in rows of evidence, and how far it may be off.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its backend of attention.
    pub backend: &'static str,
    /// What attention computes in, and products where they round.
    pub dtype: &'static str,
    /// Of an operation, relative to the norm of what is right.
    pub bound: f64,
}

impl Named {
    /// In f64 nothing is far from the last digits but sums of thousands of numbers.
    pub const F64: Self = Self { backend: "cuda-ref", dtype: "f64", bound: 1e-12 };
    /// The last digit of f32 is 6e-8. Sums of a thousand numbers of one size lose another ten of them, and what a
    /// derivative is made of cancels in part: together some hundred.
    pub const F32: Self = Self { backend: "cuda-ref", dtype: "f32", bound: 2e-5 };
    /// The same: a product split in three is as good as one of f32.
    pub const FUSED: Self = Self { backend: "cuda-fused", ..Self::F32 };
    /// bf16 has eight binary digits, 4e-3; five roundings follow each other, from the projections to the tangents.
    pub const BF16: Self = Self { backend: "cuda-fused", dtype: "bf16", bound: 3e-2 };
    /// The same bound, which is that of the products' bf16.
    pub const F16: Self = Self { dtype: "f16", ..Self::BF16 };

    /// With factors of products rounded.
    #[must_use]
    pub fn with(self, dtype: &'static str) -> Self {
        Self { dtype, ..self }
    }

    /// A row of measured error, held against a bound.
    pub fn measured(&self, name: impl Into<String>, rule: &str, error: f64, bound: f64) -> Row {
        Row::measured(name, rule, self.backend, self.dtype, error, bound)
    }

    /// A row of a statement.
    pub fn statement(&self, name: impl Into<String>, holds: bool, found: impl Into<String>) -> Row {
        Row::statement(name, "meta-gradient", self.backend, self.dtype, holds, found)
    }

    /// What was found; or the row of an error.
    pub fn rows(&self, name: &str, found: Result<Vec<Row>>) -> Vec<Row> {
        found.unwrap_or_else(|error| {
            let reason = format!("returned: {error}");
            vec![Row::failed(name, "meta-gradient", self.backend, self.dtype, reason)]
        })
    }
}

/// Normal numbers around an offset, the same for every machine: sums of them do not cancel where it is not 0.
pub fn normal(tag: u32, count: usize, size: f64, offset: f64) -> Vec<f64> {
    let mut stream = Stream::new(10, 0, tag);
    (0..count).map(|_| offset + size * stream.normal()).collect()
}

/// Numbers of a machine.
pub fn of<E: Element>(numbers: &[f64]) -> Vec<E> {
    numbers.iter().map(|x| E::from_f64(*x)).collect()
}

/// A matrix in the memory of a machine.
pub fn upload<M: Machine>(
    machine: &M,
    numbers: &[f64],
    (rows, columns): (usize, usize),
) -> Result<TensorOf<M>> {
    let tensor: Tensor<M::Element> = Tensor::from_vec(of(numbers), [1, 1, rows, columns])?;
    Ok(machine.storage().upload(&tensor)?)
}

/// A tensor's numbers, row by row.
pub fn download<M: Machine>(machine: &M, tensor: &TensorOf<M>) -> Result<Vec<f64>> {
    let tensor = machine.storage().download(M::Storage::view(tensor))?;
    Ok(tensor.data().iter().map(|x| x.to_f64()).collect())
}

/// The norm of a difference, as a part of that of what is expected. Where that is zero, what is given has to be.
pub fn off(given: &[f64], expected: &[f64]) -> f64 {
    if given.len() != expected.len() {
        return f64::NAN;
    }
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut given.iter().zip(expected).map(|(a, b)| a - b));
    let whole = norm(&mut expected.iter().copied());
    if whole == 0.0 { difference } else { difference / whole }
}

/// The largest; NaN if there is one.
pub fn worst(all: impl Iterator<Item = f64>) -> f64 {
    all.fold(0.0, |worst: f64, x| if worst.is_nan() || x <= worst { worst } else { x })
}

/// Whether two lists of numbers are the same, bit by bit; NaN is none.
pub fn same_bits(a: &[f64], b: &[f64]) -> bool {
    let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() && a.is_finite();
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// The host in f64, which judges.
pub type Oracle = theria_maml::Host<theria_jvp_hvp::Streaming, f64>;

/// It.
pub fn oracle() -> Oracle {
    Oracle::new(theria_jvp_hvp::Streaming::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_bits_see_what_is_off() {
        assert!(off(&[3.0, 4.0], &[3.0, 4.0]) == 0.0 && off(&[3.0, 4.5], &[3.0, 4.0]) == 0.1);
        assert!(off(&[0.5], &[0.0]) == 0.5 && off(&[f64::NAN], &[1.0]).is_nan() && off(&[], &[1.0]).is_nan());
        assert!(worst([0.1, 0.3, 0.2].into_iter()) == 0.3);
        assert!(worst([0.1, f64::NAN, 0.2].into_iter()).is_nan());
        assert!(
            same_bits(&[0.5], &[0.5]) && !same_bits(&[0.0], &[-0.0]) && !same_bits(&[f64::NAN], &[f64::NAN])
        );
        assert!(!same_bits(&[0.5], &[0.5, 0.5]));
    }
}
