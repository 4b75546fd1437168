//! The commit that a run or a bundle was made from.

use std::path::Path;

use xshell::{Shell, cmd};

/// The commit, marked `-dirty` when the working tree differs from it; none outside a repository.
pub(crate) fn of_tree(root: &Path) -> Option<String> {
    if !root.join(".git").exists() {
        return None;
    }
    let shell = Shell::new().ok()?;
    shell.change_dir(root);
    let revision = cmd!(shell, "git rev-parse --verify HEAD").quiet().ignore_stderr().read().ok()?;
    let changes = cmd!(shell, "git status --porcelain").quiet().ignore_stderr().read().ok()?;
    Some(if changes.is_empty() { revision } else { format!("{revision}{DIRTY}") })
}

/// What ends the revision of a tree with changes.
pub(crate) const DIRTY: &str = "-dirty";
