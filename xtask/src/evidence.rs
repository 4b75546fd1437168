//! The judge of evidence files. Sealing and checking both ask it, so that what was good enough to
//! seal is exactly what stays good enough.
//!
//! Evidence is bound to what it was made from ([`Origin`]): that of a suite that runs here to the
//! phase's sources, that of a device to the kernels which the device ran.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Layout of evidence files this judge reads.
const SCHEMA: u32 = 1;

#[derive(Deserialize)]
struct Evidence {
    schema: u32,
    phase: u32,
    host: Map<String, Value>,
    source_hash: Option<String>,
    kernel_source_hash: Option<String>,
    cases: Vec<Case>,
    summary: Summary,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    rule: String,
    backend: String,
    dtype: String,
    // JSON has no NaN: writers put null, which a passed case must not have.
    error: Option<f64>,
    bound: Option<f64>,
    verdict: Verdict,
    reason: Option<String>,
}

impl Case {
    fn title(&self) -> String {
        format!("{} ({}, {}, {})", self.name, self.rule, self.backend, self.dtype)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Passed,
    Failed,
    Refused,
}

/// What evidence must have been made from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// The sources of its phase, by their hash.
    Sources(&'a str),
    /// The kernels of the tree, by their hash, on a device.
    Kernels(&'a str),
}

/// What evidence of a device names of its host, and what each is.
const DEVICE_HOST: [(&str, &str); 3] = [("device", "device"), ("driver", "driver"), ("git", "revision")];

/// How many cases ended which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Summary {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) refused: usize,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} refused", self.passed, self.failed, self.refused)
    }
}

/// Why a file is no evidence.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("it cannot be read as evidence: {0}")]
    Unreadable(String),
    #[error("its schema is {given}, this judge reads {SCHEMA}")]
    Schema { given: u32 },
    #[error("it speaks for phase {given}, not for phase {expected}")]
    Phase { given: u32, expected: u32 },
    #[error("it was made from other sources: its source_hash is {given}, expected {expected}")]
    Source { given: String, expected: String },
    #[error("it was made with other kernels: its kernel_source_hash is {given}, the tree has {expected}")]
    Kernels { given: String, expected: String },
    #[error("it names no {what}: host.{key} is {given}")]
    Nameless { key: &'static str, what: &'static str, given: String },
    #[error("its host is empty: evidence says where it was made")]
    NoHost,
    #[error("it has no cases")]
    NoCases,
    #[error("none of its cases passed")]
    NothingPassed,
    #[error("case {case} failed")]
    Failed { case: String },
    #[error(
        "case {case} passed with error {error:?} and bound {bound:?}: both must be finite and not negative"
    )]
    NotANumber { case: String, error: Option<f64>, bound: Option<f64> },
    #[error("case {case} passed with error {error:e} above its bound {bound:e}")]
    AboveBound { case: String, error: f64, bound: f64 },
    #[error("case {case} was refused without a reason")]
    Unreasoned { case: String },
    #[error("its summary says {given}, its rows say {counted}")]
    Summary { given: Summary, counted: Summary },
}

/// Judges the text of one evidence file for a phase and what it must have been made from.
pub(crate) fn verify(text: &str, phase: u32, origin: Origin<'_>) -> Result<Summary, Vec<Flaw>> {
    let evidence: Evidence =
        serde_json::from_str(text).map_err(|error| vec![Flaw::Unreadable(error.to_string())])?;
    let mut flaws = Vec::new();
    let mut require = |holds: bool, flaw: Flaw| {
        if !holds {
            flaws.push(flaw);
        }
    };
    require(evidence.schema == SCHEMA, Flaw::Schema { given: evidence.schema });
    require(evidence.phase == phase, Flaw::Phase { given: evidence.phase, expected: phase });
    require(!evidence.host.is_empty(), Flaw::NoHost);

    let counted = count(&evidence.cases);
    require(!evidence.cases.is_empty(), Flaw::NoCases);
    require(evidence.cases.is_empty() || counted.passed > 0, Flaw::NothingPassed);
    require(evidence.summary == counted, Flaw::Summary { given: evidence.summary, counted });
    flaws.extend(flaws_of_origin(&evidence, origin));
    flaws.extend(evidence.cases.iter().filter_map(flaw_of));

    if flaws.is_empty() { Ok(counted) } else { Err(flaws) }
}

fn flaws_of_origin(evidence: &Evidence, origin: Origin<'_>) -> Vec<Flaw> {
    let given = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "missing".to_owned());
    let mut flaws = Vec::new();
    match origin {
        Origin::Sources(hash) => {
            if evidence.source_hash.as_deref() != Some(hash) {
                flaws.push(Flaw::Source { given: given(&evidence.source_hash), expected: hash.to_owned() });
            }
        }
        Origin::Kernels(hash) => {
            if evidence.kernel_source_hash.as_deref() != Some(hash) {
                let (given, expected) = (given(&evidence.kernel_source_hash), hash.to_owned());
                flaws.push(Flaw::Kernels { given, expected });
            }
            let unnamed = DEVICE_HOST.into_iter().filter(|(key, _)| !names_something(&evidence.host, key));
            flaws.extend(unnamed.map(|(key, what)| {
                let given = evidence.host.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
                Flaw::Nameless { key, what, given }
            }));
        }
    }
    flaws
}

/// Whether a key of the host says anything. Suites write "cpu" where they used no device.
fn names_something(host: &Map<String, Value>, key: &str) -> bool {
    match host.get(key) {
        Some(Value::String(name)) => !matches!(name.trim(), "" | "cpu"),
        Some(Value::Number(_)) => key == "driver",
        _ => false,
    }
}

fn count(cases: &[Case]) -> Summary {
    let of = |verdict| cases.iter().filter(|case| case.verdict == verdict).count();
    Summary { passed: of(Verdict::Passed), failed: of(Verdict::Failed), refused: of(Verdict::Refused) }
}

fn flaw_of(case: &Case) -> Option<Flaw> {
    match case.verdict {
        Verdict::Failed => Some(Flaw::Failed { case: case.title() }),
        Verdict::Refused => {
            let reasoned = case.reason.as_ref().is_some_and(|reason| !reason.trim().is_empty());
            (!reasoned).then(|| Flaw::Unreasoned { case: case.title() })
        }
        Verdict::Passed => {
            let sound = |number: &f64| number.is_finite() && *number >= 0.0;
            match (case.error.filter(sound), case.bound.filter(sound)) {
                (Some(error), Some(bound)) => {
                    (error > bound).then(|| Flaw::AboveBound { case: case.title(), error, bound })
                }
                _ => Some(Flaw::NotANumber { case: case.title(), error: case.error, bound: case.bound }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HASH: &str = "5ea1";

    fn honest() -> Value {
        json!({
            "schema": 1,
            "phase": 3,
            "host": { "cpu": "any" },
            "source_hash": HASH,
            "cases": [
                { "name": "causal", "rule": "forward", "backend": "dense", "dtype": "f64",
                  "error": 1e-15, "bound": 1e-12, "verdict": "passed", "reason": null },
                { "name": "ragged", "rule": "jvp", "backend": "dense", "dtype": "f64",
                  "error": 0.0, "bound": 0.0, "verdict": "passed" },
                { "name": "dropout", "rule": "jvp", "backend": "dense", "dtype": "f64",
                  "error": null, "bound": null, "verdict": "refused", "reason": "no dropout here" },
            ],
            "summary": { "passed": 2, "failed": 0, "refused": 1 },
        })
    }

    /// Judges the honest file after one change.
    fn judge(change: impl FnOnce(&mut Value)) -> Result<Summary, Vec<Flaw>> {
        let mut evidence = honest();
        change(&mut evidence);
        verify(&evidence.to_string(), 3, Origin::Sources(HASH))
    }

    fn flaws(change: impl FnOnce(&mut Value)) -> Vec<Flaw> {
        judge(change).expect_err("tampered evidence passed")
    }

    #[test]
    fn honest_evidence_passes() {
        assert_eq!(judge(|_| {}), Ok(Summary { passed: 2, failed: 0, refused: 1 }));
    }

    #[test]
    fn evidence_for_another_phase_or_other_sources_is_caught() {
        assert!(matches!(flaws(|e| e["phase"] = 2.into())[..], [Flaw::Phase { given: 2, expected: 3 }]));
        assert!(matches!(flaws(|e| e["source_hash"] = "0ld".into())[..], [Flaw::Source { .. }]));
        let unbound = flaws(|e| drop(e.as_object_mut().map(|file| file.remove("source_hash"))));
        assert!(matches!(unbound[..], [Flaw::Source { .. }]), "{unbound:?}");
        assert!(matches!(flaws(|e| e["schema"] = 2.into())[..], [Flaw::Schema { given: 2 }]));
        assert!(matches!(flaws(|e| e["host"] = json!({}))[..], [Flaw::NoHost]));
    }

    #[test]
    fn a_failed_case_is_caught_even_when_the_summary_hides_it() {
        let found = flaws(|e| e["cases"][0]["verdict"] = "failed".into());
        assert!(found.iter().any(|flaw| matches!(flaw, Flaw::Failed { .. })), "{found:?}");
        assert!(found.iter().any(|flaw| matches!(flaw, Flaw::Summary { .. })), "{found:?}");
        let found = flaws(|e| {
            e["cases"][0]["verdict"] = "failed".into();
            e["summary"] = json!({ "passed": 1, "failed": 1, "refused": 1 });
        });
        assert!(matches!(found[..], [Flaw::Failed { .. }]), "{found:?}");
    }

    #[test]
    fn a_summary_that_disagrees_with_the_rows_is_caught() {
        for (key, value) in [("passed", 3), ("failed", 1), ("refused", 0)] {
            assert!(
                matches!(flaws(|e| e["summary"][key] = value.into())[..], [Flaw::Summary { .. }]),
                "{key}"
            );
        }
        let dropped = flaws(|e| e["cases"] = json!([e["cases"][0]]));
        assert!(matches!(dropped[..], [Flaw::Summary { .. }]), "{dropped:?}");
    }

    #[test]
    fn empty_evidence_and_evidence_that_only_refuses_are_caught() {
        let empty = flaws(|e| {
            e["cases"] = json!([]);
            e["summary"] = json!({ "passed": 0, "failed": 0, "refused": 0 });
        });
        assert!(matches!(empty[..], [Flaw::NoCases]), "{empty:?}");
        let refusing = flaws(|e| {
            e["cases"] = json!([e["cases"][2]]);
            e["summary"] = json!({ "passed": 0, "failed": 0, "refused": 1 });
        });
        assert!(matches!(refusing[..], [Flaw::NothingPassed]), "{refusing:?}");
    }

    #[test]
    fn a_pass_above_its_bound_is_caught() {
        assert!(matches!(flaws(|e| e["cases"][0]["error"] = 2e-12.into())[..], [Flaw::AboveBound { .. }]));
        assert!(matches!(flaws(|e| e["cases"][0]["bound"] = 1e-16.into())[..], [Flaw::AboveBound { .. }]));
    }

    #[test]
    fn a_pass_without_finite_numbers_is_caught() {
        for key in ["error", "bound"] {
            for value in [Value::Null, (-1.0).into()] {
                let found = flaws(|e| e["cases"][0][key] = value);
                assert!(matches!(found[..], [Flaw::NotANumber { .. }]), "{key}: {found:?}");
            }
        }
        let missing = flaws(|e| drop(e["cases"][0].as_object_mut().map(|case| case.remove("error"))));
        assert!(matches!(missing[..], [Flaw::NotANumber { .. }]), "{missing:?}");
        let infinite = honest().to_string().replace("1e-15", "1e999");
        assert!(matches!(
            verify(&infinite, 3, Origin::Sources(HASH)).expect_err("infinite")[..],
            [Flaw::Unreadable(_)]
        ));
    }

    #[test]
    fn a_refusal_without_a_reason_is_caught() {
        for reason in [Value::Null, " ".into()] {
            assert!(matches!(flaws(|e| e["cases"][2]["reason"] = reason)[..], [Flaw::Unreasoned { .. }]));
        }
    }

    #[test]
    fn unknown_verdicts_and_missing_keys_are_caught() {
        assert!(matches!(flaws(|e| e["cases"][0]["verdict"] = "skipped".into())[..], [Flaw::Unreadable(_)]));
        let without_host = flaws(|e| drop(e.as_object_mut().map(|file| file.remove("host"))));
        assert!(matches!(without_host[..], [Flaw::Unreadable(_)]));
        assert!(matches!(
            verify("", 3, Origin::Sources(HASH)).expect_err("empty file")[..],
            [Flaw::Unreadable(_)]
        ));
    }

    /// Judges evidence of a device after one change.
    fn device_flaws(change: impl FnOnce(&mut Value)) -> Vec<Flaw> {
        let mut evidence = honest();
        evidence["host"] = json!({ "device": "NVIDIA H200", "driver": "580.159", "git": "4a15f9c" });
        evidence["kernel_source_hash"] = HASH.into();
        drop(evidence.as_object_mut().map(|file| file.remove("source_hash")));
        change(&mut evidence);
        verify(&evidence.to_string(), 3, Origin::Kernels(HASH)).err().unwrap_or_default()
    }

    #[test]
    fn evidence_of_a_device_is_bound_to_the_kernels_that_it_ran() {
        assert_eq!(device_flaws(|_| {}), []);
        assert_eq!(device_flaws(|e| e["source_hash"] = "any".into()), [], "sources are bound by the seal");
        let other = device_flaws(|e| e["kernel_source_hash"] = "0ld".into());
        assert!(matches!(other[..], [Flaw::Kernels { .. }]), "{other:?}");
        let none = device_flaws(|e| e["kernel_source_hash"] = Value::Null);
        assert!(matches!(none[..], [Flaw::Kernels { .. }]), "{none:?}");
        let of_sources = flaws(|e| {
            e["kernel_source_hash"] = HASH.into();
            e["source_hash"] = "0ld".into();
        });
        assert!(matches!(of_sources[..], [Flaw::Source { .. }]), "one hash does not stand for the other");
    }

    #[test]
    fn evidence_of_a_device_names_device_driver_and_revision() {
        for wanted in ["device", "driver", "git"] {
            for empty in [Value::Null, "".into(), " ".into(), "cpu".into()] {
                let found = device_flaws(|e| e["host"][wanted] = empty);
                assert!(
                    matches!(found[..], [Flaw::Nameless { key, .. }] if key == wanted),
                    "{wanted}: {found:?}"
                );
            }
            let missing = device_flaws(|e| drop(e["host"].as_object_mut().map(|host| host.remove(wanted))));
            assert!(matches!(missing[..], [Flaw::Nameless { .. }]), "{wanted}: {missing:?}");
        }
        assert_eq!(device_flaws(|e| e["host"]["driver"] = 13_000.into()), [], "a version may be a number");
    }

    #[test]
    fn the_cases_of_a_device_are_judged_like_all_others() {
        let edited = device_flaws(|e| e["cases"][0]["verdict"] = "failed".into());
        assert!(edited.iter().any(|flaw| matches!(flaw, Flaw::Failed { .. })), "{edited:?}");
        let above = device_flaws(|e| e["cases"][0]["error"] = 1.0.into());
        assert!(matches!(above[..], [Flaw::AboveBound { .. }]), "{above:?}");
    }
}
