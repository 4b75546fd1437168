//! `phases.toml`: what each phase is, what speaks for it, and where it stands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use toml_edit::{DocumentMut, Table, value};

use crate::sources::{has_extension, write_file};

const FILE: &str = "phases.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    phase: Vec<Phase>,
}

/// One entry of `phases.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    pub(crate) number: u32,
    pub(crate) title: String,
    pub(crate) crates: Vec<String>,
    #[serde(default)]
    pub(crate) suites: Vec<Suite>,
    #[serde(default)]
    pub(crate) sources: Vec<String>,
    /// File names under `docs/results/`, written by the suites wherever they run.
    #[serde(default)]
    pub(crate) evidence: Vec<String>,
    /// The same of suites that need a device: brought from there and bound to the kernels.
    #[serde(default)]
    pub(crate) device_evidence: Vec<String>,
    pub(crate) state: State,
    /// Why an open phase was unsealed.
    pub(crate) reason: Option<String>,
    pub(crate) sealed: Option<String>,
    pub(crate) source_hash: Option<String>,
    pub(crate) evidence_hash: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Nothing to check yet.
    Planned,
    /// Work is under way; nothing is promised.
    Open,
    /// Evidence is recorded and bound to the sources.
    Sealed,
}

/// Tests that speak for a phase: one test target of a package, or all its tests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    pub(crate) package: String,
    /// `*`, the default, means every test of the package, doctests included.
    #[serde(default = "every_test")]
    pub(crate) test: String,
}

fn every_test() -> String {
    "*".to_owned()
}

/// What a seal binds together.
pub(crate) struct Seal<'a> {
    pub(crate) source_hash: &'a str,
    pub(crate) evidence_hash: &'a str,
    pub(crate) date: &'a str,
}

/// The folder of recorded evidence.
pub(crate) fn results(root: &Path) -> PathBuf {
    root.join("docs").join("results")
}

impl Phase {
    /// Every evidence file, those of a device last.
    pub(crate) fn all_evidence(&self) -> impl Iterator<Item = &String> {
        self.evidence.iter().chain(&self.device_evidence)
    }

    /// Where the hash of each sealed source is kept.
    pub(crate) fn sources_record(&self, root: &Path) -> PathBuf {
        results(root).join(format!("phase{}.sources.json", self.number))
    }

    /// The hashes of a sealed phase.
    pub(crate) fn seal(&self) -> Result<Seal<'_>> {
        match (&self.source_hash, &self.evidence_hash, &self.sealed) {
            (Some(source_hash), Some(evidence_hash), Some(date)) => {
                Ok(Seal { source_hash, evidence_hash, date })
            }
            _ => bail!(
                "phase {} is sealed but lacks source_hash, evidence_hash or sealed: run `cargo xtask seal {}`",
                self.number,
                self.number
            ),
        }
    }
}

/// All phases, in order.
pub(crate) fn read(root: &Path) -> Result<Vec<Phase>> {
    parse(&read_text(root)?)
}

/// The phase of that number.
pub(crate) fn read_one(root: &Path, number: u32) -> Result<Phase> {
    let phases = read(root)?;
    let last = phases.last().map_or(0, |phase| phase.number);
    phases
        .into_iter()
        .find(|phase| phase.number == number)
        .with_context(|| format!("there is no phase {number}: {FILE} has phases up to {last}"))
}

fn read_text(root: &Path) -> Result<String> {
    fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read {FILE} in {}", root.display()))
}

fn parse(text: &str) -> Result<Vec<Phase>> {
    let document: Document = toml_edit::de::from_str(text).with_context(|| format!("{FILE} is not valid"))?;
    let ordered = document.phase.windows(2).all(|pair| pair[0].number < pair[1].number);
    ensure!(ordered, "{FILE}: phases must be listed once each, in ascending order");
    for phase in &document.phase {
        if phase.state == State::Sealed {
            phase.seal()?;
        }
        let mut names: Vec<&String> = phase.all_evidence().collect();
        names.sort_unstable();
        ensure!(
            names.windows(2).all(|pair| pair[0] != pair[1]),
            "{FILE}: phase {} names a file of evidence twice; it is made here or on a device",
            phase.number
        );
        for name in names {
            ensure!(
                !name.contains(['/', '\\']) && has_extension(name, "json"),
                "{FILE}: evidence `{name}` of phase {} must be the name of a .json file under docs/results/",
                phase.number
            );
        }
    }
    Ok(document.phase)
}

/// Records a seal, keeping the file's comments and order.
pub(crate) fn record_seal(root: &Path, number: u32, seal: &Seal<'_>) -> Result<()> {
    edit(root, number, |phase| {
        phase.remove("reason");
        phase["state"] = value("sealed");
        phase["sealed"] = value(seal.date);
        phase["source_hash"] = value(seal.source_hash);
        phase["evidence_hash"] = value(seal.evidence_hash);
    })
}

/// Reopens a phase for a reason, keeping the file's comments and order.
pub(crate) fn record_open(root: &Path, number: u32, reason: &str) -> Result<()> {
    edit(root, number, |phase| {
        for key in ["sealed", "source_hash", "evidence_hash"] {
            phase.remove(key);
        }
        phase["state"] = value("open");
        phase["reason"] = value(reason);
    })
}

fn edit(root: &Path, number: u32, change: impl FnOnce(&mut Table)) -> Result<()> {
    let text = edited(&read_text(root)?, number, change)?;
    write_file(&root.join(FILE), &text)
}

fn edited(text: &str, number: u32, change: impl FnOnce(&mut Table)) -> Result<String> {
    let mut document: DocumentMut = text.parse().with_context(|| format!("{FILE} is not TOML"))?;
    let phases = document.get_mut("phase").and_then(|item| item.as_array_of_tables_mut());
    let phase = phases
        .and_then(|phases| {
            phases.iter_mut().find(|phase| {
                phase.get("number").and_then(toml_edit::Item::as_integer) == Some(i64::from(number))
            })
        })
        .with_context(|| format!("{FILE} has no [[phase]] with number = {number}"))?;
    change(phase);
    let text = document.to_string();
    // A task must not leave a file behind that the next task cannot read.
    parse(&text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"# What the keys mean.
[[phase]]
number = 0 # the first
title = "The contract"
crates = ["theria-contract"]
suites = [{ package = "theria-contract" }]
sources = ["crates/contract"]
evidence = ["phase0.json"]
state = "open"
reason = "in the making"

# About the next.
[[phase]]
number = 1
title = "CPU reference"
crates = []
state = "planned"
"#;

    #[test]
    fn the_phases_of_the_project_are_listed_from_0_to_15() -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let numbers: Vec<u32> = read(&root)?.iter().map(|phase| phase.number).collect();
        assert_eq!(numbers, (0..=15).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn sealing_and_reopening_keep_comments_and_the_rest_of_the_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        write_file(&root.join(FILE), TWO)?;
        record_seal(root, 0, &Seal { source_hash: "aa", evidence_hash: "bb", date: "2026-11-21" })?;
        let sealed = read_one(root, 0)?;
        assert_eq!((sealed.state, sealed.reason.as_deref()), (State::Sealed, None));
        assert_eq!(sealed.seal()?.source_hash, "aa");
        let text = read_text(root)?;
        for kept in ["# What the keys mean.\n", "number = 0 # the first\n", "\n\n# About the next.\n"] {
            assert!(text.contains(kept), "lost {kept:?} in:\n{text}");
        }
        record_open(root, 0, "in the making")?;
        assert_eq!(read_text(root)?, TWO, "a seal taken back leaves no trace");
        Ok(())
    }

    #[test]
    fn a_suite_without_a_test_means_every_test() -> Result<()> {
        assert_eq!(parse(TWO)?[0].suites[0].test, "*");
        Ok(())
    }

    #[test]
    fn wrong_files_are_refused() {
        for (what, wrong) in [
            ("an unknown key", TWO.replace("reason", "reson")),
            ("an unknown state", TWO.replace("\"open\"", "\"ajar\"")),
            ("a number twice", TWO.replace("number = 1", "number = 0")),
            ("sealed without hashes", TWO.replace("\"open\"", "\"sealed\"")),
            (
                "evidence of two origins",
                TWO.replace("state = \"open\"", "device_evidence = [\"phase0.json\"]\nstate = \"open\""),
            ),
            (
                "evidence of a device elsewhere",
                TWO.replace("state = \"open\"", "device_evidence = [\"/a.json\"]\nstate = \"open\""),
            ),
            ("evidence elsewhere", TWO.replace("phase0.json", "../phase0.json")),
        ] {
            assert!(parse(&wrong).is_err(), "{what}");
        }
        assert!(parse(TWO).is_ok());
    }

    #[test]
    fn a_phase_that_is_not_listed_cannot_be_edited() {
        assert!(edited(TWO, 7, |_| {}).is_err());
    }
}
