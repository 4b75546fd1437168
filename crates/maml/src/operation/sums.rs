//! Sums of rows: residuals, biases, positions, means over sequences.

use theria_gpu_fwd::Source;

use super::source_of;
use crate::graph::{Graph, ValueId};
use crate::machine::{Columns, Follow, Machine, Rowwise, kernel_source};
use crate::number::Number;
use crate::{Error, Result};

/// `a + b`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum;

impl Rowwise for Sum {
    const NAME: &'static str = "sum";
    const ELEMENTWISE: bool = true;
    const COLUMNS: Columns = Columns::Apart;
    const CUDA: Source = kernel_source!("sum.cu");

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        for ((y, a), b) in y.iter_mut().zip(x[0]).zip(x[1]) {
            *y += *a + *b;
        }
    }

    fn pull<N: Number>(&self, _x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        for into in into.iter_mut().flatten() {
            for (to, g) in into.iter_mut().zip(g) {
                *to += *g;
            }
        }
    }
}

/// `weight · a`.
#[derive(Clone, Copy, Debug)]
struct Weighted {
    weight: f64,
}

impl Rowwise for Weighted {
    const NAME: &'static str = "mean";
    const COLUMNS: Columns = Columns::Apart;
    const CUDA: Source = kernel_source!("weighted.cu");

    fn constants(&self) -> [f64; 2] {
        [self.weight, 0.0]
    }

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        for (y, a) in y.iter_mut().zip(x[0]) {
            *y += N::constant(self.weight) * *a;
        }
    }

    fn pull<N: Number>(&self, _x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        for (to, g) in into[0].iter_mut().flat_map(|into| into.iter_mut()).zip(g) {
            *to += N::constant(self.weight) * *g;
        }
    }
}

/// The texts of these functions.
pub(super) const SOURCES: &[(Source, Columns)] = &[source_of::<Sum>(), source_of::<Weighted>()];

impl<M: Machine> Graph<M> {
    /// `a + b`, of two matrices of one shape; of a matrix and one row, which is added to every row; or of a matrix and
    /// fewer rows that take turns, as positions in sequences do.
    pub fn sum(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        let (left, right) = (self.shape(a), self.shape(b));
        if left.1 != right.1 || right.0 == 0 || !left.0.is_multiple_of(right.0) {
            let needed = "as many columns, and rows that are a multiple of the second's";
            return Err(Error::Shapes { operation: "sum", left, right, needed });
        }
        let follow = match right.0 {
            rows if rows == left.0 => Follow::OWN,
            1 => Follow::Shared(left.0),
            rows => Follow::Cyclic(rows),
        };
        Ok(self.mapped(Sum, true, &[(a, Follow::OWN), (b, follow)], (left.1, Follow::OWN)))
    }

    /// The mean of every `length` rows: of the sequences of a batch, say.
    pub fn mean(&mut self, a: ValueId, length: usize) -> Result<ValueId> {
        let (rows, columns) = self.shape(a);
        if length == 0 || !rows.is_multiple_of(length) {
            let needed = "rows that are a multiple of the length";
            return Err(Error::Shapes {
                operation: "mean",
                left: (rows, columns),
                right: (length, columns),
                needed,
            });
        }
        let kernel = Weighted { weight: 1.0 / length as f64 };
        Ok(self.mapped(kernel, true, &[(a, Follow::OWN)], (columns, Follow::Shared(length))))
    }
}
