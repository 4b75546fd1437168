//! Builds targets with cargo and says where their executables are.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, Metadata, MetadataCommand, TargetKind};

/// An executable that cargo made.
#[derive(Debug)]
pub(crate) struct Executable {
    pub(crate) package: String,
    pub(crate) target: String,
    pub(crate) kind: Vec<TargetKind>,
    pub(crate) path: PathBuf,
}

/// The members of the workspace, their targets, and the folder of build outputs. `--no-deps` gives the
/// declared dependencies of members: optional and target-specific ones too, with no registry and no
/// resolution, which a cycle would stop.
pub(crate) fn workspace(root: &Path) -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.manifest_path(root.join("Cargo.toml")).no_deps();
    command.exec().with_context(|| format!("cannot read the workspace at {}", root.display()))
}

/// Runs `cargo build` with these arguments; what the compiler says goes to the terminal.
pub(crate) fn build(root: &Path, arguments: &[String]) -> Result<Vec<Executable>> {
    let workspace = workspace(root)?;
    let line = format!("cargo build {}", arguments.join(" "));
    println!("$ {line}");
    let mut command = Command::new("cargo");
    command.current_dir(root).arg("build").args(arguments);
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let mut made = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for message in Message::parse_stream(BufReader::new(stdout)) {
            let Message::CompilerArtifact(artifact) = message? else { continue };
            let Some(path) = artifact.executable else { continue };
            let packages = workspace.workspace_packages();
            let package = packages.into_iter().find(|package| package.id == artifact.package_id);
            let package = package.map(|package| package.name.to_string()).unwrap_or_default();
            let target = artifact.target;
            made.push(Executable { package, target: target.name, kind: target.kind, path: path.into() });
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "the build failed ({status}); repeat it with `{line}`");
    Ok(made)
}
