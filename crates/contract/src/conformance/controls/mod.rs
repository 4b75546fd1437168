//! Backends that are broken on purpose.
//!
//! A check that cannot fail is no check. Each [`Fault`] is a mistake that real kernels have made;
//! the suite must fail every one of them on some case, and no case that cannot show it.

mod fault;
mod faulty;
mod traces;

pub use fault::Fault;
pub use faulty::Faulty;
