//! Packs what a GPU host runs into one folder: it has a driver and NVRTC, but no Rust toolchain and no
//! git. `run.sh` in the folder says how to use it, `REVISION` what it was made from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Metadata, TargetKind};
use serde::Serialize;

use crate::builds::{self, Executable};
use crate::phases::{self, Phase};
use crate::revision::{self, DIRTY};
use crate::{kernel_sources, sources};

/// Packages whose every test target goes along.
const WHOLE_PACKAGES: [&str; 1] = ["theria-gpu-fwd"];
/// The package of the phases' suites, of which those of a device go along, and how their names tell.
const SUITES: (&str, [&str; 2]) = ("theria-tests", ["cuda", "maml"]);
/// The package of the command, and the command.
const COMMAND: (&str, &str) = ("theria-experiments", "theria");
/// The folder of the other libraries' benchmarks.
const PEERS: &str = "benches/peers";
/// Bytes of the whole. Hosts take small uploads, and a bundle that grows past this has something in it
/// that should not be there.
const LIMIT: u64 = 60_000_000;
const RUN: &str = include_str!("run.sh");

/// What a bundle was made from, as its suites read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Revision {
    /// The commit, as evidence names it.
    git: Option<String>,
    /// Whether the tree had changes; unknown outside a repository.
    dirty: Option<bool>,
    /// For each phase with evidence from a device, the hash of its kernels.
    kernel_source_hash: BTreeMap<u32, String>,
}

impl Revision {
    fn of(root: &Path) -> Result<Self> {
        let git = revision::of_tree(root);
        let dirty = git.as_ref().map(|revision| revision.ends_with(DIRTY));
        let phases = phases::read(root)?;
        let on_device = phases.iter().filter(|phase| !phase.device_evidence.is_empty());
        let hash = |phase: &Phase| Ok((phase.number, kernel_sources::hash(root, &phase.crates)?));
        Ok(Self { git, dirty, kernel_source_hash: on_device.map(hash).collect::<Result<_>>()? })
    }
}

/// Builds everything and leaves a new folder at `out`, in the place of an older bundle.
pub(crate) fn bundle(root: &Path, out: &Path) -> Result<()> {
    let out = root.join(out);
    refuse_what_is_no_bundle(&out)?;
    let revision = Revision::of(root)?;
    let wanted = wanted(&builds::workspace(root)?)?;
    let made = builds::build(root, &arguments(&wanted))?;
    ensure!(
        Revision::of(root)? == revision,
        "the tree changed while the bundle was built, so nothing says what is in it; build it again"
    );

    let parent = out.parent().context("a bundle lies in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let folder = tempfile::Builder::new().prefix(".gpu-bundle").tempdir_in(parent)?;
    fill(root, folder.path(), &wanted, &made, &revision)?;
    let size = report_size(folder.path())?;
    ensure!(
        size <= LIMIT,
        "the bundle has {:.1} MB, and {:.0} MB is the most: leave something out",
        megabytes(size),
        megabytes(LIMIT)
    );
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    let folder = folder.keep();
    fs::rename(&folder, &out).with_context(|| format!("cannot create {}", out.display()))?;
    make_readable(&out)?;
    println!("gpu-bundle: {} ({:.1} MB); on a GPU host: bash run.sh test", out.display(), megabytes(size));
    Ok(())
}

/// What is there already goes away, so it has to be a bundle.
fn refuse_what_is_no_bundle(out: &Path) -> Result<()> {
    let is_empty = || fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    let is_bundle = || ["REVISION", "run.sh"].iter().all(|name| out.join(name).is_file());
    ensure!(
        !out.exists() || is_bundle() || is_empty(),
        "{} exists and is no bundle, so it is left alone; name another folder with --out",
        out.display()
    );
    Ok(())
}

/// A target to build, and its name in the bundle.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    package: String,
    target: String,
    kind: TargetKind,
}

impl Wanted {
    /// Tests are told by their names: `run.sh` runs what begins with `test-`.
    fn file(&self) -> String {
        match self.kind {
            TargetKind::Test => format!("test-{}-{}", self.package, self.target),
            _ => self.target.clone(),
        }
    }

    fn is(&self, made: &Executable) -> bool {
        made.package == self.package && made.target == self.target && made.kind.contains(&self.kind)
    }
}

fn wanted(workspace: &Metadata) -> Result<Vec<Wanted>> {
    let packages = workspace.workspace_packages();
    let tests_of = |name: &str| -> Result<Vec<Wanted>> {
        let package = packages.iter().find(|package| package.name.as_str() == name);
        let package = package.with_context(|| format!("package `{name}` is not in the workspace"))?;
        let tests = package.targets.iter().filter(|target| target.kind.contains(&TargetKind::Test));
        Ok(tests
            .map(|target| Wanted {
                package: name.to_owned(),
                target: target.name.clone(),
                kind: TargetKind::Test,
            })
            .collect())
    };
    let mut wanted = Vec::new();
    for package in WHOLE_PACKAGES {
        let tests = tests_of(package)?;
        ensure!(!tests.is_empty(), "package `{package}` has no tests to bundle");
        wanted.extend(tests);
    }
    let of_device = |test: &Wanted| SUITES.1.iter().any(|name| test.target.contains(name));
    wanted.extend(tests_of(SUITES.0)?.into_iter().filter(of_device));
    let (package, target) = (COMMAND.0.to_owned(), COMMAND.1.to_owned());
    wanted.push(Wanted { package, target, kind: TargetKind::Bin });
    Ok(wanted)
}

/// One build for all, so that what they share is built once.
fn arguments(wanted: &[Wanted]) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--release", "--config", "profile.release.strip=true"].map(str::to_owned).into();
    let mut packages: Vec<&str> = wanted.iter().map(|wanted| wanted.package.as_str()).collect();
    packages.dedup();
    arguments.extend(packages.iter().flat_map(|package| ["--package".to_owned(), (*package).to_owned()]));
    for Wanted { target, kind, .. } in wanted {
        let flag = if *kind == TargetKind::Bin { "--bin" } else { "--test" };
        arguments.extend([flag.to_owned(), target.clone()]);
    }
    arguments
}

fn fill(
    root: &Path,
    folder: &Path,
    wanted: &[Wanted],
    made: &[Executable],
    revision: &Revision,
) -> Result<()> {
    for wanted in wanted {
        let made = made.iter().find(|made| wanted.is(made));
        let made = made.with_context(|| format!("cargo made no `{}`", wanted.target))?;
        copy(&made.path, &folder.join(wanted.file()))?;
    }
    let peers = folder.join("peers");
    fs::create_dir(&peers)?;
    for path in sources::list_files(root)? {
        let name = path.strip_prefix(PEERS).and_then(|rest| rest.strip_prefix('/'));
        if let Some(name) = name.filter(|name| sources::has_extension(name, "py") && !name.contains('/')) {
            copy(&root.join(&path), &peers.join(name))?;
        }
    }
    sources::write_file(&folder.join("REVISION"), &(serde_json::to_string_pretty(revision)? + "\n"))?;
    sources::write_file(&folder.join("run.sh"), RUN)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        bail!("two things in the bundle are called {}", to.display());
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Prints each file with its size, and returns the sum.
fn report_size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let size = match entry.metadata()? {
            metadata if metadata.is_dir() => {
                let files = fs::read_dir(entry.path())?.collect::<Result<Vec<_>, _>>()?;
                files
                    .iter()
                    .map(|file| file.metadata().map(|metadata| metadata.len()))
                    .sum::<Result<u64, _>>()?
            }
            metadata => metadata.len(),
        };
        println!("  {:>8.2} MB  {}", megabytes(size), entry.file_name().display());
        sum += size;
    }
    Ok(sum)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A temporary folder is private to its owner; a bundle is not.
fn make_readable(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_of_the_device_and_the_command_go_along() -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let wanted = wanted(&builds::workspace(&root)?)?;
        let files: Vec<String> = wanted.iter().map(Wanted::file).collect();
        for file in ["test-theria-gpu-fwd-device", "test-theria-gpu-fwd-nvrtc", "theria"] {
            assert!(files.iter().any(|found| found == file), "{file} is not among {files:?}");
        }
        let of_phases = files.iter().filter(|file| file.starts_with("test-theria-tests-"));
        let phases: Vec<&str> =
            of_phases.filter_map(|file| file.strip_prefix("test-theria-tests-phase")).collect();
        let expected = ["10_maml", "6_cuda_ref", "7_cuda_fast", "8_cuda_fused", "9_cuda"];
        assert!(expected.iter().all(|name| phases.contains(name)) && phases.len() == 5, "{files:?}");
        Ok(())
    }

    #[test]
    fn one_build_makes_everything() {
        let of = |package: &str, target: &str, kind| Wanted {
            package: package.to_owned(),
            target: target.to_owned(),
            kind,
        };
        let wanted = [
            of("theria-gpu-fwd", "device", TargetKind::Test),
            of("theria-gpu-fwd", "nvrtc", TargetKind::Test),
            of("theria-experiments", "theria", TargetKind::Bin),
        ];
        assert_eq!(
            arguments(&wanted).join(" "),
            "--release --config profile.release.strip=true --package theria-gpu-fwd --package \
             theria-experiments --test device --test nvrtc --bin theria"
        );
    }

    #[test]
    fn a_folder_that_is_no_bundle_is_left_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path();
        refuse_what_is_no_bundle(&out.join("new"))?;
        refuse_what_is_no_bundle(out)?;
        fs::write(out.join("run.sh"), "")?;
        assert!(refuse_what_is_no_bundle(out).is_err());
        fs::write(out.join("REVISION"), "")?;
        refuse_what_is_no_bundle(out)
    }

    #[test]
    fn a_revision_says_what_evidence_needs() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let phase = |number, more: &str| {
            format!(
                "[[phase]]\nnumber = {number}\ntitle = \"t\"\ncrates = [\"theria-a\"]\nstate = \"open\"\n{more}"
            )
        };
        let text = phase(1, "") + &phase(2, "device_evidence = [\"phase2_cuda.json\"]\n");
        sources::write_file(&folder.path().join("phases.toml"), &text)?;
        assert!(Revision::of(folder.path()).is_err(), "a tree without kernels makes no bundle");
        sources::write_file(&folder.path().join("crates/a/kernels/a.cu"), "a")?;
        let revision = Revision::of(folder.path())?;
        assert_eq!((&revision.git, revision.dirty), (&None, None), "outside a repository");
        let hash = kernel_sources::hash(folder.path(), &["theria-a".to_owned()])?;
        assert_eq!(revision.kernel_source_hash, BTreeMap::from([(2, hash)]), "of the phase on a device");
        Ok(())
    }

    /// Runs a bundle whose tests are these scripts, and returns whether it succeeded and what it said.
    fn run_tests(scripts: &[(&str, &str)]) -> Result<(bool, String)> {
        let folder = tempfile::tempdir()?;
        let (bundle, out) = (folder.path().join("bundle"), folder.path().join("out"));
        sources::write_file(&bundle.join("run.sh"), RUN)?;
        sources::write_file(&bundle.join("REVISION"), "{\n  \"git\": \"4a15f9c\",\n  \"dirty\": false\n}\n")?;
        for (name, script) in scripts {
            sources::write_file(&bundle.join(name), &format!("#!/bin/sh\n{script}\n"))?;
        }
        sources::write_file(&out.join("phase6.json"), "of an earlier run")?;
        let mut command = std::process::Command::new("bash");
        command.arg(bundle.join("run.sh")).arg("test").env("OUT", &out);
        for variable in ["THERIA_EVIDENCE_DIR", "THERIA_GIT_REVISION", "THERIA_REVISION"] {
            command.env_remove(variable);
        }
        let output = command.output().context("bash can be started")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!out.join("phase6.json").exists(), "evidence of an earlier run was left:\n{said}");
        Ok((output.status.success(), said))
    }

    const GOOD: &str = "echo \"revision $THERIA_GIT_REVISION\"; test -d \"$THERIA_EVIDENCE_DIR\" || exit 1\n\
        test -f \"$THERIA_REVISION\" || exit 1\n\
        echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s'";

    #[test]
    fn a_bundle_runs_every_test_and_succeeds_when_all_do() -> Result<()> {
        let (success, said) = run_tests(&[("test-a", GOOD), ("test-b", GOOD)])?;
        assert!(success && said.contains("revision 4a15f9c"), "{said}");
        assert_eq!(
            said.lines().filter(|line| line.contains(" passed        3       0        1")).count(),
            2,
            "{said}"
        );
        Ok(())
    }

    #[test]
    fn a_bundle_fails_when_a_test_fails_or_ends_without_a_result() -> Result<()> {
        for (what, bad) in [
            (
                "a failed test",
                "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured'; exit 101",
            ),
            ("a crash", "kill -SEGV $$"),
            ("no result", "exit 0"),
        ] {
            let (success, said) = run_tests(&[("test-a", bad), ("test-b", GOOD)])?;
            assert!(!success, "{what}: {said}");
            assert!(
                said.contains("FAILED") && said.contains("revision"),
                "{what}: the next one runs: {said}"
            );
        }
        let ignored = "echo 'test result: ok. 0 passed; 0 failed; 8 ignored; 0 measured'";
        let (success, said) = run_tests(&[("test-a", ignored)])?;
        assert!(success && said.contains("NOTHING RAN"), "{said}");
        Ok(())
    }
}
