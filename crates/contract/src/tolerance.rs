//! The one table of error bounds.

use std::fmt;

use crate::{DType, Rule};

/// In what precision a backend computes, which need not be that of its element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Products and sums in binary64.
    F64,
    /// Products and sums in binary32 (or an accurate split of it).
    F32,
    /// Products of 19-bit operands, sums in binary32.
    Tf32,
    /// Operands in binary16, sums in binary32.
    F16,
    /// Operands in bfloat16, sums in binary32.
    Bf16,
}

impl Precision {
    /// The precision in which a backend without a choice of its own computes on `dtype`.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self::F64,
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// The largest error allowed: maximum absolute error against binary64 on the same (already rounded)
/// inputs, over the root mean square of the reference.
///
/// | precision | forward, backward, jvp | second order |
/// |---|---|---|
/// | f64  | 1e-12 | 2e-12 |
/// | f32  | 2e-5  | 4e-5  |
/// | tf32 | 2e-3  | 4e-3  |
/// | f16  | 3e-3  | 6e-3  |
/// | bf16 | 2e-2  | 4e-2  |
pub fn bound(precision: Precision, rule: Rule) -> f64 {
    let first_order = match precision {
        Precision::F64 => 1e-12,
        Precision::F32 => 2e-5,
        Precision::Tf32 => 2e-3,
        Precision::F16 => 3e-3,
        Precision::Bf16 => 2e-2,
    };
    match rule {
        Rule::Forward | Rule::Backward | Rule::Jvp => first_order,
        Rule::SecondOrder => 2.0 * first_order,
    }
}
