//! Proofs of derivatives that can fail, for anybody's function.
//!
//! A [`Claim`] is a function f: Rⁿ → Rᵐ with the derivatives that somebody claims for it: `J v`, `Jᵀ u`,
//! and the tangent of `Jᵀ u`. A [`Proof`] is an identity that these would obey if they were right. What
//! it measured is a [`Finding`]. Nothing here trusts a small number alone: an identity between zeros,
//! or between rounding errors, is [`Verdict::Invalid`] and never [`Verdict::Passed`].
//!
//! ```
//! use theria_jvp_hvp::proof::{Answer, Claim, Point, Proof, Verdict, examine};
//!
//! /// f(x) = exp(x), entry by entry, with a claimed derivative.
//! struct Exponential {
//!     factor: f64,
//! }
//!
//! impl Claim for Exponential {
//!     type Error = std::convert::Infallible;
//!     fn outputs(&self) -> usize {
//!         3
//!     }
//!     fn value(&self, x: &[f64]) -> Answer<Self::Error> {
//!         Ok(x.iter().map(|x| x.exp()).collect())
//!     }
//!     fn jvp(&self, x: &[f64], v: &[f64]) -> Answer<Self::Error> {
//!         Ok(x.iter().zip(v).map(|(x, v)| self.factor * x.exp() * v).collect())
//!     }
//! }
//!
//! let point = Point::random(3, 1);
//! let order = |factor| Proof::JvpOrder.run(&Exponential { factor }, &point).verdict;
//! assert_eq!(order(1.0), Verdict::Passed);
//! assert_eq!(order(1.001), Verdict::Failed);
//! // There is no VJP to prove, and the report says so.
//! let findings = examine(&Exponential { factor: 1.0 }, &point);
//! assert!(findings.iter().any(|finding| matches!(finding.verdict, Verdict::NotApplicable(_))));
//! ```
//!
//! [`AttentionClaim`] makes any host backend in binary64 a claim. That no proof suffices alone, and
//! which one sees what, is the subject of [`matrix`](crate::matrix).

mod agreement;
mod attention;
mod catalogue;
mod checked;
mod claim;
mod description;
mod difference;
mod duality;
mod finding;
mod invariance;
mod linearity;
mod point;
mod remainders;
mod repeatability;
mod sampling;
mod taylor;
mod vectors;

#[cfg(test)]
mod analytic;

pub use attention::AttentionClaim;
pub use catalogue::{Proof, examine, examine_against};
pub use claim::{Answer, Block, Claim, Gap};
pub use finding::{Allowed, Detail, Finding, Verdict};
pub use point::Point;
pub use remainders::Remainders;
pub use sampling::Samples;
