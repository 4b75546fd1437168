//! Rows of a result file, and the file.

use serde_json::{Value, json};
use theria_contract::DType;

use super::protocol::sizes;
use super::{Ceiling, Host, Measured, Shape, Task, Times, flops, units};
use crate::backend::Scores;

/// A rule on a shape: its measurement, or why there is none.
#[derive(Debug)]
pub struct Row {
    /// What was asked.
    pub task: Task,
    /// Of this shape.
    pub shape: Shape,
    /// What came of it; a refusal or a failure in words.
    pub outcome: Result<Measured, String>,
}

impl Row {
    /// TFLOP/s of the median.
    pub fn tflops(&self) -> Option<f64> {
        let times = self.outcome.as_ref().ok()?.times.as_ref()?;
        let operations = flops(&self.task.problem, units(self.task.rule, false));
        Some(operations / times.percentile(0.5) * 1e-6)
    }

    /// The share of a ceiling.
    pub fn fraction(&self, ceiling: Ceiling) -> Option<f64> {
        // The ceiling is a product of bf16 on a device, of f32 on the host.
        let like = match self.task.problem.dtype() {
            DType::Bf16 | DType::F16 => self.is_on_device(),
            DType::F32 => !self.is_on_device(),
            DType::F64 => false,
        };
        Some(self.tflops()? / ceiling.matmul_tflops.filter(|_| like)?)
    }

    fn is_on_device(&self) -> bool {
        self.task.backend.is_cuda()
    }

    /// Why there is no time, if there is none.
    pub fn error(&self) -> Option<String> {
        match &self.outcome {
            Err(error) => Some(error.clone()),
            Ok(measured) if !measured.checked.passed() => Some(format!(
                "the result is wrong: error {:.1e}, allowed {:.0e}",
                measured.checked.error, measured.checked.bound
            )),
            Ok(_) => None,
        }
    }

    /// Whether a result was judged and found wrong.
    pub fn is_wrong(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|measured| !measured.checked.passed())
    }

    /// Scratch beyond operands and results; unknown where scores are stored beside it.
    pub fn extra_bytes(&self) -> Option<usize> {
        let measured = self.outcome.as_ref().ok()?;
        (self.task.backend.scores() == Scores::Streamed).then_some(measured.workspace_bytes)
    }

    /// As in result files.
    pub fn json(&self) -> Value {
        let measured = self.outcome.as_ref().ok();
        let times = measured.and_then(|measured| measured.times.as_ref());
        let with_rest = measured.and_then(|measured| measured.with_rest.as_ref());
        let micros = |share: f64| times.map(|times| rounded(times.percentile(share), 2));
        let peers = measured.map(|measured| {
            let peers = measured.peers.iter().map(|peer| {
                let ratio = times.and_then(|times| peer.ratio(times));
                json!({
                    "name": peer.name,
                    "version": peer.version,
                    "p50_us": peer.micros.map(|micros| micros[0]),
                    "p90_us": peer.micros.map(|micros| micros[1]),
                    "p99_us": peer.micros.map(|micros| micros[2]),
                    "ratio": ratio.map(|ratio| rounded(ratio, 3)),
                    "method": peer.method,
                    "peak_extra_bytes": peer.peak_extra_bytes,
                    "error": peer.error,
                })
            });
            peers.collect::<Vec<_>>()
        });
        json!({
            "rule": self.task.rule.name(),
            "backend": self.task.backend.name(),
            "family": "into",
            "shape": sizes(&self.task.problem),
            "dtype": self.task.problem.dtype().name(),
            "mask": self.shape.mask(),
            "p50_us": micros(0.5),
            "p90_us": micros(0.9),
            "p99_us": micros(0.99),
            "p50_us_with_rest": with_rest.map(|times| rounded(times.percentile(0.5), 2)),
            "tflops": self.tflops().map(|tflops| rounded(tflops, 4)),
            "peak_extra_bytes": self.extra_bytes(),
            "method": times.map(|times| times.method.name()),
            "runs": times.map(Times::count),
            "sets": measured.map(|measured| measured.sets),
            "max_error": measured.map(|measured| number(measured.checked.error)),
            "bound": measured.map(|measured| measured.checked.bound),
            "error": self.error(),
            "peers": peers.unwrap_or_default(),
        })
    }
}

/// A result file.
pub fn file(host: &Host, ceiling: Ceiling, rows: &[Row]) -> Value {
    json!({
        "schema": 1,
        "host": host.json(),
        "ceiling": {"matmul_tflops": ceiling.matmul_tflops, "copy_gbps": ceiling.copy_gbps},
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    })
}

fn rounded(value: f64, digits: i32) -> f64 {
    let power = 10_f64.powi(digits);
    (value * power).round() / power
}

/// JSON has no infinity.
fn number(value: f64) -> Value {
    if value.is_finite() { value.into() } else { value.to_string().into() }
}
