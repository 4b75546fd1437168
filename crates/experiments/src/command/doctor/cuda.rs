//! What the doctor says of CUDA: driver, devices, compiler, compiled kernels, and which kernels serve
//! what. Whatever is missing is a line with advice, never a failure.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use theria_contract::{Causal, DType, Problem, ProblemBuilder, Rule};
use theria_gpu_bwd::SweepOccasion;
use theria_gpu_fwd::forward::{Occasion, Situation, Table};
use theria_gpu_fwd::{Compiler, CubinCache, Device, Error};

use super::super::console::{self, Console, bytes};
use super::Advice;
use crate::cuda;

/// An open device.
pub(super) struct Found {
    device: Device,
    /// Bytes free and in all.
    memory: Option<(usize, usize)>,
}

/// Everything of CUDA on this machine, or why it is missing.
pub(super) struct CudaFindings {
    devices: Result<Vec<Result<Found, String>>, String>,
    /// Version of NVRTC.
    compiler: Result<(u32, u32), String>,
    cache: Result<PathBuf, String>,
    tables: Vec<Measured>,
    /// Problem, backend, rule, kernels.
    kernels: Vec<(&'static str, &'static str, Rule, String)>,
}

/// Choices that `theria tune` made.
struct Measured {
    /// What they are for.
    list: &'static str,
    file: PathBuf,
    choices: usize,
}

/// Problems that people have: batch, heads, length, head dimension.
const COMMON: &[(&str, fn(ProblemBuilder) -> ProblemBuilder)] = &[
    ("vision: 64,12,197,64 bf16", |plain| plain.batch(64).heads(12, 12).lengths(197, 197)),
    ("short: 2,8,512,64 bf16", |plain| plain.batch(2).heads(8, 8).lengths(512, 512)),
    ("long: 4,16,4096,128 bf16, causal", |plain| {
        plain.batch(4).heads(16, 16).lengths(4096, 4096).head_dims(128, 128).causal(Causal::TopLeft)
    }),
    ("long, with a bias", |plain| {
        plain.batch(4).heads(16, 16).lengths(4096, 4096).head_dims(128, 128).bias([1, 16, 1, 4096])
    }),
    ("wide: 2,8,8192,256 bf16", |plain| plain.batch(2).heads(8, 8).lengths(8192, 8192).head_dims(256, 256)),
];

impl CudaFindings {
    pub(super) fn of_this_machine() -> Self {
        let text = |error: Error| error.to_string();
        let devices = Device::count().map_err(text).and_then(|count| match count {
            // The error that opening gives says what may hide the devices.
            0 => Err(Device::open(0).err().map_or_else(String::new, text)),
            _ => Ok((0..count).map(open).collect::<Vec<_>>()),
        });
        let kernels = cuda::device().map(common_kernels).unwrap_or_default();
        let tables = cuda::device().map(tables).unwrap_or_default();
        let compiler = Compiler::open().map(|compiler| compiler.version()).map_err(text);
        Self { devices, compiler, cache: cache(), tables, kernels }
    }

    /// What is missing, and what to do about it.
    pub(super) fn advice(&self) -> Vec<Advice> {
        let mut missing: Vec<&String> = Vec::new();
        match &self.devices {
            // Compiler and cache serve the device alone.
            Err(error) => return vec![advice(error)],
            Ok(devices) => missing.extend(devices.iter().filter_map(|device| device.as_ref().err())),
        }
        missing.extend(self.compiler.as_ref().err());
        missing.extend(self.cache.as_ref().err());
        missing.into_iter().map(|error| advice(error)).collect()
    }

    /// Whether a device can be used.
    pub(super) fn has_device(&self) -> bool {
        self.devices.as_ref().is_ok_and(|devices| devices.iter().any(Result::is_ok))
    }

    pub(super) fn print(&self, console: &mut Console) -> std::io::Result<()> {
        match &self.devices {
            Err(error) => console.line(format_args!("cuda     {error}"))?,
            Ok(devices) => {
                for (ordinal, device) in devices.iter().enumerate() {
                    match device {
                        Ok(found) => console.line(format_args!("cuda     {ordinal}: {}", found.text()))?,
                        Err(error) => console.line(format_args!("cuda     {ordinal}: {error}"))?,
                    }
                }
            }
        }
        match &self.compiler {
            Ok((major, minor)) => console.line(format_args!("nvrtc    {major}.{minor}"))?,
            Err(error) => console.line(format_args!("nvrtc    {error}"))?,
        }
        match &self.cache {
            Ok(folder) => console.line(format_args!("kernels  kept in {}", folder.display()))?,
            Err(error) => console.line(format_args!("kernels  {error}"))?,
        }
        for Measured { list, file, choices } in &self.tables {
            console
                .line(format_args!("tuned    {list}: {choices} measured choices in {}", file.display()))?;
        }
        if self.kernels.is_empty() {
            return Ok(());
        }
        console.heading("Kernels that would serve common problems")?;
        let mut table = console::table(["problem", "backend", "rule", "kernel"]);
        for (problem, backend, rule, kernel) in &self.kernels {
            table.add_row([problem, backend, rule.name(), kernel.as_str()]);
        }
        console.table(&table)
    }

    pub(super) fn json(&self) -> Value {
        let devices = self.devices.iter().flatten().map(|device| match device {
            Ok(found) => found.json(),
            Err(error) => json!({"error": error}),
        });
        json!({
            "devices": devices.collect::<Vec<_>>(),
            "error": self.devices.as_ref().err(),
            "nvrtc": match &self.compiler {
                Ok((major, minor)) => json!({"version": format!("{major}.{minor}")}),
                Err(error) => json!({"error": error}),
            },
            "cache": match &self.cache {
                Ok(folder) => json!({"folder": folder.display().to_string(), "writable": true}),
                Err(error) => json!({"writable": false, "error": error}),
            },
            "tuned": self.tables.iter().map(|Measured { list, file, choices }| {
                json!({"list": list, "file": file.display().to_string(), "choices": choices})
            }).collect::<Vec<_>>(),
            "kernels": self.kernels.iter().map(|(problem, backend, rule, kernel)| {
                json!({"problem": problem, "backend": backend, "rule": rule.name(), "kernel": kernel})
            }).collect::<Vec<_>>(),
        })
    }
}

impl Found {
    fn text(&self) -> String {
        let device = &self.device;
        let memory = self.memory.map_or_else(
            || "memory unknown".to_owned(),
            |(free, total)| format!("{}, {} free", bytes(total as f64), bytes(free as f64)),
        );
        format!(
            "{}, {}, {} multiprocessors, {memory}; the driver serves CUDA {}",
            device.name(),
            device.architecture(),
            device.multiprocessors(),
            cuda::version(device)
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.device.name(),
            "architecture": self.device.architecture().to_string(),
            "multiprocessors": self.device.multiprocessors(),
            "shared_memory_per_block": self.device.shared_memory(),
            "memory": self.memory.map(|(free, total)| json!({"total": total, "available": free})),
            "cuda": cuda::version(&self.device),
        })
    }
}

fn open(ordinal: usize) -> Result<Found, String> {
    // The first one is open already when it was asked for before.
    let device = match ordinal {
        0 => cuda::device().cloned().map_err(ToString::to_string)?,
        _ => Device::open(ordinal).map_err(|error| error.to_string())?,
    };
    Ok(Found { memory: device.memory().ok(), device })
}

/// The folder of compiled kernels, if it can be written, or made where it is not there yet.
fn cache() -> Result<PathBuf, String> {
    let cache = CubinCache::of_user().map_err(|error| error.to_string())?;
    let folder = cache.folder().to_owned();
    let there = folder.ancestors().find(|folder| folder.exists());
    let there = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match tempfile::tempfile_in(there).map(drop) {
        Ok(()) => Ok(folder),
        Err(source) => Err(Error::Cache { path: folder, source }.to_string()),
    }
}

/// Of the forward, and of the sweeps of the other rules.
fn tables(device: &'static Device) -> Vec<Measured> {
    [table::<Occasion>(device), table::<SweepOccasion>(device)].into_iter().flatten().collect()
}

/// None where there is no folder for it.
fn table<S: Situation>(device: &Device) -> Option<Measured> {
    let file = Table::<S>::path(device.name()).ok()?;
    let choices = Table::<S>::of_user(device.name(), device.architecture()).len();
    Some(Measured { list: S::LIST, file, choices })
}

fn common_kernels(device: &'static Device) -> Vec<(&'static str, &'static str, Rule, String)> {
    let mut kernels = Vec::new();
    for (name, change) in COMMON {
        let Ok(problem) = change(Problem::builder(DType::Bf16).head_dims(64, 64)).build() else { continue };
        let serving = cuda::serving_kernels(device, &problem);
        kernels.extend(serving.into_iter().map(|(backend, rule, kernel)| (*name, backend, rule, kernel)));
    }
    kernels
}

/// Errors of the runtime layer say what is wrong, and after a semicolon what to do.
fn advice(error: &str) -> Advice {
    let (what, todo) = error.split_once("; ").unwrap_or((error, "see docs/bench.md"));
    Advice { what: what.to_owned(), todo: todo.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_of_an_error_is_what_stands_after_its_semicolon() {
        let advice = advice(&Error::NoDriver.to_string());
        assert!(advice.what.starts_with("no NVIDIA driver"), "{}", advice.what);
        assert!(advice.todo.contains("580"), "{}", advice.todo);
    }

    #[test]
    fn every_common_problem_is_a_problem() {
        for (name, change) in COMMON {
            assert!(change(Problem::builder(DType::Bf16).head_dims(64, 64)).build().is_ok(), "{name}");
        }
    }
}
