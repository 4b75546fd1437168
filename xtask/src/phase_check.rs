//! Checks that what sealed phases promise still holds: the sources are the ones the evidence was
//! made from, the evidence is untouched and good, and the suites pass.

use std::path::Path;

use anyhow::{Result, bail};

use crate::phases::{self, Phase, State};
use crate::seal::{evidence_hash, read_evidence};
use crate::sources::Sources;
use crate::suites;

/// Checks one phase or all, and fails with every problem found.
pub(crate) fn check(root: &Path, only: Option<u32>, run_suites: bool) -> Result<()> {
    let phases = match only {
        Some(number) => vec![phases::read_one(root, number)?],
        None => phases::read(root)?,
    };
    let mut problems = Vec::new();
    for phase in &phases {
        announce(phase);
        if phase.state != State::Sealed {
            continue;
        }
        let mut found = check_seal(root, phase)?;
        if found.is_empty() && run_suites {
            found.extend(check_suites(root, phase));
        }
        problems.extend(found.into_iter().map(|problem| format!("phase {}: {problem}", phase.number)));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "seals do not hold:\n  {}\nRestore what changed, or `cargo xtask seal N` when the change is meant \
         (`cargo xtask unseal N \"why\"` while work is under way)",
        problems.join("\n  ")
    );
}

fn announce(phase: &Phase) {
    let (state, note) = match phase.state {
        State::Planned => ("planned", String::new()),
        State::Sealed => ("sealed", String::new()),
        State::Open => {
            let reason = phase.reason.as_deref().unwrap_or("it has not been sealed yet");
            ("OPEN", format!(" -- NOT SEALED, nothing is promised: {reason}"))
        }
    };
    println!("phase {:>2}  {state:<7}  {}{note}", phase.number, phase.title);
}

/// Everything that can be checked without running anything.
fn check_seal(root: &Path, phase: &Phase) -> Result<Vec<String>> {
    let seal = phase.seal()?;
    let mut problems = Vec::new();
    match Sources::collect(root, &phase.sources) {
        Err(error) => problems.push(format!("{error:#}")),
        Ok(current) if current.digest() != seal.source_hash => {
            problems.push(describe_change(root, phase, &current, seal.source_hash));
        }
        Ok(_) => problems.extend(record_problem(root, phase, seal.source_hash)),
    }
    match read_evidence(root, &phases::results(root), phase, seal.source_hash) {
        Err(flaws) => problems.extend(flaws),
        Ok(files) if evidence_hash(&files) != seal.evidence_hash => problems.push(format!(
            "docs/results/{} is not the evidence that was sealed on {}",
            phase.all_evidence().map(String::as_str).collect::<Vec<_>>().join(", docs/results/"),
            seal.date
        )),
        Ok(_) => {}
    }
    if let Err(error) = suites::require(root, phase) {
        problems.push(format!("{error:#}"));
    }
    Ok(problems)
}

fn describe_change(root: &Path, phase: &Phase, current: &Sources, sealed_hash: &str) -> String {
    let stale = "its sources changed since its evidence was made";
    match Sources::read(&phase.sources_record(root)) {
        Ok(sealed) if sealed.digest() == sealed_hash => {
            format!("{stale}: {}", current.changes_since(&sealed).join(", "))
        }
        Ok(_) => format!("{stale}, and its list of hashes is not the one that was sealed"),
        Err(error) => format!("{stale}; which ones is not known: {error:#}"),
    }
}

/// The list of hashes must stay good while the seal is fresh, or it cannot explain a stale one.
fn record_problem(root: &Path, phase: &Phase, sealed_hash: &str) -> Option<String> {
    match Sources::read(&phase.sources_record(root)) {
        Ok(sealed) if sealed.digest() == sealed_hash => None,
        Ok(_) => {
            Some(format!("docs/results/phase{}.sources.json is not the list that was sealed", phase.number))
        }
        Err(error) => Some(format!("{error:#}")),
    }
}

fn check_suites(root: &Path, phase: &Phase) -> Option<String> {
    match suites::run(root, phase, &[]) {
        Err(error) => Some(format!("{error:#}")),
        Ok(counts) if counts.passed + counts.ignored == 0 => Some("no test ran".to_owned()),
        Ok(counts) => {
            if counts.ignored > 0 {
                println!(
                    "phase {:>2}  {} tests ignored here; the recorded evidence speaks for them",
                    phase.number, counts.ignored
                );
            }
            None
        }
    }
}
