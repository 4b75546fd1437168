//! The conformance suite on the backends of this crate, and on broken ones.

use half::{bf16, f16};
use theria_contract::conformance::controls::{Fault, Faulty};
use theria_contract::conformance::{Report, Suite, Verdict};
use theria_contract::{Attention, Host};
use theria_reference::{Dense, Streaming};

/// All element types of one backend.
fn judge<B>(backend: &B) -> Report
where
    B: Attention<f64, Storage = Host>
        + Attention<f32, Storage = Host>
        + Attention<f16, Storage = Host>
        + Attention<bf16, Storage = Host>,
{
    let suite = Suite::standard();
    let mut report = suite.run::<f64, _, _>(backend, &Dense::new());
    report.extend(suite.run::<f32, _, _>(backend, &Dense::new()));
    report.extend(suite.run::<f16, _, _>(backend, &Dense::new()));
    report.extend(suite.run::<bf16, _, _>(backend, &Dense::new()));
    report
}

#[test]
fn dense_passes_the_suite_in_every_element_type() {
    judge(&Dense::new()).assert_passed();
}

#[test]
fn streaming_passes_the_suite_in_every_element_type() {
    judge(&Streaming::new()).assert_passed();
}

#[test]
fn the_suite_fails_every_broken_backend() {
    for fault in Fault::ALL {
        let report = Suite::standard().run::<f32, _, _>(&Faulty::new(Dense::new(), fault), &Dense::new());
        assert!(report.count(Verdict::Failed) > 0, "{fault:?} went unnoticed");
    }
}
