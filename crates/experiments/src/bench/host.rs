//! The machine, as result files describe it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cuda;
use crate::machine::Machine;

/// A machine that was measured.
#[derive(Clone, Debug)]
pub struct Host(Value);

impl Host {
    /// This one, with its CUDA device when that was measured.
    pub fn here(on_device: bool) -> Self {
        let device = if on_device { cuda::device().ok() } else { None };
        let machine = Machine::here();
        Self(json!({
            "device": device.map_or("cpu", |device| device.name()),
            "driver": device.and_then(|_| driver()),
            "cuda": device.map(cuda::version),
            "cpu": machine.cpu,
            "threads": machine.threads,
            "git": revision(),
            "clocks": "not fixed",
        }))
    }

    /// As in result files.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// In a line.
    pub fn line(&self) -> String {
        let text = |key: &str| self.0[key].as_str().unwrap_or("unknown").to_owned();
        if self.0["cuda"].is_null() {
            return format!("{}, {} threads, git {}", text("cpu"), self.0["threads"], text("git"));
        }
        format!("{}, driver {}, CUDA {}, git {}", text("device"), text("driver"), text("cuda"), text("git"))
    }
}

/// The version of the driver's kernel module: the first word of digits and dots of its description.
fn driver() -> Option<String> {
    version_in(&fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

fn version_in(text: &str) -> Option<String> {
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

/// The commit that the program was made from: what a bundle says of itself, or else that of the folder that
/// it runs in, marked when files differ from it.
fn revision() -> Option<String> {
    let named = std::env::var("THERIA_GIT_REVISION").ok().filter(|revision| !revision.is_empty());
    named.or_else(|| beside(&std::env::current_exe().ok()?)).or_else(|| {
        let arguments = ["describe", "--always", "--dirty", "--abbrev=12"];
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    })
}

/// The commit in the `REVISION` of the bundle that a program lies in.
fn beside(program: &Path) -> Option<String> {
    let text = fs::read_to_string(program.parent()?.join("REVISION")).ok()?;
    Some(serde_json::from_str::<Value>(&text).ok()?["git"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_the_version_in_its_description() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build\nGCC version: 13.2";
        assert_eq!(version_in(text).as_deref(), Some("580.159.03"));
        assert_eq!(version_in("nothing here"), None);
    }

    #[test]
    fn a_bundle_says_what_it_was_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("theria");
        assert_eq!(beside(&program), None);
        fs::write(folder.path().join("REVISION"), "{\"git\": \"99df31d\"}").unwrap();
        assert_eq!(beside(&program).as_deref(), Some("99df31d"));
        fs::write(folder.path().join("REVISION"), "no JSON").unwrap();
        assert_eq!(beside(&program), None);
    }

    #[test]
    fn a_host_without_a_device_is_a_processor() {
        let host = Host::here(false);
        assert_eq!(host.json()["device"], "cpu");
        assert!(host.json()["cuda"].is_null() && host.line().contains("threads"));
    }
}
