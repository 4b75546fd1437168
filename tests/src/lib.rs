//! What the suites of the phases share: stored cases of an independent system, and evidence files.

#![forbid(unsafe_code)]

pub mod evidence;
pub mod fixtures;
