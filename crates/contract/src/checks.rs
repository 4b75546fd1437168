//! What a call verifies beyond shapes.

/// Checks on values. Shapes, types and key lengths are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Checks {
    /// Values are taken and given as they are; NaN and infinity propagate.
    #[default]
    None,
    /// A NaN or an infinity in an input or in a result is an [`Error::NonFinite`](crate::Error::NonFinite).
    /// Where a meaning is defined for it, `-inf` passes: in a bias it hides a key, and it is the
    /// `lse` of a row that sees nothing. Costs one reading of every tensor.
    Finite,
}
