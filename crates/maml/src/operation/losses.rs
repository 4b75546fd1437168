//! Losses: one number for all rows.

use theria_gpu_fwd::Source;

use super::source_of;
use crate::graph::{Graph, ValueId};
use crate::machine::{Columns, Follow, Machine, Rowwise, kernel_source};
use crate::number::{Number, index, sum};
use crate::{Error, Result};

/// `weight · Σ (y - target)²`.
#[derive(Clone, Copy, Debug)]
struct SquaredError {
    weight: f64,
}

impl Rowwise for SquaredError {
    const NAME: &'static str = "squared error";
    const ELEMENTWISE: bool = true;
    const CUDA: Source = kernel_source!("squared_error.cu");

    fn constants(&self) -> [f64; 2] {
        [self.weight, 0.0]
    }

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        let (a, target) = (x[0], &x[1][..x[0].len()]);
        let squares = sum(a.len(), |n| (a[n] - target[n]) * (a[n] - target[n]));
        y[0] += N::constant(self.weight) * squares;
    }

    fn pull<N: Number>(&self, x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        let slope = N::constant(2.0 * self.weight) * g[0];
        for (into, slope) in into.iter_mut().zip([slope, -slope]) {
            let Some(into) = into else { continue };
            for ((to, a), target) in into.iter_mut().zip(x[0]).zip(x[1]) {
                *to += slope * (*a - *target);
            }
        }
    }
}

/// `weight · Σ (logsumexp(logits) - logits[class])`, the class being a number.
#[derive(Clone, Copy, Debug)]
struct CrossEntropy {
    weight: f64,
}

impl CrossEntropy {
    /// exp(logits - m) and their sum, m being the largest.
    fn exponentials<N: Number>(logits: &[N]) -> (f64, Vec<N>, N) {
        let largest = logits.iter().map(|x| x.value()).fold(f64::NEG_INFINITY, f64::max);
        let all: Vec<N> = logits.iter().map(|x| (*x - N::constant(largest)).exp()).collect();
        let total = sum(all.len(), |n| all[n]);
        (largest, all, total)
    }

    /// The class of a row; none if the number names none, and the loss is NaN.
    fn class<N: Number>(x: &[&[N]]) -> Option<usize> {
        index(x[1][0].value(), x[0].len())
    }
}

impl Rowwise for CrossEntropy {
    const NAME: &'static str = "cross-entropy";
    const CUDA: Source = kernel_source!("cross_entropy.cu");

    fn constants(&self) -> [f64; 2] {
        [self.weight, 0.0]
    }

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        let (largest, _, sum) = Self::exponentials(x[0]);
        let hit = Self::class(x).map_or(N::constant(f64::NAN), |class| x[0][class]);
        y[0] += N::constant(self.weight) * (sum.ln() + N::constant(largest) - hit);
    }

    fn pull<N: Number>(&self, x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        let (_, all, sum) = Self::exponentials(x[0]);
        let class = Self::class(x);
        if let Some(into) = &mut into[0] {
            for (n, to) in into.iter_mut().enumerate() {
                let hit = N::constant(if Some(n) == class { 1.0 } else { 0.0 });
                *to += N::constant(self.weight) * g[0] * (all[n] / sum - hit);
            }
        }
    }
}

/// The texts of these functions.
pub(super) const SOURCES: &[(Source, Columns)] = &[source_of::<SquaredError>(), source_of::<CrossEntropy>()];

impl<M: Machine> Graph<M> {
    /// `weight · Σ (y - target)²` over all elements.
    pub fn squared_error(&mut self, y: ValueId, target: ValueId, weight: f64) -> Result<ValueId> {
        let (left, right) = (self.shape(y), self.shape(target));
        if left != right {
            return Err(Error::Shapes { operation: "squared error", left, right, needed: "one shape" });
        }
        let inputs = [(y, Follow::OWN), (target, Follow::OWN)];
        Ok(self.mapped(SquaredError { weight }, false, &inputs, (1, Follow::Shared(left.0.max(1)))))
    }

    /// `weight · Σ` of the cross-entropies of rows of logits and classes: numbers from 0, one for each row.
    pub fn cross_entropy(&mut self, logits: ValueId, classes: ValueId, weight: f64) -> Result<ValueId> {
        let (left, right) = (self.shape(logits), self.shape(classes));
        if right != (left.0, 1) {
            let needed = "one class for each row";
            return Err(Error::Shapes { operation: "cross-entropy", left, right, needed });
        }
        // A class has to be that very number.
        self.widen(&[classes]);
        let inputs = [(logits, Follow::OWN), (classes, Follow::OWN)];
        Ok(self.mapped(CrossEntropy { weight }, false, &inputs, (1, Follow::Shared(left.0.max(1)))))
    }
}
