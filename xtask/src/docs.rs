//! Builds both books: the guide with mdBook and the API pages with rustdoc.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// The version that `.ci/run` installs.
const MDBOOK: &str = "0.5.4";

/// Warnings of rustdoc are errors: a broken link in the API pages is a dead end for a reader.
pub(crate) fn build(root: &Path) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    cmd!(shell, "mdbook --version").quiet().ignore_stdout().ignore_stderr().run().with_context(|| {
        format!(
            "mdbook is not on PATH; install it with \
             `cargo install mdbook --version {MDBOOK} --locked --no-default-features`"
        )
    })?;
    cmd!(shell, "mdbook build docs").run()?;
    let _flags = shell.push_env("RUSTDOCFLAGS", "-Dwarnings");
    cmd!(shell, "cargo doc --workspace --no-deps").run()?;
    Ok(())
}
