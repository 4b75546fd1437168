//! Random operands, drawn fast: a large tensor in pieces, on every thread.

use std::f64::consts::TAU;

use rayon::prelude::*;
use theria_contract::{Element, Tensor};
use theria_jvp_hvp::proof::Samples;

/// Elements that one stream of the generator makes.
const PIECE: usize = 1 << 16;
/// Streams of one tensor; no tensor has more pieces.
const STREAMS: u32 = 1 << 20;

/// A tensor of normal numbers of unit variance. The number of the tensor says which.
pub(super) fn normal<E: Element>(
    seed: u64,
    number: u32,
    shape: [usize; 4],
) -> theria_contract::Result<Tensor<E>> {
    let mut data = vec![E::default(); shape.iter().product()];
    data.par_chunks_mut(PIECE).enumerate().for_each(|(piece, chunk)| {
        let stream = number.wrapping_mul(STREAMS).wrapping_add(piece as u32);
        let mut samples = Samples::new(seed, stream);
        // Box and Muller: a pair of normal numbers from a pair of uniform ones.
        let mut uniform = || 0.5 + samples.centred() / 12_f64.sqrt();
        for pair in chunk.chunks_mut(2) {
            let radius = (-2.0 * (1.0 - uniform()).max(f64::MIN_POSITIVE).ln()).sqrt();
            let (sin, cos) = (TAU * uniform()).sin_cos();
            for (x, direction) in pair.iter_mut().zip([cos, sin]) {
                *x = E::from_f64(radius * direction);
            }
        }
    });
    Tensor::from_vec(data, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal_and_a_tensor_has_its_own_again_for_any_number_of_threads() {
        let draw = |seed, number| normal::<f64>(seed, number, [1, 1, 1000, 200]).unwrap();
        let tensor = draw(1, 0);
        let moment = |power: i32| tensor.data().iter().map(|x| x.powi(power)).sum::<f64>() / 200_000.0;
        let (mean, variance, fourth) = (moment(1), moment(2), moment(4));
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02 && (fourth - 3.0).abs() < 0.1);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| draw(1, 0)), tensor);
        assert_ne!(draw(2, 0), tensor);
        assert_ne!(draw(1, 1), tensor);
    }
}
