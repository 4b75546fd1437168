//! Seals a phase: its suites pass, its evidence is recorded, and both are bound to the hash of the
//! sources they speak for.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::evidence::{self, Origin};
use crate::phases::{self, Phase, Seal};
use crate::sources::{self, Sources};
use crate::{date, kernel_sources, revision, roadmap, suites};

/// Prints what a run on another machine has to set as `THERIA_SOURCE_HASH`.
pub(crate) fn print_source_hash(root: &Path, number: u32) -> Result<()> {
    let phase = phases::read_one(root, number)?;
    println!("{}", Sources::collect(root, &phase.sources)?.digest());
    Ok(())
}

/// Runs, judges and records. Nothing is written before everything has been judged.
pub(crate) fn seal(root: &Path, number: u32, made_elsewhere: Option<&Path>) -> Result<()> {
    let phase = phases::read_one(root, number)?;
    for (what, named) in [
        ("sources", phase.sources.len()),
        ("suites", phase.suites.len()),
        ("evidence", phase.all_evidence().count()),
    ] {
        ensure!(named > 0, "phase {number} names no {what}: name them in phases.toml before sealing it");
    }
    let sealed_sources = Sources::collect(root, &phase.sources)?;
    let source_hash = sealed_sources.digest();
    suites::require(root, &phase)?;

    let run_folder = tempfile::tempdir()?;
    let counts = suites::run(root, &phase, &variables(root, run_folder.path(), &source_hash))?;
    // Where no device is present, the suites of a GPU phase are ignored with a reason, and the
    // evidence brought along speaks for them.
    let brought = (made_elsewhere.is_some() || !phase.device_evidence.is_empty()) && counts.ignored > 0;
    ensure!(
        counts.passed > 0 || brought,
        "phase {number}: no test ran ({} ignored); a seal needs a suite that tests something",
        counts.ignored
    );
    ensure!(
        Sources::collect(root, &phase.sources)?.digest() == source_hash,
        "phase {number}: its sources changed while its suites ran; seal it again"
    );

    let folder = made_elsewhere.unwrap_or(run_folder.path());
    let files = match read_evidence(root, folder, &phase, &source_hash) {
        Ok(files) => files,
        Err(flaws) => bail!("phase {number} cannot be sealed:\n  {}", flaws.join("\n  ")),
    };

    for (name, text) in files.iter().filter(|(name, _)| phase.evidence.contains(name)) {
        sources::write_file(&phases::results(root).join(name), text)?;
    }
    sealed_sources.write(&phase.sources_record(root))?;
    let seal =
        Seal { source_hash: &source_hash, evidence_hash: &evidence_hash(&files), date: &date::today() };
    phases::record_seal(root, number, &seal)?;
    roadmap::write(root)?;
    println!(
        "sealed phase {number}, {}: {} tests passed, {} sources, hash {source_hash}",
        phase.title,
        counts.passed,
        sealed_sources.len()
    );
    Ok(())
}

/// What a suite needs to write evidence.
fn variables(root: &Path, folder: &Path, source_hash: &str) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("THERIA_EVIDENCE_DIR", folder.display().to_string()),
        ("THERIA_SOURCE_HASH", source_hash.to_owned()),
    ];
    variables.extend(revision::of_tree(root).map(|revision| ("THERIA_GIT_REVISION", revision)));
    variables
}

/// Reads and judges the evidence of a phase: its files by name and text, or every flaw found. What
/// suites wrote lies in `folder`; what a device left behind was copied to the recorded results.
pub(crate) fn read_evidence(
    root: &Path,
    folder: &Path,
    phase: &Phase,
    source_hash: &str,
) -> Result<Vec<(String, String)>, Vec<String>> {
    let mut files = Vec::new();
    let mut flaws = Vec::new();
    let origin = Origin::Sources(source_hash);
    for name in &phase.evidence {
        match read_file(folder, name, phase, origin) {
            Ok(text) => files.push((name.clone(), text)),
            Err(found) => flaws.extend(found),
        }
    }
    if !phase.device_evidence.is_empty() {
        let before = flaws.len();
        match kernel_sources::hash(root, &phase.crates) {
            Err(error) => flaws.push(format!("{error:#}")),
            Ok(kernels) => {
                for name in &phase.device_evidence {
                    match read_file(&phases::results(root), name, phase, Origin::Kernels(&kernels)) {
                        Ok(text) => files.push((name.clone(), text)),
                        Err(found) => flaws.extend(found),
                    }
                }
            }
        }
        if flaws.len() > before {
            flaws.push(format!(
                "make it anew: `cargo xtask gpu-bundle` here, `bash run.sh test` in that folder on a GPU host, \
                 then copy out/{} from there to docs/results/",
                phase.device_evidence.join(", out/")
            ));
        }
    }
    if flaws.is_empty() { Ok(files) } else { Err(flaws) }
}

fn read_file(folder: &Path, name: &str, phase: &Phase, origin: Origin<'_>) -> Result<String, Vec<String>> {
    let text = fs::read_to_string(folder.join(name)).map_err(|error| {
        vec![format!("evidence {name} is missing: {error} (a suite writes it into THERIA_EVIDENCE_DIR)")]
    })?;
    match evidence::verify(&text, phase.number, origin) {
        Ok(_) => Ok(text),
        Err(flaws) => Err(flaws.iter().map(|flaw| format!("evidence {name}: {flaw}")).collect()),
    }
}

/// The hash that `phases.toml` keeps of a phase's evidence.
pub(crate) fn evidence_hash(files: &[(String, String)]) -> String {
    let hashes: Vec<String> = files.iter().map(|(_, text)| sources::hash_bytes(text.as_bytes())).collect();
    sources::digest(files.iter().zip(&hashes).map(|((name, _), hash)| (name.as_str(), hash.as_str())))
}
