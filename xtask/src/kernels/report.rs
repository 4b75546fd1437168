//! Runs the program that compiles every instance, and reads what it prints.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::compiler;
use crate::builds;

const PROGRAM: &str = "kernel_report";

/// One instance for one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) architecture: String,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    Refused { error: String },
    Compiled(Needs),
}

/// What an instance takes of a device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Needs {
    /// Of a thread.
    pub(crate) registers: u32,
    pub(crate) spill_stores: u32,
    pub(crate) spill_loads: u32,
    pub(crate) stack: u32,
    pub(crate) static_shared: u32,
    pub(crate) dynamic_shared: u32,
    pub(crate) threads: u32,
    pub(crate) serialised: bool,
}

impl Needs {
    /// Bytes of shared memory of a block.
    pub(crate) fn shared(&self) -> u32 {
        self.static_shared + self.dynamic_shared
    }
}

/// The first line of the report.
#[derive(Deserialize)]
struct Head {
    nvrtc: String,
    instances: usize,
}

/// Compiles everything with the compiler of this folder, sorted by architecture and name.
pub(crate) fn of_every_instance(root: &Path, package: &str, libraries: &Path) -> Result<Vec<Instance>> {
    let arguments = ["--package", package, "--example", PROGRAM].map(str::to_owned);
    let made = builds::build(root, &arguments)?;
    let program = made.into_iter().find(|made| made.target == PROGRAM);
    let program = program.with_context(|| format!("cargo made no `{PROGRAM}`"))?;
    // The loader reads this variable when a process starts, so it cannot be set from inside.
    let mut search = OsString::from(libraries);
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH").filter(|others| !others.is_empty()) {
        search.push(":");
        search.push(others);
    }
    let mut command = Command::new(&program.path);
    command.current_dir(root).env("LD_LIBRARY_PATH", search).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.path.display()))?;
    let stdout = child.stdout.take().context("the report is read through a pipe")?;
    let instances = read(BufReader::new(stdout), std::io::stderr().is_terminal());
    let status = child.wait()?;
    ensure!(status.success(), "`{PROGRAM}` failed ({status})");
    instances
}

fn read(lines: impl BufRead, show_progress: bool) -> Result<Vec<Instance>> {
    let mut lines = lines.lines();
    let head = lines.next().context("the report is empty")??;
    let head: Head = serde_json::from_str(&head).context("the report has no head")?;
    let wanted = compiler::release();
    ensure!(
        head.nvrtc == wanted,
        "the report comes from NVRTC {}, and the budget is that of {wanted}: another libnvrtc came first",
        head.nvrtc
    );
    let mut instances = Vec::new();
    for line in lines {
        let line = line?;
        let instance: Instance =
            serde_json::from_str(&line).with_context(|| format!("not a line of the report: {line}"))?;
        instances.push(instance);
        if show_progress {
            eprint!("\r{} of {} compiled", instances.len(), head.instances);
            std::io::stderr().flush()?;
        }
    }
    if show_progress {
        eprintln!();
    }
    ensure!(
        instances.len() == head.instances,
        "the report stops after {} of {} instances",
        instances.len(),
        head.instances
    );
    let mut names = BTreeMap::new();
    for Instance { name, architecture, .. } in &instances {
        let count: &mut usize = names.entry((architecture, name)).or_default();
        *count += 1;
        ensure!(*count == 1, "two instances for {architecture} are called {name}: a name says every choice");
    }
    let key = |instance: &Instance| (instance.architecture.clone(), instance.name.clone());
    instances.sort_by_key(key);
    Ok(instances)
}

/// Instances for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use super::{Instance, Needs, Outcome};

    /// One that breaks nothing, after a change.
    pub(crate) fn compiled(name: &str, architecture: &str, change: impl FnOnce(&mut Needs)) -> Instance {
        let mut needs = Needs {
            registers: 64,
            spill_stores: 0,
            spill_loads: 0,
            stack: 0,
            static_shared: 0,
            dynamic_shared: 1024,
            threads: 128,
            serialised: false,
        };
        change(&mut needs);
        let (name, architecture) = (name.to_owned(), architecture.to_owned());
        Instance { name, architecture, outcome: Outcome::Compiled(needs) }
    }

    /// One that the compiler refuses.
    pub(crate) fn refused(name: &str, architecture: &str) -> Instance {
        let outcome = Outcome::Refused { error: "NVRTC refuses:\nforward.cu(3): error".to_owned() };
        Instance { name: name.to_owned(), architecture: architecture.to_owned(), outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fixture::{compiled, refused};

    const WIDE: &str = r#"{"name":"wide","architecture":"sm_80","registers":64,"spill_stores":0,"spill_loads":0,"stack":0,"static_shared":0,"dynamic_shared":1024,"threads":128,"serialised":false}"#;
    const BROKEN: &str =
        r#"{"name":"broken","architecture":"sm_80","error":"NVRTC refuses:\nforward.cu(3): error"}"#;

    fn head(count: usize) -> String {
        format!("{{\"nvrtc\":\"{}\",\"instances\":{count}}}", compiler::release())
    }

    fn read_text(text: &str) -> Result<Vec<Instance>> {
        read(text.as_bytes(), false)
    }

    #[test]
    fn a_report_is_read_and_sorted() -> Result<()> {
        let instances = read_text(&format!("{}\n{WIDE}\n{BROKEN}\n", head(2)))?;
        assert_eq!(instances, [refused("broken", "sm_80"), compiled("wide", "sm_80", |_| {})]);
        Ok(())
    }

    #[test]
    fn a_report_that_is_not_whole_is_refused() {
        for (what, text) in [
            ("empty", String::new()),
            ("no head", format!("{WIDE}\n")),
            ("cut short", format!("{}\n{WIDE}\n", head(2))),
            ("a line cut short", format!("{}\n{}\n", head(1), &WIDE[..80])),
            ("a number missing", format!("{}\n{}\n", head(1), WIDE.replace("\"stack\":0,", ""))),
            ("a name twice", format!("{}\n{WIDE}\n{WIDE}\n", head(2))),
            ("another compiler", format!("{}\n{WIDE}\n", head(1).replace(&compiler::release(), "12.4"))),
        ] {
            assert!(read_text(&text).is_err(), "{what}");
        }
        assert!(read_text(&format!("{}\n{WIDE}\n", head(1))).is_ok());
    }
}
