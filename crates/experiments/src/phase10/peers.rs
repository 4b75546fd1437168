//! The same transformer by `PyTorch`, in a process of its own.

use std::process::Command;

use serde_json::Value;

use super::timings::Deep;
use super::{Origin, Part, Result, Row};
use crate::bench::{self, NoPeers};

const SCRIPT: &str = "gpu_maml.py";

/// Rows of the peers, or why there are none.
pub(super) fn rows(shape: &Deep, origin: &Origin, add: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let python = bench::python();
    let mut command = Command::new(&python);
    command.arg(bench::script(SCRIPT)?).args(shape.numbers().map(|number| number.to_string()));
    let output = command
        .output()
        .map_err(|source| NoPeers::NoPython { python: python.to_string_lossy().into_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if answers.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it printed nothing").to_owned();
        return Err(NoPeers::Unable(format!("{SCRIPT} measured nothing: {last}")).into());
    }
    answers.iter().try_for_each(|answer| add(row(shape, origin, answer)))
}

/// A line of the script as a row.
fn row(shape: &Deep, origin: &Origin, answer: &Value) -> Row {
    let name = answer["machine"].as_str().unwrap_or("unnamed");
    let (backend, dtype) = name.rsplit_once(", unfused, ").unwrap_or((name, "unknown"));
    let row = Row::of(Part::Timings, &format!("{backend}, unfused"), dtype, origin);
    let time = answer["median_ms"].as_f64();
    let bytes = answer["mib"].as_f64().map(|mib| (mib * f64::from(1 << 20)).round());
    shape
        .described(row)
        .with("peer", true)
        .with("time_median_us", time.map(|time| 1e3 * time))
        .with("bytes", bytes)
        .with("reason", answer["error"].clone())
        .with("finite", time.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_peer_without_memory_is_a_row_with_a_reason_and_no_time() {
        let origin = Origin::here(false);
        let row_of = |answer: Value| row(&Deep::LARGE, &origin, &answer);
        let timed = row_of(json!({"machine": "PyTorch 2, unfused, bf16", "median_ms": 1.5, "mib": 2.0}));
        assert_eq!((timed.text("backend"), timed.text("dtype")), ("PyTorch 2, unfused", "bf16"));
        assert_eq!(
            (timed.number("time_median_us"), timed.number("bytes")),
            (Some(1500.0), Some(2_097_152.0))
        );
        let out = row_of(json!({"machine": "PyTorch 2, unfused, f32", "error": "out of memory"}));
        assert_eq!((out.number("time_median_us"), out.text("reason")), (None, "out of memory"));
    }
}
