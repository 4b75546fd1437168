//! Operators that are wrong on purpose, each in one way, as real software has been wrong.

/// A way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Not wrong: the operator itself.
    Exact,
}

impl Variant {
    /// All of them, the exact one first.
    pub const ALL: &[Self] = &[Self::Exact];
}

/// A dense backend in binary64 that is wrong in one way.
#[derive(Clone, Copy, Debug)]
pub struct Varied {
    /// In which way.
    pub variant: Variant,
}
