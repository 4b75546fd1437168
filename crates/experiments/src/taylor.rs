//! Taylor remainders: the proof of a derivative that a tolerance cannot give.
//!
//! If `f(h) = c₀ + c₁ h + … + O(hⁿ)` with the right coefficients, then the remainder after n of them
//! falls like hⁿ: its slope in a doubly logarithmic plot is n. A wrong coefficient leaves a term of
//! its own order, and the slope shows it, whatever the size of the numbers.

/// Remainders over a series of halved steps, and the slope fitted through them.
#[derive(Clone, Debug)]
pub struct Remainders {
    /// The steps h.
    pub steps: Vec<f64>,
    /// The absolute remainders.
    pub remainders: Vec<f64>,
    /// The least-squares slope of log remainder over log h. NaN when a remainder is zero: a
    /// function that the polynomial meets exactly proves nothing.
    pub slope: f64,
}

impl Remainders {
    /// Whether the slope is that of a remainder of this order: within 0.05 for the second order
    /// and 0.1 for the third.
    pub fn shows_order(&self, order: usize) -> bool {
        let tolerance = 0.05 * (order.max(2) - 1) as f64;
        (self.slope - order as f64).abs() <= tolerance
    }
}

/// Measures the remainder of `f` after `coefficients` (`c₀, c₁, …`) at `first_step` and after each of
/// `halvings` halvings.
pub fn remainders<E>(
    mut f: impl FnMut(f64) -> Result<f64, E>,
    coefficients: &[f64],
    first_step: f64,
    halvings: i32,
) -> Result<Remainders, E> {
    let steps: Vec<f64> = (0..=halvings).map(|halving| first_step * 0.5_f64.powi(halving)).collect();
    let mut remainders = Vec::with_capacity(steps.len());
    for h in &steps {
        let polynomial = coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * h + coefficient);
        remainders.push((f(*h)? - polynomial).abs());
    }
    let slope = slope(&steps, &remainders);
    Ok(Remainders { steps, remainders, slope })
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
        remainders(|h| Ok::<f64, Infallible>(h.exp()), coefficients, 1.0 / 64.0, 5).unwrap()
    }

    #[test]
    fn the_right_coefficients_of_the_exponential_show_their_order() {
        assert!(of_exp(&[1.0, 1.0]).shows_order(2), "{:?}", of_exp(&[1.0, 1.0]));
        assert!(of_exp(&[1.0, 1.0, 0.5]).shows_order(3));
    }

    #[test]
    fn a_first_derivative_that_is_a_tenth_of_a_percent_off_does_not() {
        assert!(!of_exp(&[1.0, 1.001]).shows_order(2), "{:?}", of_exp(&[1.0, 1.001]));
        assert!(!of_exp(&[1.0, 1.0, 0.5005]).shows_order(3));
    }

    #[test]
    fn a_function_that_is_zero_proves_nothing() {
        let zero = remainders(|_| Ok::<f64, Infallible>(0.0), &[0.0, 0.0], 0.1, 4).unwrap();
        assert!(zero.slope.is_nan() && !zero.shows_order(2));
    }
}
