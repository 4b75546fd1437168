//! The machine, as bench files describe it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

pub(crate) fn describe() -> Value {
    json!({
        "device": "cpu",
        "driver": null,
        "cuda": null,
        "cpu": cpu(),
        "threads": rayon::current_num_threads(),
        "git": revision(),
        "clocks": "not fixed",
    })
}

fn cpu() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The commit of the folder that the program runs in, marked when the sources differ from it.
fn revision() -> Option<String> {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
