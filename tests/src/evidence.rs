//! Evidence: what a suite found, written where `cargo xtask seal` asks for it.
//!
//! Under plain `cargo test` nothing is written. Sealing sets `THERIA_EVIDENCE_DIR`, and the suite
//! leaves one JSON file there, with the hash of the sources that it speaks for.

use std::path::PathBuf;

use serde_json::{Value, json};
use theria_contract::conformance::{Outcome, Report, Verdict};

/// One row: what was judged, how far off it was, and how far it may be.
#[derive(Clone, Debug)]
pub struct Row {
    /// The case.
    pub name: String,
    /// The rule.
    pub rule: String,
    /// The backend.
    pub backend: String,
    /// Its element type.
    pub dtype: String,
    /// The error found.
    pub error: f64,
    /// The largest error allowed.
    pub bound: f64,
    /// `passed`, `failed` or `refused`.
    pub verdict: &'static str,
    /// Why it was refused or failed.
    pub reason: String,
}

impl Row {
    /// A row of measured error: passed when it is within the bound.
    pub fn measured(
        name: impl Into<String>,
        rule: &str,
        backend: &str,
        dtype: &str,
        error: f64,
        bound: f64,
    ) -> Self {
        Self {
            name: name.into(),
            rule: rule.into(),
            backend: backend.into(),
            dtype: dtype.into(),
            error,
            bound,
            verdict: if error <= bound { "passed" } else { "failed" },
            reason: String::new(),
        }
    }

    /// A row of a statement that holds or does not: its error is 0 or 1, and nothing is allowed.
    pub fn statement(
        name: impl Into<String>,
        rule: &str,
        backend: &str,
        dtype: &str,
        holds: bool,
        found: impl Into<String>,
    ) -> Self {
        let error = if holds { 0.0 } else { 1.0 };
        Self { reason: found.into(), ..Self::measured(name, rule, backend, dtype, error, 0.0) }
    }

    /// A row of a call that was refused, as it had to be.
    pub fn refused(
        name: impl Into<String>,
        rule: &str,
        backend: &str,
        dtype: &str,
        reason: impl Into<String>,
    ) -> Self {
        let row = Self::measured(name, rule, backend, dtype, 0.0, 0.0);
        Self { verdict: "refused", reason: reason.into(), ..row }
    }

    /// The row of something that went wrong without a number.
    pub fn failed(
        name: impl Into<String>,
        rule: &str,
        backend: &str,
        dtype: &str,
        reason: impl Into<String>,
    ) -> Self {
        let row = Self::measured(name, rule, backend, dtype, f64::INFINITY, 0.0);
        Self { reason: reason.into(), ..row }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "rule": self.rule, "backend": self.backend, "dtype": self.dtype,
            "error": self.error, "bound": self.bound, "verdict": self.verdict, "reason": self.reason,
        })
    }
}

/// One row for each case, rule and type of a conformance report: its worst output.
pub fn rows_of(report: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for outcome in &report.outcomes {
        let row = row_of(outcome);
        let same = |other: &&mut Row| {
            (&other.name, &other.rule, &other.backend, &other.dtype)
                == (&row.name, &row.rule, &row.backend, &row.dtype)
        };
        match rows.last_mut().filter(same) {
            Some(last) if row.error > last.error || row.verdict == "failed" => *last = row,
            Some(_) => {}
            None => rows.push(row),
        }
    }
    rows
}

/// Every failed row, in words.
pub fn failures(rows: &[Row]) -> Vec<String> {
    let failed = rows.iter().filter(|row| row.verdict == "failed");
    failed
        .map(|Row { name, rule, backend, dtype, error, bound, reason, .. }| {
            format!("{backend} {dtype} {rule} {name}: {error:.2e} > {bound:.0e} {reason}")
        })
        .collect()
}

/// Panics with every failed row, or when there are fewer rows than there must be.
///
/// # Panics
/// If a row failed, or some are missing.
#[track_caller]
pub fn assert_passed(rows: &[Row], at_least: usize) {
    let failed = failures(rows);
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
    assert!(rows.len() >= at_least, "only {} rows, not {at_least}: something was not judged", rows.len());
}

fn row_of(outcome: &Outcome) -> Row {
    // Of a row that failed one wants to know which output it was, and of which form of the call.
    let reason = match outcome.output {
        Some(output) if outcome.verdict == Verdict::Failed => {
            format!("{}, {}: {}", output.name(), outcome.form.name, outcome.reason)
        }
        _ => outcome.reason.clone(),
    };
    Row {
        name: format!("conformance: {}", outcome.case),
        rule: outcome.rule.name().into(),
        backend: outcome.backend.into(),
        dtype: outcome.dtype.name().into(),
        error: outcome.error,
        bound: outcome.bound,
        verdict: outcome.verdict.name(),
        reason,
    }
}

/// Where a suite ran.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The name of the file.
    pub file: String,
    /// `host` of the file.
    pub host: Value,
    /// What binds it to its sources: `source_hash` or `kernel_source_hash`.
    pub hash: (&'static str, String),
}

/// What every host says of itself.
fn processor() -> Value {
    json!({
        "device": "cpu",
        "driver": Value::Null,
        "cuda": Value::Null,
        "cpu": format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "git": variable("THERIA_GIT_REVISION"),
        "clocks": Value::Null,
    })
}

impl Ran {
    /// On the processor.
    fn here(phase: u32) -> Self {
        let hash = ("source_hash", variable("THERIA_SOURCE_HASH"));
        Self { file: format!("phase{phase}.json"), host: processor(), hash }
    }

    /// On a device: what it is called, and its driver, CUDA version and clocks.
    pub fn on_device(phase: u32, kernels: String, facts: [(&str, Value); 4]) -> Self {
        let mut host = processor();
        for (key, fact) in facts {
            host[key] = fact;
        }
        Self { file: format!("phase{phase}_cuda.json"), host, hash: ("kernel_source_hash", kernels) }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Writes `phaseN.json` if a seal asked for evidence.
///
/// # Panics
/// If it was asked for and cannot be written, or there are no rows.
pub fn write(phase: u32, rows: &[Row]) {
    write_as(phase, rows, &Ran::here(phase));
}

/// Writes the evidence of a suite that ran there, if it was asked for.
///
/// # Panics
/// If it was asked for and cannot be written, or there are no rows.
pub fn write_as(phase: u32, rows: &[Row], ran: &Ran) {
    let Some(folder) = std::env::var_os("THERIA_EVIDENCE_DIR").map(PathBuf::from) else { return };
    assert!(!rows.is_empty(), "phase {phase} has no rows to give as evidence");
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let summary =
        json!({ "passed": count("passed"), "failed": count("failed"), "refused": count("refused") });
    // One row a line: a change of one number is a change of one line.
    let lines: Vec<String> = rows.iter().map(|row| format!("    {}", row.json())).collect();
    let (key, hash) = &ran.hash;
    let text = format!(
        "{{\n  \"schema\": 1,\n  \"phase\": {phase},\n  \"host\": {},\n  \"{key}\": {},\n  \"cases\": [\n{}\n  ],\n  \"summary\": {summary}\n}}\n",
        ran.host,
        json!(hash),
        lines.join(",\n"),
    );
    let path = folder.join(&ran.file);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
