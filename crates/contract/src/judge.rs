//! Judges a tensor against its reference.
//!
//! The measure is the maximum absolute error over the root mean square of the reference, with three
//! refinements that keep it meaningful at its edges:
//!
//! - A derivative can vanish identically (with a single key the softmax is constant, so dQ = 0), and
//!   then both sides are rounding noise whose ratio means nothing. So the denominator has a floor:
//!   half the size that the tensor would have if its terms did not cancel, estimated from the inputs
//!   by [`Magnitudes`]. Without cancellation the root mean square is above that size, and the floor
//!   changes nothing.
//! - A row may be much larger than the others: under a causal mask the gradient of key 0 sums over
//!   every query. An element is held against the root mean square of its row where that is larger
//!   than that of the tensor: a row is one vector, and its error is relative to its own length.
//! - A result is rounded once to its own element type, whatever computed it. That rounding, half a
//!   unit in the last place of each element, is not counted: a correctly rounded f16 tensor has
//!   error zero however heavy its tails are.

use crate::{Causal, DType, Element, Problem, TensorView, Visibility};

/// A tensor that a rule makes, by its name in result files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are those of the file format
pub enum Output {
    Out,
    Lse,
    Dq,
    Dk,
    Dv,
    Dbias,
    OutTangent,
    LseTangent,
    DqTangent,
    DkTangent,
    DvTangent,
    DbiasTangent,
}

impl Output {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Out,
        Self::Lse,
        Self::Dq,
        Self::Dk,
        Self::Dv,
        Self::Dbias,
        Self::OutTangent,
        Self::LseTangent,
        Self::DqTangent,
        Self::DkTangent,
        Self::DvTangent,
        Self::DbiasTangent,
    ];

    /// The name in result files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Lse => "lse",
            Self::Dq => "dq",
            Self::Dk => "dk",
            Self::Dv => "dv",
            Self::Dbias => "dbias",
            Self::OutTangent => "out_tangent",
            Self::LseTangent => "lse_tangent",
            Self::DqTangent => "dq_tangent",
            Self::DkTangent => "dk_tangent",
            Self::DvTangent => "dv_tangent",
            Self::DbiasTangent => "dbias_tangent",
        }
    }

    /// The rule that makes it.
    pub fn rule(self) -> crate::Rule {
        match self {
            Self::Out | Self::Lse => crate::Rule::Forward,
            Self::Dq | Self::Dk | Self::Dv | Self::Dbias => crate::Rule::Backward,
            Self::OutTangent | Self::LseTangent => crate::Rule::Jvp,
            Self::DqTangent | Self::DkTangent | Self::DvTangent | Self::DbiasTangent => {
                crate::Rule::SecondOrder
            }
        }
    }

    /// The shape that a problem gives it; `None` for the gradient of a bias that is not there.
    pub fn shape(self, problem: &Problem) -> Option<[usize; 4]> {
        let shape = problem.shape();
        Some(match self {
            Self::Out | Self::OutTangent => shape.output(),
            Self::Lse | Self::LseTangent => shape.rows(),
            Self::Dq | Self::DqTangent => shape.q(),
            Self::Dk | Self::DkTangent => shape.k(),
            Self::Dv | Self::DvTangent => shape.v(),
            Self::Dbias | Self::DbiasTangent => problem.bias()?,
        })
    }
}

/// Root mean squares of the operands; zero for what is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the names are those of the operands
pub struct Magnitudes {
    pub q: f64,
    pub k: f64,
    pub v: f64,
    pub dout: f64,
    pub q_tangent: f64,
    pub k_tangent: f64,
    pub v_tangent: f64,
    pub bias_tangent: f64,
    pub dout_tangent: f64,
    /// How much of a row its largest probabilities hold: the root mean square over rows of
    /// `sqrt(Σ_j P²)`, between `1/sqrt(M)` (uniform) and 1 (one key). See [`Self::concentration_of`].
    pub concentration: f64,
}

impl Magnitudes {
    /// The concentration that an output shows: it averages values of independent sign, so its size
    /// is theirs times the concentration.
    pub fn concentration_of(out: f64, v: f64) -> f64 {
        if v > 0.0 { (out / v).min(1.0) } else { 0.0 }
    }

    /// The size that an output has when its terms are independent and do not cancel.
    pub fn natural_size(&self, problem: &Problem, output: Output) -> f64 {
        let shape = problem.shape();
        let (t, m) = (shape.t.max(1) as f64, mean_visible_keys(problem).max(1.0));
        let (root_d, root_dv) = ((shape.d as f64).sqrt(), (shape.dv as f64).sqrt());
        let scale = problem.scale().abs();
        // Probabilities have this root mean square over the keys of a row.
        let p = self.concentration.max(1.0 / m.sqrt()) / m.sqrt();
        let over_keys = p * m.sqrt();
        let over_rows = p * (t * shape.group() as f64).sqrt();
        let over_bias = problem.bias().map_or(0.0, |bias| {
            let scores = shape.scores().iter().map(|n| *n as f64).product::<f64>();
            let entries = bias.iter().map(|n| *n as f64).product::<f64>();
            p * (scores / entries.max(1.0)).sqrt()
        });
        let scores_tangent =
            scale * root_d * (self.q_tangent * self.k + self.q * self.k_tangent) + self.bias_tangent;
        let dp = self.dout * self.v * root_dv;
        let ds_tangent =
            scores_tangent * dp + root_dv * (self.dout_tangent * self.v + self.dout * self.v_tangent);
        match output {
            Output::Out => self.v * over_keys,
            // P = exp(S - lse): an error of a small lse counts by itself, not by its share of lse.
            Output::Lse => 2.0,
            Output::Dq => scale * dp * self.k * over_keys,
            Output::Dk => scale * dp * self.q * over_rows,
            Output::Dv => self.dout * over_rows,
            Output::Dbias => dp * over_bias,
            Output::OutTangent => (scores_tangent * self.v + self.v_tangent) * over_keys,
            Output::LseTangent => scores_tangent * over_keys,
            Output::DqTangent => scale * (ds_tangent * self.k + dp * self.k_tangent) * over_keys,
            Output::DkTangent => scale * (ds_tangent * self.q + dp * self.q_tangent) * over_rows,
            Output::DvTangent => (scores_tangent * self.dout + self.dout_tangent) * over_rows,
            Output::DbiasTangent => ds_tangent * over_bias,
        }
    }
}

/// Keys that causal mask and window leave to a query, on average.
fn mean_visible_keys(problem: &Problem) -> f64 {
    let shape = problem.shape();
    if problem.causal() == Causal::None && problem.window().is_unbounded() {
        return shape.m as f64;
    }
    let visibility = Visibility::of(problem);
    let seen: usize = (0..shape.t).map(|row| visibility.keys(row, shape.m).len()).sum();
    seen as f64 / shape.t.max(1) as f64
}

/// Root mean square of the finite elements of a tensor.
pub fn rms<E: Element>(view: TensorView<'_, E>) -> f64 {
    let (mut sum, mut count) = (0.0, 0_usize);
    for_each_row(view.shape(), |b, h, i| {
        for x in view.row(b, h, i).iter().map(|x| x.to_f64()).filter(|x| x.is_finite()) {
            sum += x * x;
            count += 1;
        }
    });
    if count == 0 { 0.0 } else { (sum / count as f64).sqrt() }
}

/// How far a candidate is from its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Largest absolute difference over its denominator. Infinite when one side has a NaN or an
    /// infinity that the other has not.
    pub error: f64,
    /// Root mean square of these quotients.
    pub rms_error: f64,
    /// Where the largest one is.
    pub at: [usize; 4],
    /// Root mean square of the reference, or the floor if that is larger. Rows that are larger still
    /// have a denominator of their own.
    pub denominator: f64,
}

/// Compares two tensors of one shape. `natural_size` sets the floor of the denominator.
///
/// # Panics
/// If the shapes differ.
pub fn compare<E: Element, R: Element>(
    candidate: TensorView<'_, E>,
    reference: TensorView<'_, R>,
    natural_size: f64,
) -> Comparison {
    assert_eq!(candidate.shape(), reference.shape(), "shapes are compared before values");
    let floor = if natural_size.is_finite() { 0.5 * natural_size } else { 0.0 };
    let denominator = match rms(reference).max(floor) {
        0.0 => 1.0,
        positive => positive,
    };
    let (mut largest, mut squares, mut count, mut at) = (0.0_f64, 0.0_f64, 0_usize, [0; 4]);
    for_each_row(candidate.shape(), |b, h, i| {
        let (row, wanted) = (candidate.row(b, h, i), reference.row(b, h, i));
        let denominator = denominator.max(row_rms(wanted));
        for (c, (x, y)) in row.iter().zip(wanted).enumerate() {
            let (x, y) = (x.to_f64(), y.to_f64());
            let difference = match (x.is_finite(), y.is_finite()) {
                (true, true) => ((x - y).abs() - half_ulp(E::DTYPE, y)).max(0.0),
                (false, false) if x == y || (x.is_nan() && y.is_nan()) => 0.0,
                _ => f64::INFINITY,
            };
            let error = difference / denominator;
            if error > largest {
                (largest, at) = (error, [b, h, i, c]);
            }
            squares += error * error;
            count += 1;
        }
    });
    Comparison { error: largest, rms_error: (squares / count.max(1) as f64).sqrt(), at, denominator }
}

/// Root mean square of a row that is a vector. A row of one element is not: a row statistic would be
/// held against itself.
fn row_rms<E: Element>(row: &[E]) -> f64 {
    if row.len() < 2 {
        return 0.0;
    }
    let squares = row.iter().map(|x| x.to_f64()).filter(|x| x.is_finite()).map(|x| x * x);
    (squares.sum::<f64>() / row.len() as f64).sqrt()
}

/// Half a unit in the last place of `value` in a storage type narrower than what computes it.
fn half_ulp(dtype: DType, value: f64) -> f64 {
    // Significant bits, and half the constant spacing below the smallest normal number.
    let (bits, smallest) = match dtype {
        DType::F64 | DType::F32 => return 0.0,
        DType::F16 => (11, 2.0_f64.powi(-25)),
        DType::Bf16 => (8, 2.0_f64.powi(-134)),
    };
    // The exponent field of a binary64 is the power of two at or below a normal value.
    let power = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    2.0_f64.powi(power - bits).max(smallest)
}

fn for_each_row(shape: [usize; 4], mut visit: impl FnMut(usize, usize, usize)) {
    if shape.contains(&0) {
        return;
    }
    for b in 0..shape[0] {
        for h in 0..shape[1] {
            for i in 0..shape[2] {
                visit(b, h, i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn row(values: &[f64]) -> Tensor<f64> {
        Tensor::from_vec(values.to_vec(), [1, 1, 1, values.len()]).unwrap()
    }

    #[test]
    fn the_error_is_the_largest_difference_over_the_rms_of_the_reference() {
        let (candidate, reference) = (row(&[3.0, 4.0, 3.0, 4.5]), row(&[3.0, 4.0, 3.0, 4.0]));
        let comparison = compare(candidate.view(), reference.view(), 0.0);
        assert_eq!(comparison.error, 0.5 / 12.5_f64.sqrt());
        assert_eq!(comparison.at, [0, 0, 0, 3]);
    }

    #[test]
    fn a_nan_or_a_missing_infinity_is_an_infinite_error() {
        let reference = row(&[1.0, f64::NEG_INFINITY]);
        assert_eq!(compare(reference.view(), reference.view(), 0.0).error, 0.0);
        for wrong in [[f64::NAN, f64::NEG_INFINITY], [1.0, -1e30], [1.0, f64::INFINITY], [1.0, f64::NAN]] {
            assert_eq!(compare(row(&wrong).view(), reference.view(), 0.0).error, f64::INFINITY, "{wrong:?}");
        }
    }

    #[test]
    fn rounding_noise_of_a_vanishing_derivative_is_no_error_but_a_real_difference_is() {
        let problem = Problem::builder(DType::F64).lengths(4, 1).head_dims(8, 8).build().unwrap();
        let magnitudes = Magnitudes { q: 1.0, k: 1.0, v: 1.0, dout: 1.0, ..Magnitudes::default() };
        let natural = magnitudes.natural_size(&problem, Output::Dq);
        assert!((natural - 1.0).abs() < 1e-12, "{natural}");
        let reference = row(&[1e-17, -2e-17]);
        assert!(compare(row(&[2e-17, 1e-17]).view(), reference.view(), natural).error < 1e-14);
        assert!(compare(row(&[2e-17, 1e-3]).view(), reference.view(), natural).error > 1e-3);
    }

    #[test]
    fn a_row_larger_than_the_others_is_held_against_itself() {
        let shape = [1, 1, 100, 2];
        let reference = Tensor::from_fn(shape, |[_, _, i, _]| if i == 0 { 100.0 } else { 0.1 }).unwrap();
        let off =
            |row, by| Tensor::from_fn(shape, |at| reference.at(at) + if at[2] == row { by } else { 0.0 });
        let error = |row, by| compare(off(row, by).unwrap().view(), reference.view(), 0.0).error;
        assert!((error(0, 1.0) - 0.01).abs() < 1e-12, "one part in a hundred of the large row");
        assert!(error(5, 1.0) > 0.09, "a small row is held against the whole tensor");
    }

    /// Correct rounding has error zero; the neighbours of the rounded value have not.
    fn rounding_is_free_and_no_more<E: Element>(next: impl Fn(E) -> E) {
        for value in [1.0, 1.003, 1.999, 1000.3, -3.1, 6.1e-5, 1e-7, 0.0] {
            let reference = row(&[value, 1.0]);
            let error = |x: E| {
                let candidate = Tensor::from_vec(vec![x, E::from_f64(1.0)], [1, 1, 1, 2]).unwrap();
                compare(candidate.view(), reference.view(), 0.0).error
            };
            assert_eq!(error(E::from_f64(value)), 0.0, "{value} in {}", E::DTYPE);
            assert!(error(next(E::from_f64(value))) > 0.0, "the neighbour of {value} in {}", E::DTYPE);
        }
    }

    #[test]
    fn rounding_to_the_result_type_is_not_counted_but_anything_beyond_it_is() {
        // Two steps away: the first may be as near as the rounded value itself.
        rounding_is_free_and_no_more::<half::f16>(|x| half::f16::from_bits(x.to_bits() + 2));
        rounding_is_free_and_no_more::<half::bf16>(|x| half::bf16::from_bits(x.to_bits() + 2));
    }

    #[test]
    fn without_cancellation_the_floor_changes_nothing() {
        let reference = row(&[1.0, -1.0, 1.0, 1.0]);
        assert_eq!(compare(reference.view(), reference.view(), 1.9).denominator, 1.0);
    }
}
