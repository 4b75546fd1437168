//! Phase 10: meta-gradients on every backend, as rows that were measured and a report that is made of them.
//!
//! [`Measurement`] makes rows, part by part ([`Part`]): JSON objects, a line each ([`Row`]), that say what was computed
//! where, how far it is from an oracle, and whether that is within its bound. [`report`] makes a page and pictures of rows and of
//! nothing else: equal rows give equal bytes.
//!
//! | part | what is measured | oracle | negative control |
//! |---|---|---|---|
//! | `gradients` | a loop of three steps: every optimiser, every mode | numbers of an independent system | a handle that has no second order; backwards that are wrong on purpose |
//! | `rel-diff` | what the first order leaves out, on a small transformer | `dense` in f64 | the same wrong backwards |
//! | `depth` | loops of one to a hundred steps | `dense` in f64 | |
//! | `timings` | time and bytes of a meta-gradient | `dense` in f64, or `cuda-fused` in f32 | |
//! | `key-value`, `sinusoid` | trainings of both modes over seeds | | |

mod depth;
mod error;
mod fixture;
mod gradients;
mod measurement;
mod memory;
mod origin;
mod part;
mod peers;
mod prototypes;
mod rel_diff;
pub mod report;
mod row;
mod subject;
mod timings;
mod trainings;
mod workload;

pub use error::{Phase10Error, Result};
pub use measurement::{Measurement, Watch};
pub use origin::Origin;
pub use part::Part;
pub use row::{Row, RowFile, Verdict, read};
pub use subject::Subject;
