//! The status table of ROADMAP.md, written from phases.toml so that the two cannot disagree.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::phases::{self, Phase, State};
use crate::sources::write_file;

const FILE: &str = "ROADMAP.md";
const BEGIN: &str = "<!-- phases: written by `cargo xtask roadmap`, do not edit -->";
const END: &str = "<!-- end of phases -->";

pub(crate) fn write(root: &Path) -> Result<()> {
    let (old, new) = old_and_new(root)?;
    if old != new {
        write_file(&root.join(FILE), &new)?;
        println!("roadmap: wrote the table of {FILE}");
    }
    Ok(())
}

pub(crate) fn check(root: &Path) -> Result<()> {
    let (old, new) = old_and_new(root)?;
    ensure!(old == new, "the table of {FILE} is not what phases.toml says: run `cargo xtask roadmap`");
    Ok(())
}

fn old_and_new(root: &Path) -> Result<(String, String)> {
    let text = fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    // A checkout may have CRLF endings; what is compared and written has LF.
    let old = text.replace("\r\n", "\n");
    let new = replaced(&old, &table(&phases::read(root)?))?;
    Ok((old, new))
}

fn replaced(text: &str, table: &str) -> Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("{FILE} needs the lines `{BEGIN}` and `{END}` around its table"))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn table(phases: &[Phase]) -> String {
    let mut table = String::from("| phase | | crates | state | evidence |\n|---:|---|---|---|---|\n");
    for phase in phases {
        let crates: Vec<String> = phase.crates.iter().map(|name| format!("`{name}`")).collect();
        // Only a seal vouches for a file, so only sealed phases link to one.
        let evidence: Vec<String> = match phase.state {
            State::Sealed => {
                phase.all_evidence().map(|name| format!("[{name}](docs/results/{name})")).collect()
            }
            State::Open | State::Planned => Vec::new(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} |",
            phase.number,
            phase.title,
            crates.join(", "),
            state(phase),
            evidence.join(", ")
        );
    }
    table
}

fn state(phase: &Phase) -> String {
    match (phase.state, &phase.sealed, &phase.reason) {
        (State::Planned, ..) => "planned".to_owned(),
        (State::Open, _, None) => "open".to_owned(),
        (State::Open, _, Some(reason)) => format!("open: {}", reason.replace('|', "\\|")),
        (State::Sealed, date, _) => format!("**sealed** {}", date.as_deref().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(state: State) -> Phase {
        Phase {
            number: 4,
            title: "Exact second order as an operator".to_owned(),
            crates: vec!["theria-jvp-hvp".to_owned()],
            suites: Vec::new(),
            sources: Vec::new(),
            evidence: vec!["phase4.json".to_owned()],
            device_evidence: Vec::new(),
            state,
            reason: None,
            sealed: None,
            source_hash: None,
            evidence_hash: None,
        }
    }

    #[test]
    fn only_sealed_phases_link_to_evidence() {
        let sealed = Phase { sealed: Some("2026-11-21".to_owned()), ..phase(State::Sealed) };
        let row = "| **sealed** 2026-11-21 | [phase4.json](docs/results/phase4.json) |";
        assert!(table(&[sealed]).contains(row));
        assert!(table(&[phase(State::Planned)]).ends_with("| planned |  |\n"));
    }

    #[test]
    fn the_reason_of_an_open_phase_is_shown_and_cannot_break_the_table() {
        let open = Phase { reason: Some("a | b".to_owned()), ..phase(State::Open) };
        assert!(table(&[open]).contains("| open: a \\| b |"));
    }

    #[test]
    fn only_the_part_between_the_markers_is_replaced() -> Result<()> {
        let text = format!("above\n{BEGIN}\nold\n{END}\nbelow\n");
        assert_eq!(replaced(&text, "new\n")?, format!("above\n{BEGIN}\nnew\n{END}\nbelow\n"));
        assert!(replaced("no markers", "new\n").is_err());
        Ok(())
    }

    #[test]
    fn a_stale_table_fails_and_writing_cures_it() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        let entry = "[[phase]]\nnumber = 0\ntitle = \"T\"\ncrates = []\nstate = \"planned\"\n";
        write_file(&root.join("phases.toml"), entry)?;
        write_file(&root.join(FILE), &format!("{BEGIN}\nold\n{END}\n"))?;
        assert!(check(root).is_err(), "stale");
        write(root)?;
        check(root)?;
        let text = fs::read_to_string(root.join(FILE))?;
        fs::write(root.join(FILE), text.replace('\n', "\r\n"))?;
        check(root)?; // line endings are not content
        write_file(&root.join("phases.toml"), &entry.replace("planned", "open"))?;
        assert!(check(root).is_err(), "stale again");
        Ok(())
    }
}
