//! `Streaming` passes the suite in every element type, judged by `Dense`.

use half::{bf16, f16};
use theria_contract::conformance::{Report, Suite};
use theria_jvp_hvp::{Dense, Streaming};

#[test]
fn streaming_passes_the_suite_in_every_element_type() {
    let (suite, oracle, backend) = (Suite::standard(), Dense::new(), Streaming::new());
    let mut report: Report = suite.run::<f64, _, _>(&backend, &oracle);
    report.extend(suite.run::<f32, _, _>(&backend, &oracle));
    report.extend(suite.run::<f16, _, _>(&backend, &oracle));
    report.extend(suite.run::<bf16, _, _>(&backend, &oracle));
    report.assert_passed();
}
