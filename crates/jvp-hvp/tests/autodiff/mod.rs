//! Attention written once more, over any scalar that differentiates itself.
//!
//! It shares no code with the backends: no matrices, no derivative rule, one loop for each sum. Over
//! dual numbers it yields the JVP, over hyper-dual numbers any second derivative, both to rounding.

mod derivatives;

use num_dual::DualNum;
use theria_contract::conformance::CaseData;
use theria_contract::{Qkv, Tensor, Visibility};

pub(crate) use derivatives::{Derivatives, Packed};

/// A scalar that carries derivatives in binary64.
pub(crate) trait Number: DualNum<Primitive = f64> + Copy {}
impl<T: DualNum<Primitive = f64> + Copy> Number for T {}

/// Q, K, V and bias in such a scalar, packed.
pub(crate) struct Operands<T> {
    tensors: Qkv<Vec<T>>,
    shapes: Qkv<[usize; 4]>,
}

impl<T: Number> Operands<T> {
    /// Seeds every element: `seed(operand, position in it, value)`.
    pub(crate) fn seeded(data: &CaseData<f64>, seed: impl Fn(usize, usize, f64) -> T) -> Self {
        let mut operand = 0;
        let tensors = data.primal.as_ref().map(|tensor| {
            operand += 1;
            let values = tensor.view().to_tensor().into_vec();
            values.iter().enumerate().map(|(i, x)| seed(operand - 1, i, *x)).collect()
        });
        Self { tensors, shapes: data.primal.as_ref().map(Tensor::shape) }
    }

    /// Q, packed.
    pub(crate) fn q(&self) -> &[T] {
        &self.tensors.q
    }

    /// K, packed.
    pub(crate) fn k(&self) -> &[T] {
        &self.tensors.k
    }

    /// V, packed.
    pub(crate) fn v(&self) -> &[T] {
        &self.tensors.v
    }
}

fn at<T: Copy>(values: &[T], shape: [usize; 4], index: [usize; 4]) -> T {
    let position = (0..4)
        .fold(0, |position, axis| position * shape[axis] + if shape[axis] == 1 { 0 } else { index[axis] });
    values[position]
}

/// Which results of which step do not move when they should.
#[derive(Clone, Copy, Default)]
pub(crate) struct Detached {
    /// The row statistics of the softmax.
    pub(crate) statistics: bool,
    /// The scores, and with them the statistics.
    pub(crate) scores: bool,
}

/// O and lse, packed.
pub(crate) fn attention<T: Number>(
    data: &CaseData<f64>,
    x: &Operands<T>,
    detached: Detached,
) -> (Vec<T>, Vec<T>) {
    let (problem, shape) = (&data.problem, data.problem.shape());
    let (mut output, mut statistics) = (Vec::new(), Vec::new());
    for b in 0..shape.batch {
        let keys = data.key_lengths.as_ref().map_or(shape.m, |lengths| lengths.at([0, 0, 0, b]) as usize);
        for h in 0..shape.heads_q {
            let kv = h * shape.heads_kv / shape.heads_q;
            for i in 0..shape.t {
                let visible: Vec<usize> = Visibility::of(problem)
                    .keys(i, keys)
                    .filter(|j| {
                        data.mask.as_ref().is_none_or(|mask| mask.view().at_broadcast([b, h, i, *j]) != 0)
                    })
                    .filter(|j| bias(x, [b, h, i, *j]).re() > f64::NEG_INFINITY)
                    .collect();
                let scores: Vec<T> = visible
                    .iter()
                    .map(|j| {
                        let q = |c| at(&x.tensors.q, x.shapes.q, [b, h, i, c]);
                        let k = |c| at(&x.tensors.k, x.shapes.k, [b, kv, *j, c]);
                        let product: T = (0..shape.d).map(|c| q(c) * k(c)).sum();
                        let score = product * problem.scale() + bias(x, [b, h, i, *j]);
                        if detached.scores { T::from(score.re()) } else { score }
                    })
                    .collect();
                // Any shift is right, and a constant one is not differentiated.
                let shift = scores.iter().map(T::re).fold(f64::NEG_INFINITY, f64::max);
                let sum: T = scores.iter().map(|s| (*s - shift).exp()).sum();
                let sum = if detached.statistics { T::from(sum.re()) } else { sum };
                statistics.push(if visible.is_empty() {
                    T::from(f64::NEG_INFINITY)
                } else {
                    sum.ln() + shift
                });
                for c in 0..shape.dv {
                    let terms = visible.iter().zip(&scores).map(|(j, s)| {
                        let keep = problem.dropout().map_or(1.0, |dropout| {
                            f64::from(u8::from(dropout.row(b, h, i).keeps(*j))) / (1.0 - dropout.p())
                        });
                        (*s - shift).exp() / sum * keep * at(&x.tensors.v, x.shapes.v, [b, kv, *j, c])
                    });
                    output.push(terms.sum());
                }
            }
        }
    }
    (output, statistics)
}

fn bias<T: Number>(x: &Operands<T>, index: [usize; 4]) -> T {
    x.tensors.bias.as_ref().zip(x.shapes.bias).map_or_else(T::zero, |(bias, shape)| at(bias, shape, index))
}
