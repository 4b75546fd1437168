//! What is asked of the process of peers, and what it answers: JSON, a line each way.

use serde_json::{Value, json};
use theria_contract::{Problem, Rule};

use super::{Shape, Times};

/// A question.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is measured.
    pub shape: Shape,
    /// The problem that it is.
    pub problem: Problem,
    /// Which rule of it.
    pub rule: Rule,
    /// `cuda` or `cpu`.
    pub device: &'static str,
    /// Runs that are timed.
    pub runs: usize,
    /// Seconds that the runs of one peer may take.
    pub seconds: f64,
    /// Of the operands.
    pub seed: u64,
}

impl Request {
    /// The line that is sent.
    pub fn json(&self) -> Value {
        json!({
            "rule": self.rule.name(),
            "shape": sizes(&self.problem),
            "dtype": self.problem.dtype().name(),
            "causal": self.shape.causal,
            "device": self.device,
            "runs": self.runs,
            "seconds": self.seconds,
            "seed": self.seed,
        })
    }
}

/// Sizes as result files have them.
pub(super) fn sizes(problem: &Problem) -> Value {
    let s = problem.shape();
    json!({
        "batch": s.batch, "heads_q": s.heads_q, "heads_kv": s.heads_kv,
        "t": s.t, "m": s.m, "d": s.d, "dv": s.dv,
    })
}

/// What a peer did, or why it could not.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// The version of its library.
    pub version: Option<String>,
    /// Percentiles in microseconds: p50, p90, p99.
    pub micros: Option<[f64; 3]>,
    /// How times were taken.
    pub method: Option<String>,
    /// Bytes that it held beyond operands and results.
    pub peak_extra_bytes: Option<u64>,
    /// Why there is no time.
    pub error: Option<String>,
}

impl Peer {
    /// One that did nothing.
    pub fn failed(name: &str, error: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            version: None,
            micros: None,
            method: None,
            peak_extra_bytes: None,
            error: Some(error.into()),
        }
    }

    /// Those of an answer. One that is no answer is an error of all of them.
    pub fn of_answer(answer: &Value) -> Vec<Self> {
        if let Some(error) = answer["error"].as_str() {
            return vec![Self::failed("pytorch", error)];
        }
        match answer["peers"].as_array() {
            Some(peers) => peers.iter().map(Self::of_json).collect(),
            None => vec![Self::failed("pytorch", format!("the answer has no peers: {answer}"))],
        }
    }

    fn of_json(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let number = |key: &str| value[key].as_f64().filter(|number| *number > 0.0);
        let name = text("name").unwrap_or_else(|| "unnamed".to_owned());
        let micros = match [number("p50_us"), number("p90_us"), number("p99_us")] {
            [Some(p50), Some(p90), Some(p99)] => Some([p50, p90, p99]),
            _ => None,
        };
        let silent = || micros.is_none().then(|| "it gave neither a time nor a reason".to_owned());
        Self {
            name,
            version: text("version"),
            micros,
            method: text("method"),
            peak_extra_bytes: value["peak_extra_bytes"].as_u64(),
            error: text("error").or_else(silent),
        }
    }

    /// The peer's median over theria's: above 1 theria is faster.
    pub fn ratio(&self, times: &Times) -> Option<f64> {
        Some(self.micros?[0] / times.percentile(0.5)).filter(|ratio| ratio.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Method;
    use super::*;

    #[test]
    fn a_peer_has_a_time_or_an_error_whatever_the_answer_is() {
        let full = json!({"peers": [
            {"name": "cudnn", "version": "9", "p50_us": 20.0, "p90_us": 21.0, "p99_us": 30.5,
             "method": "events", "peak_extra_bytes": 7, "error": null},
            {"name": "flash", "error": "no kernel"},
            {"name": "odd", "p50_us": 0.0},
        ]});
        let peers = Peer::of_answer(&full);
        assert_eq!((peers[0].micros, &peers[0].error), (Some([20.0, 21.0, 30.5]), &None));
        let times = Times::new(Method::Events, &[Duration::from_micros(10)]);
        assert!((peers[0].ratio(&times).unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(peers[1].error.as_deref(), Some("no kernel"));
        assert!(peers[1].ratio(&times).is_none() && peers[2].error.is_some());
        for answer in [json!({"error": "no torch"}), json!({}), json!([1]), json!({"peers": "none"})] {
            let peers = Peer::of_answer(&answer);
            assert!(peers.len() == 1 && peers[0].error.is_some() && peers[0].micros.is_none(), "{answer}");
        }
    }
}
