//! The peak of memory, measured from outside the program: by the system.

use std::fs;
use std::process::Command;

use crate::Failure;
use crate::arguments::{Arguments, BACKENDS, Rules};

/// A fresh process makes the call once and says how far its resident set grew. `None` where the
/// system cannot tell.
pub(crate) fn of_row(
    arguments: &Arguments,
    [b, h, t, d]: [usize; 4],
    rules: Rules,
) -> Result<Option<u64>, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--only-memory").args(["--shape", &format!("{b},{h},{t},{d}"), "--rule", rules.name]);
    command.args(["--threads", &arguments.threads.to_string(), "--policy", arguments.policy.0]);
    command.args(["--dtype", &arguments.dtype.to_string()]);
    let backend = BACKENDS.iter().find(|(_, backend)| *backend == arguments.backend).expect("all are listed");
    command.args(["--backend", backend.0]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("the memory of a row: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// How far the resident set rises above its size before the call.
pub(crate) fn growth(call: impl FnOnce() -> theria_contract::Result<()>) -> Result<Option<u64>, Failure> {
    // "5" sets the high-water mark back to the present size.
    let watched = fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = status("VmRSS:");
    call()?;
    let peak = status("VmHWM:");
    Ok(before.zip(peak).filter(|_| watched).map(|(before, peak)| peak.saturating_sub(before)))
}

/// A size in `/proc/self/status`, in bytes.
fn status(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
