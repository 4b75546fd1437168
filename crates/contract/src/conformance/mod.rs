//! The suite that every backend passes, ours or a stranger's.
//!
//! A backend runs it by naming itself and an oracle in binary64:
//!
//! ```text
//! let report = conformance::Suite::standard().run::<f32, _, _>(&MyBackend::new(), &Dense::new());
//! report.assert_passed();
//! ```
//!
//! For each [`Case`] and rule the suite asks [`Attention::support`](crate::Attention::support). Where
//! the answer is `Refused` the call must be refused with that reason. Where it is `Exact` it calls the
//! rule in every [`Form`] that the rule can tell apart, into outputs filled with NaN, and holds every
//! output against the oracle with the bounds of [`bound`](crate::bound). With everything given and
//! wanted it calls twice, in scratch full of garbage (another one each time), and demands the same
//! bits. A rule may be exact only where the one that it starts from is. [`controls`] holds backends
//! that are broken on purpose: a suite that passes one of them is itself broken.

mod case;
mod cases;
pub mod controls;
mod data;
mod form;
mod outputs;
mod report;
mod rests;
mod run;
mod stage;

pub use case::{Amplitude, Case, MaskPattern, Memory};
pub use cases::standard_cases;
pub use data::CaseData;
pub use form::{Form, Optional};
pub use report::{Outcome, Report, Verdict};
pub use run::Suite;
