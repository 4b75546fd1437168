//! Reopens a phase before its sources change, so that a broken seal is a decision and not an accident.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::phases::{self, State};
use crate::roadmap;

/// Evidence files stay where they are: they say what held, and the next seal replaces them.
pub(crate) fn unseal(root: &Path, number: u32, reason: &str) -> Result<()> {
    let phase = phases::read_one(root, number)?;
    ensure!(phase.state == State::Sealed, "phase {number} is not sealed, so there is nothing to reopen");
    ensure!(
        !reason.trim().is_empty(),
        "say why phase {number} is reopened: the reason is shown by every check"
    );
    phases::record_open(root, number, reason.trim())?;
    roadmap::write(root)?;
    println!("phase {number}, {}, is open: {reason}", phase.title);
    Ok(())
}
