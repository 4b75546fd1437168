//! Scalars that operations are written for: a real number, or one with a tangent.
//!
//! An operation is written once, for any [`Number`]. On reals it gives its value and its pull-back. On [`Dual`]
//! numbers the same lines give the push-forward and the tangent of the pull-back, exactly: no second set of
//! formulas that could differ from the first.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A real number, or one with a tangent.
pub trait Number:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// A constant: its tangent is zero.
    fn constant(value: f64) -> Self;

    /// Its value, for decisions and for what does not vary.
    fn value(self) -> f64;

    /// e to the power of it.
    #[must_use]
    fn exp(self) -> Self;

    /// Its natural logarithm.
    #[must_use]
    fn ln(self) -> Self;

    /// Its square root.
    #[must_use]
    fn sqrt(self) -> Self;

    /// The error function of it.
    #[must_use]
    fn erf(self) -> Self;
}

impl Number for f64 {
    fn constant(value: f64) -> Self {
        value
    }
    fn value(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
}

impl Number for f32 {
    fn constant(value: f64) -> Self {
        value as f32
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn ln(self) -> Self {
        f32::ln(self)
    }
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    fn erf(self) -> Self {
        libm::erff(self)
    }
}

/// A number x and a tangent x′; what is made of it has its derivative along x′ beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dual<R> {
    /// x.
    pub value: R,
    /// x′.
    pub tangent: R,
}

impl<R: Number> Dual<R> {
    /// f(x), and f′(x) x′.
    fn chain(self, value: R, slope: R) -> Self {
        Self { value, tangent: slope * self.tangent }
    }
}

impl<R: Number> Add for Dual<R> {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, tangent: self.tangent + other.tangent }
    }
}

impl<R: Number> Sub for Dual<R> {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { value: self.value - other.value, tangent: self.tangent - other.tangent }
    }
}

impl<R: Number> Mul for Dual<R> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let tangent = self.tangent * other.value + self.value * other.tangent;
        Self { value: self.value * other.value, tangent }
    }
}

impl<R: Number> Div for Dual<R> {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        Self { value, tangent: (self.tangent - value * other.tangent) / other.value }
    }
}

impl<R: Number> Neg for Dual<R> {
    type Output = Self;
    fn neg(self) -> Self {
        Self { value: -self.value, tangent: -self.tangent }
    }
}

impl<R: Number> AddAssign for Dual<R> {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl<R: Number> Number for Dual<R> {
    fn constant(value: f64) -> Self {
        Self { value: R::constant(value), tangent: R::constant(0.0) }
    }
    fn value(self) -> f64 {
        self.value.value()
    }
    fn exp(self) -> Self {
        let value = self.value.exp();
        self.chain(value, value)
    }
    fn ln(self) -> Self {
        self.chain(self.value.ln(), R::constant(1.0) / self.value)
    }
    fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        self.chain(value, R::constant(0.5) / value)
    }
    fn erf(self) -> Self {
        let slope = R::constant(std::f64::consts::FRAC_2_SQRT_PI) * (-(self.value * self.value)).exp();
        self.chain(self.value.erf(), slope)
    }
}

/// Σ of `count` terms, in an order of its own: four sums side by side, which do not wait for each other.
pub fn sum<N: Number>(count: usize, term: impl Fn(usize) -> N) -> N {
    let mut sums = [N::constant(0.0); 4];
    let whole = count / 4 * 4;
    for n in (0..whole).step_by(4) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(n + lane);
        }
    }
    for n in whole..count {
        sums[n - whole] += term(n);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// The index that a number of data is, from 0 below a bound; none where it is no whole number or lies outside.
pub(crate) fn index(number: f64, bound: usize) -> Option<usize> {
    (number >= 0.0 && number.fract() == 0.0 && number < bound as f64).then_some(number as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tangents_of_dual_numbers_are_derivatives() {
        let functions: [(&str, fn(Dual<f64>) -> Dual<f64>, fn(f64) -> f64); 6] = [
            ("exp", Number::exp, f64::exp),
            ("ln", Number::ln, f64::ln),
            ("sqrt", Number::sqrt, f64::sqrt),
            ("erf", Number::erf, libm::erf),
            ("x / (1 + x²)", |x| x / (Dual::constant(1.0) + x * x), |x| x / (1.0 + x * x)),
            ("-x + x - 2 x²", |x| -x + x - Dual::constant(2.0) * x * x, |x| -2.0 * x * x),
        ];
        for (name, dual, plain) in functions {
            let (x, h) = (0.7, 1e-5);
            let made = dual(Dual { value: x, tangent: 3.0 });
            assert!((made.value - plain(x)).abs() < 1e-15, "{name}");
            let difference = 3.0 * (plain(x + h) - plain(x - h)) / (2.0 * h);
            assert!((made.tangent - difference).abs() < 1e-9, "{name}: {} {difference}", made.tangent);
        }
    }
}
