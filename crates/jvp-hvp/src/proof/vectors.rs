//! The little arithmetic of flat vectors that proofs need.

/// ⟨a, b⟩.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Σ |aᵢ bᵢ|: the size of the terms of ⟨a, b⟩, against which its rounding is measured.
pub(super) fn size_of_dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

/// ‖a‖².
pub(super) fn square(a: &[f64]) -> f64 {
    dot(a, a)
}

/// ‖a‖, also where ‖a‖² overflows or underflows.
pub(super) fn norm(a: &[f64]) -> f64 {
    let squared = square(a);
    if (1e-280..1e280).contains(&squared) {
        return squared.sqrt();
    }
    let largest = largest(a);
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    largest * a.iter().map(|a| (a / largest).powi(2)).sum::<f64>().sqrt()
}

/// max |aᵢ|; NaN if there is one.
pub(super) fn largest(a: &[f64]) -> f64 {
    a.iter().fold(0.0, |most: f64, a| if most.is_nan() || a.is_nan() { f64::NAN } else { most.max(a.abs()) })
}

/// The root mean square of the entries.
pub(super) fn rms(a: &[f64]) -> f64 {
    norm(a) / (a.len().max(1) as f64).sqrt()
}

/// a + factor · b.
pub(super) fn plus(a: &[f64], factor: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

/// factor · a + other · b.
pub(super) fn combine(factor: f64, a: &[f64], other: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| factor * a + other * b).collect()
}

/// ‖a - b‖.
pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    norm(&combine(1.0, a, -1.0, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_outlives_the_overflow_and_the_underflow_of_its_square() {
        for unit in [1.0, 1e160, 1e-200] {
            assert!((norm(&[3.0 * unit, -4.0 * unit]) / (5.0 * unit) - 1.0).abs() < 1e-15);
        }
        assert_eq!(norm(&[0.0, 0.0]), 0.0);
        assert!(norm(&[1.0, f64::NAN]).is_nan() && norm(&[f64::NAN, 1e200]).is_nan());
        assert_eq!(norm(&[f64::NEG_INFINITY]), f64::INFINITY);
    }
}
