//! What the suites of the phases share: stored cases of an independent system, calls on them, proofs
//! on known problems, and evidence files.

#![forbid(unsafe_code)]

pub mod by_host;
pub mod calls;
pub mod device;
pub mod evidence;
pub mod families;
pub mod fixtures;
pub mod judging;
pub mod on_device;
pub mod problems;
pub mod proving;
pub mod recorded_rules;
pub mod wrong_kernels;
