//! Element types: what a tensor holds, and in what precision sums over it are kept.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use crate::Error;

/// Anything a tensor can hold: the floating types, `u8` for boolean masks, `i32` for key lengths.
pub trait Scalar: bytemuck::Pod + Default + PartialEq + fmt::Debug + Send + Sync {}

impl Scalar for f64 {}
impl Scalar for f32 {}
impl Scalar for f16 {}
impl Scalar for bf16 {}
impl Scalar for u8 {}
impl Scalar for i32 {}

/// A floating type that attention computes on.
pub trait Element: Scalar {
    /// The run-time name of this type.
    const DTYPE: DType;

    /// The type of sums and of row statistics: `f64` for `f64`, `f32` for everything smaller.
    type Acc: Element<Acc = Self::Acc>;

    /// The exact value.
    fn to_f64(self) -> f64;

    /// The nearest value of this type (ties to even).
    fn from_f64(value: f64) -> Self;

    /// The exact value in the accumulation type.
    fn to_acc(self) -> Self::Acc;

    /// The nearest value of this type.
    fn from_acc(value: Self::Acc) -> Self;

    /// What rounding takes from a value, rounded in its turn: zero where it takes nothing.
    fn rest_of(value: Self::Acc) -> Self {
        let (value, rounded) = (value.to_f64(), Self::from_acc(value).to_f64());
        if value == rounded { Self::default() } else { Self::from_f64(value - rounded) }
    }

    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool {
        self.to_f64().is_finite()
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    type Acc = f64;
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_acc(self) -> f64 {
        self
    }
    fn from_acc(value: f64) -> Self {
        value
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    type Acc = f32;
    fn to_f64(self) -> f64 {
        self as f64
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_acc(self) -> f32 {
        self
    }
    fn from_acc(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    type Acc = f32;
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
    fn from_f64(value: f64) -> Self {
        f16::from_f64(value)
    }
    fn to_acc(self) -> f32 {
        self.to_f32()
    }
    fn from_acc(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
    type Acc = f32;
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
    fn from_f64(value: f64) -> Self {
        bf16::from_f64(value)
    }
    fn to_acc(self) -> f32 {
        self.to_f32()
    }
    fn from_acc(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

/// The floating types by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl DType {
    /// All of them, widest first.
    pub const ALL: [Self; 4] = [Self::F64, Self::F32, Self::F16, Self::Bf16];

    /// The name in files, on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| Error::UnknownName {
            what: "element type",
            given: name.into(),
            allowed: "f64, f32, f16, bf16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trips<E: Element>() {
        for value in [0.0, -1.5, 0.25, 3.0] {
            assert_eq!(E::from_f64(value).to_f64(), value);
            assert_eq!(E::from_acc(E::from_f64(value).to_acc()).to_f64(), value);
        }
        assert!(!E::from_f64(f64::NAN).is_finite());
        assert!(!E::from_f64(f64::NEG_INFINITY).is_finite());
        assert_eq!(std::mem::size_of::<E>(), E::DTYPE.size());
        assert_eq!(E::DTYPE.name().parse::<DType>().unwrap(), E::DTYPE);
    }

    #[test]
    fn every_element_type_round_trips_its_own_values() {
        round_trips::<f64>();
        round_trips::<f32>();
        round_trips::<f16>();
        round_trips::<bf16>();
    }

    #[test]
    fn what_rounding_takes_is_given_back_to_twice_the_digits() {
        for value in [1.0 + 2.0_f32.powi(-12), 0.1, -3.7, 1e-3] {
            let (coarse, rest) = (bf16::from_acc(value), bf16::rest_of(value));
            assert!((coarse.to_f32() - value).abs() > value.abs() * 2.0_f32.powi(-14));
            assert!((coarse.to_f32() + rest.to_f32() - value).abs() <= value.abs() * 2.0_f32.powi(-16));
            let both = f16::from_acc(value).to_f32() + f16::rest_of(value).to_f32();
            assert!((both - value).abs() <= value.abs() * 2.0_f32.powi(-22) + 2.0_f32.powi(-25));
            assert_eq!((f32::rest_of(value), f64::rest_of(0.1)), (0.0, 0.0));
        }
        assert!(bf16::rest_of(f32::NAN).is_nan());
        assert_eq!(f32::rest_of(f32::INFINITY), 0.0);
    }

    #[test]
    fn an_unknown_type_name_is_an_error_that_lists_the_known_ones() {
        let message = "fp8".parse::<DType>().unwrap_err().to_string();
        assert!(message.contains("fp8") && message.contains("bf16"), "{message}");
    }
}
