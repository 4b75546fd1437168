//! Measuring: rules of a backend into memory that exists, on operands that no cache holds.
//!
//! - [`Shape`] and [`Preset`] say what is measured.
//! - [`measure`] draws operands, holds what a backend makes of them against the oracle, and times it.
//! - [`Timed`] is how a kind of memory tells the time: the clock of the host, or marks of a device.
//! - [`Peers`] is the process that measures other people's attention beside it.
//! - [`Row`] and [`file()`] are the result file.

mod check;
mod draw;
mod host;
mod measure;
mod peers;
mod poison;
mod preset;
mod protocol;
mod row;
mod shape;
mod stage;
mod time;
mod units;

pub use check::Checked;
pub use host::Host;
pub use measure::{Measured, Task, measure};
pub use peers::{Ceiling, NoPeers, Peers};
pub(crate) use peers::{python, script};
pub use preset::Preset;
pub use protocol::{Peer, Request};
pub use row::{Row, file};
pub use shape::Shape;
pub use time::{Method, Plan, Timed, Times};
pub use units::{flops, units};
