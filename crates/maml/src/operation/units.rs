//! Nonlinear units, element by element.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use theria_gpu_fwd::Source;

use super::source_of;
use crate::graph::{Graph, ValueId};
use crate::machine::{Columns, Follow, Machine, Rowwise, kernel_source};
use crate::number::Number;

/// `x Φ(x)`, Φ being the normal distribution: what `PyTorch` calls GELU without a word of approximation.
#[derive(Clone, Copy, Debug)]
struct Gelu;

impl Rowwise for Gelu {
    const NAME: &'static str = "gelu";
    const ELEMENTWISE: bool = true;
    const COLUMNS: Columns = Columns::Apart;
    const CUDA: Source = kernel_source!("gelu.cu");

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        for (y, x) in y.iter_mut().zip(x[0]) {
            *y += *x * normal(*x);
        }
    }

    fn pull<N: Number>(&self, x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        let density = |x: N| N::constant((2.0 * PI).sqrt().recip()) * (-(x * x) * N::constant(0.5)).exp();
        for ((to, g), x) in into[0].iter_mut().flat_map(|into| into.iter_mut()).zip(g).zip(x[0]) {
            *to += *g * (normal(*x) + *x * density(*x));
        }
    }
}

fn normal<N: Number>(x: N) -> N {
    N::constant(0.5) * (N::constant(1.0) + (x * N::constant(FRAC_1_SQRT_2)).erf())
}

/// `max(x, 0)`. At 0 its derivative is 0. NaN passes: a loop that diverges is seen to.
#[derive(Clone, Copy, Debug)]
struct Relu;

impl Relu {
    fn passes<N: Number>(x: N) -> bool {
        x.value() > 0.0 || x.value().is_nan()
    }
}

impl Rowwise for Relu {
    const NAME: &'static str = "relu";
    const ELEMENTWISE: bool = true;
    const COLUMNS: Columns = Columns::Apart;
    const CUDA: Source = kernel_source!("relu.cu");

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        for (y, x) in y.iter_mut().zip(x[0]).filter(|(_, x)| Self::passes(**x)) {
            *y += *x;
        }
    }

    fn pull<N: Number>(&self, x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        let places = into[0].iter_mut().flat_map(|into| into.iter_mut());
        for ((to, g), _) in places.zip(g).zip(x[0]).filter(|(_, x)| Self::passes(**x)) {
            *to += *g;
        }
    }
}

/// The texts of these functions.
pub(super) const SOURCES: &[(Source, Columns)] = &[source_of::<Gelu>(), source_of::<Relu>()];

impl<M: Machine> Graph<M> {
    /// GELU of every element, by the error function.
    pub fn gelu(&mut self, x: ValueId) -> ValueId {
        let columns = self.shape(x).1;
        self.mapped(Gelu, false, &[(x, Follow::OWN)], (columns, Follow::OWN))
    }

    /// The positive part of every element.
    pub fn relu(&mut self, x: ValueId) -> ValueId {
        let columns = self.shape(x).1;
        self.mapped(Relu, false, &[(x, Follow::OWN)], (columns, Follow::OWN))
    }
}
