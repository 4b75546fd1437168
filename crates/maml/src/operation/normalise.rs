//! Layer normalisation.
//!
//! ```text
//! x̂ = (x - mean x) / σ      σ² = mean (x - mean x)² + ε      y = gain ∘ x̂ + shift
//! x̄ = (u - mean u - x̂ mean(u ∘ x̂)) / σ, where u = gain ∘ ḡ
//! ```

use theria_gpu_fwd::Source;

use super::source_of;
use crate::graph::{Graph, ValueId};
use crate::machine::{Columns, Follow, Machine, Rowwise, kernel_source};
use crate::number::{Number, sum};
use crate::{Error, Result};

#[derive(Clone, Copy, Debug)]
struct Normalise {
    epsilon: f64,
}

impl Normalise {
    /// x̂, and 1/σ.
    fn unit<N: Number>(self, x: &[N]) -> (Vec<N>, N) {
        let count = N::constant(x.len() as f64);
        let mean = sum(x.len(), |n| x[n]) / count;
        let variance = sum(x.len(), |n| (x[n] - mean) * (x[n] - mean)) / count;
        let inverse = N::constant(1.0) / (variance + N::constant(self.epsilon)).sqrt();
        (x.iter().map(|x| (*x - mean) * inverse).collect(), inverse)
    }
}

impl Rowwise for Normalise {
    const NAME: &'static str = "layer normalisation";
    const COLUMNS: Columns = Columns::Alike;
    const CUDA: Source = kernel_source!("normalise.cu");

    fn constants(&self) -> [f64; 2] {
        [self.epsilon, 0.0]
    }

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        let (unit, _) = self.unit(x[0]);
        for (n, y) in y.iter_mut().enumerate() {
            *y += x[1][n] * unit[n] + x[2][n];
        }
    }

    fn pull<N: Number>(&self, x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        let (unit, inverse) = self.unit(x[0]);
        if let Some(into) = &mut into[0] {
            let count = N::constant(g.len() as f64);
            let u: Vec<N> = g.iter().zip(x[1]).map(|(g, gain)| *g * *gain).collect();
            let mean = sum(u.len(), |n| u[n]) / count;
            let along = sum(u.len(), |n| u[n] * unit[n]) / count;
            for (n, to) in into.iter_mut().enumerate() {
                *to += (u[n] - mean - unit[n] * along) * inverse;
            }
        }
        if let Some(into) = &mut into[1] {
            for (n, to) in into.iter_mut().enumerate() {
                *to += g[n] * unit[n];
            }
        }
        if let Some(into) = &mut into[2] {
            for (to, g) in into.iter_mut().zip(g) {
                *to += *g;
            }
        }
    }
}

/// The texts of these functions.
pub(super) const SOURCES: &[(Source, Columns)] = &[source_of::<Normalise>()];

impl<M: Machine> Graph<M> {
    /// Rows of mean 0 and variance 1, times a gain, plus a shift, which are a row each.
    pub fn normalise(&mut self, x: ValueId, gain: ValueId, shift: ValueId, epsilon: f64) -> Result<ValueId> {
        let (rows, columns) = self.shape(x);
        for right in [self.shape(gain), self.shape(shift)] {
            if right != (1, columns) {
                let needed = "a row of gains and one of shifts, as wide";
                let operation = "layer normalisation";
                return Err(Error::Shapes { operation, left: (rows, columns), right, needed });
            }
        }
        let shared = Follow::Shared(rows);
        let inputs = [(x, Follow::OWN), (gain, shared), (shift, shared)];
        Ok(self.mapped(Normalise { epsilon }, false, &inputs, (columns, Follow::OWN)))
    }
}
