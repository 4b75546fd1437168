//! Remainders over halved steps, and what the slope through them shows.
//!
//! If `f(h) = c₀ + c₁ h + … + O(hⁿ)` with the right coefficients, the remainder after n of them falls
//! like hⁿ: its slope in a doubly logarithmic plot is n. A wrong coefficient leaves a term of its own
//! order, and the slope shows it, whatever the size of the numbers.

/// Remainders below this many roundings of what was subtracted are rounding, not remainders.
const ROUNDINGS: f64 = 1e3;

/// Remainders over a series of halved steps, and the slope fitted through them.
#[derive(Clone, Debug, PartialEq)]
pub struct Remainders {
    /// The steps h.
    pub steps: Vec<f64>,
    /// The absolute remainders.
    pub remainders: Vec<f64>,
    /// The least-squares slope of log remainder over log h. NaN when a remainder is zero or not
    /// finite: a function that the polynomial meets exactly proves nothing.
    pub slope: f64,
    /// The size of what was subtracted from each other to make the remainders.
    pub scale: f64,
}

impl Remainders {
    /// Fits the slope.
    pub fn new(steps: Vec<f64>, remainders: Vec<f64>, scale: f64) -> Self {
        let slope = slope(&steps, &remainders);
        Self { steps, remainders, slope, scale }
    }

    /// The remainder of a function of one variable after `coefficients` (`c₀, c₁, …`), at
    /// `first_step` and after each of `halvings` halvings.
    pub fn of<E>(
        mut f: impl FnMut(f64) -> Result<f64, E>,
        coefficients: &[f64],
        first_step: f64,
        halvings: i32,
    ) -> Result<Self, E> {
        let steps = halved(first_step, halvings);
        let mut remainders = Vec::with_capacity(steps.len());
        for h in &steps {
            let polynomial = coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * h + coefficient);
            remainders.push((f(*h)? - polynomial).abs());
        }
        let scale = coefficients.first().map_or(0.0, |value| value.abs());
        Ok(Self::new(steps, remainders, scale))
    }

    /// Below this a remainder may be rounding: 1e3 · ε · scale.
    pub fn floor(&self) -> f64 {
        ROUNDINGS * f64::EPSILON * self.scale
    }

    /// Why the slope says nothing, if it does not: too few halvings, remainders of zero, remainders
    /// that rounding could have made.
    pub fn invalid(&self) -> Option<String> {
        let halvings = self.steps.len().saturating_sub(1);
        if halvings < 4 {
            return Some(format!("{halvings} halvings are too few for a slope"));
        }
        let least = self.remainders.iter().copied().fold(f64::INFINITY, f64::min);
        if least == 0.0 {
            return Some("a remainder is zero: the function does not move".into());
        }
        (least <= self.floor())
            .then(|| format!("a remainder of {least:.0e} is no larger than rounding, {:.0e}", self.floor()))
    }

    /// Whether the slope is that of a remainder of this order, within 0.05, and says something.
    pub fn shows_order(&self, order: usize) -> bool {
        self.invalid().is_none() && (self.slope - order as f64).abs() <= 0.05
    }
}

/// A first step and its halves.
pub(super) fn halved(first: f64, halvings: i32) -> Vec<f64> {
    (0..=halvings).map(|halving| first * 0.5_f64.powi(halving)).collect()
}

fn slope(steps: &[f64], remainders: &[f64]) -> f64 {
    if remainders.iter().any(|r| *r <= 0.0 || !r.is_finite()) {
        return f64::NAN;
    }
    let n = steps.len() as f64;
    let mean = |values: &[f64]| values.iter().map(|value| value.ln()).sum::<f64>() / n;
    let (x_mean, y_mean) = (mean(steps), mean(remainders));
    let mut products = 0.0;
    let mut squares = 0.0;
    for (x, y) in steps.iter().zip(remainders) {
        let (dx, dy) = (x.ln() - x_mean, y.ln() - y_mean);
        products += dx * dy;
        squares += dx * dx;
    }
    products / squares
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn of_exp(coefficients: &[f64]) -> Remainders {
        Remainders::of(|h| Ok::<f64, Infallible>(h.exp()), coefficients, 1.0 / 64.0, 5).unwrap()
    }

    #[test]
    fn the_right_coefficients_of_the_exponential_show_their_order() {
        assert!(of_exp(&[1.0, 1.0]).shows_order(2), "{:?}", of_exp(&[1.0, 1.0]));
        assert!(of_exp(&[1.0, 1.0, 0.5]).shows_order(3));
    }

    #[test]
    fn a_derivative_that_is_a_tenth_of_a_percent_off_does_not() {
        assert!(!of_exp(&[1.0, 1.001]).shows_order(2), "{:?}", of_exp(&[1.0, 1.001]));
        assert!(!of_exp(&[1.0, 1.0, 0.5005]).shows_order(3));
    }

    #[test]
    fn a_function_that_is_zero_proves_nothing() {
        let zero = Remainders::of(|_| Ok::<f64, Infallible>(0.0), &[0.0, 0.0], 0.1, 4).unwrap();
        assert!(zero.slope.is_nan() && zero.invalid().is_some() && !zero.shows_order(2));
    }

    #[test]
    fn remainders_of_the_size_of_rounding_prove_nothing_whatever_their_slope() {
        let steps = halved(1e-6, 4);
        let tiny: Vec<f64> = steps.iter().map(|h| h * h).collect();
        assert!((slope(&steps, &tiny) - 2.0).abs() < 1e-9);
        assert!(!Remainders::new(steps.clone(), tiny.clone(), 1e3).shows_order(2));
        assert!(Remainders::new(steps, tiny, 1e-6).shows_order(2));
    }

    #[test]
    fn three_halvings_are_too_few() {
        let few = Remainders::of(|h| Ok::<f64, Infallible>(h.exp()), &[1.0, 1.0], 0.01, 3).unwrap();
        assert!(!few.shows_order(2) && few.invalid().unwrap().contains("too few"));
    }
}
