//! Suites that need a device.
//!
//! Without one every test shows as ignored, with the reason. With one the suite writes evidence that names
//! the device and the kernels, where `THERIA_EVIDENCE_DIR` asks for it and no test was left out.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use theria_contract::conformance::Suite;
use theria_contract::{Attention, Element, Host, Precision};
use theria_gpu_fwd::{Architecture, Cuda, Device, KernelSpec};

use crate::evidence::{self, Ran, Row, failures, rows_of};

/// The tests of a phase on a device.
pub struct DeviceSuite {
    phase: u32,
    arguments: Arguments,
    missing: Option<String>,
    rows: Arc<Mutex<Vec<(usize, Vec<Row>)>>>,
    /// The device of all tests, if they share one.
    shared: Option<Device>,
    trials: Vec<Trial>,
}

impl DeviceSuite {
    /// Looks for a device.
    pub fn new(phase: u32) -> Self {
        let missing = Device::open(0).err().map(|error| {
            let reason = error.to_string();
            reason.split([':', ';']).next().unwrap_or_default().to_owned()
        });
        Self {
            phase,
            arguments: Arguments::from_args(),
            missing,
            rows: Arc::default(),
            shared: None,
            trials: Vec::new(),
        }
    }

    /// Opens the device once for all tests. Those that record work while others multiply have to: a recording keeps away
    /// what is asked of its own open device, and not what cuBLAS asks of another.
    #[must_use]
    pub fn on_one_device(self) -> Self {
        Self { shared: Device::open(0).ok(), ..self }
    }

    /// Compiles these kernels before the first test, on all processors: a test that comes to hundreds of them would
    /// compile one after the other.
    #[must_use]
    pub fn compiling(self, kernels: impl FnOnce(Architecture) -> Vec<KernelSpec>) -> Self {
        let whole = !short() && self.arguments.filter.is_none() && !self.arguments.list;
        if let Some(device) = Device::open(0).ok().filter(|_| whole) {
            device.compile_all(&kernels(device.architecture()));
        }
        self
    }

    /// Adds a test. What it gives back is judged: a row that failed fails the test.
    #[must_use]
    pub fn test(mut self, name: &str, run: impl FnOnce(&Cuda) -> Vec<Row> + Send + 'static) -> Self {
        let (rows, place) = (Arc::clone(&self.rows), self.trials.len());
        let title = self.missing.as_ref().map_or(name.to_owned(), |reason| format!("{name} ({reason})"));
        let shared = self.shared.clone();
        let body = move || {
            let device = shared.map_or_else(|| Device::open(0), Ok);
            let device = device.map_err(|error| Failed::from(error.to_string()))?;
            let found = run(&Cuda::new(device));
            let failed = failures(&found);
            let count = found.len();
            rows.lock().unwrap_or_else(PoisonError::into_inner).push((place, found));
            if failed.is_empty() {
                return Ok(());
            }
            Err(format!("{} of {count} failed:\n{}", failed.len(), failed.join("\n")).into())
        };
        self.trials.push(Trial::test(title, body).with_ignored_flag(self.missing.is_some()));
        self
    }

    /// Runs everything and ends the process.
    pub fn run(self) -> ! {
        let count = self.trials.len();
        let conclusion = libtest_mimic::run(&self.arguments, self.trials);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).split_off(0);
        // A test that panicked left no rows, one that was filtered out neither: no evidence of a part.
        if rows.len() == count && !short() {
            rows.sort_by_key(|(place, _)| *place);
            let rows: Vec<Row> = rows.into_iter().flat_map(|(_, rows)| rows).collect();
            if let Some(ran) = ran(self.phase) {
                evidence::write_as(self.phase, &rows, &ran);
            }
        }
        conclusion.exit()
    }
}

/// Whether small cases alone are wanted, for tools that make everything a hundred times slower.
pub fn short() -> bool {
    std::env::var("THERIA_CASES").is_ok_and(|cases| cases == "short")
}

/// The device, and the kernels that a bundle was made with.
fn ran(phase: u32) -> Option<Ran> {
    let device = Device::open(0).ok()?;
    let revision = std::env::var_os("THERIA_REVISION")?;
    let text = std::fs::read_to_string(&revision).ok()?;
    let revision: Value = serde_json::from_str(&text).ok()?;
    let kernels = revision["kernel_source_hash"][phase.to_string()].as_str()?.to_owned();
    let ask = |what: &str| {
        let query = format!("--query-gpu={what}");
        let output =
            Command::new("nvidia-smi").args([&query, "--format=csv,noheader", "--id=0"]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
    };
    let cuda = format!("{}.{}", device.driver() / 1000, device.driver() % 1000 / 10);
    let driver = ask("driver_version").unwrap_or_else(|| format!("serves CUDA {cuda}"));
    let facts = [
        ("device", json!(device.name())),
        ("driver", json!(driver)),
        ("cuda", json!(cuda)),
        ("clocks", json!(ask("clocks.sm,clocks.mem,clocks.max.sm"))),
    ];
    Some(Ran::on_device(phase, kernels, facts))
}

/// A backend through a list of cases, judged by an oracle on the host.
pub fn conform<E, B, O>(suite: &Suite, backend: &B, oracle: &O) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    rows_of(&suite.run::<E, _, _>(backend, oracle))
}

/// The standard cases, or a few small ones that touch every feature.
pub fn standard(precision: Option<Precision>) -> Suite {
    const SHORT: [&str; 7] = [
        "plain",
        "ragged lengths",
        "odd head dimension",
        "causal bottom-right window",
        "key lengths",
        "everything",
        "everything, padded",
    ];
    let suite = Suite { precision, ..Suite::standard() };
    if short() { suite.only(|name| SHORT.contains(&name)) } else { suite }
}
