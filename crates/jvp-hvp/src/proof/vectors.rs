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

/// ‖a‖.
pub(super) fn norm(a: &[f64]) -> f64 {
    square(a).sqrt()
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
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}
