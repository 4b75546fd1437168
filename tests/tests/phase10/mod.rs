//! What the two suites of phase 10 share: that of a device, and that of a machine without one, on which the same checks
//! hold the host against itself, and notice what is wrong on purpose.

#![allow(dead_code, unreachable_pub, unused_imports)] // each of the two has a part of it

pub mod bits;
pub mod in_16_bits;
pub mod loops;
pub mod machines;
pub mod narrow;
pub mod operations;
pub mod tasks;
pub mod updates;
pub mod wrong;
