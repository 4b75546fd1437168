//! What the programs `kernel_report` of all crates with kernels have in common: instances are compiled for every
//! architecture that theria serves, with no GPU, and what the assembler says of each is printed: a line of JSON for the
//! compiler, then one for each instance.
//!
//! `cargo xtask kernels` brings the compiler, reads these lines and holds them to the committed budget.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use theria_gpu_fwd::{Architecture, Compiler, Error, KernelSpec};

const ARCHITECTURES: [Architecture; 3] = [Architecture::SM_80, Architecture::SM_89, Architecture::SM_90A];

/// Prints what the assembler says of these instances, on every architecture.
pub(crate) fn print(kernels: fn(Architecture) -> Vec<KernelSpec>) -> Result<(), Error> {
    let compiler = Compiler::open()?;
    let instances_of = |architecture| kernels(architecture).into_iter().map(move |k| (architecture, k));
    let instances: Vec<(Architecture, KernelSpec)> =
        ARCHITECTURES.into_iter().flat_map(instances_of).collect();
    let (major, minor) = compiler.version();
    // How many lines follow: a reader can tell that none is missing.
    println!("{}", json!({ "nvrtc": format!("{major}.{minor}"), "instances": instances.len() }));

    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((architecture, kernel)) = instances.get(next.fetch_add(1, Ordering::Relaxed)) {
                    println!("{}", line(&compiler, *architecture, kernel));
                }
            });
        }
    });
    Ok(())
}

fn line(compiler: &Compiler, architecture: Architecture, kernel: &KernelSpec) -> Value {
    let (name, architecture_name) = (&kernel.name, architecture.to_string());
    let failed = |error: String| json!({ "name": name, "architecture": architecture_name, "error": error });
    let compiled = match compiler.compile(kernel.source, architecture, &kernel.options()) {
        Ok(compiled) => compiled,
        Err(error) => return failed(error.to_string()),
    };
    let Some(report) = compiled.report().into_iter().find(|report| report.kernel == KernelSpec::ENTRY) else {
        return failed(format!("the source has no function `{}`", KernelSpec::ENTRY));
    };
    json!({
        "name": name,
        "architecture": architecture_name,
        "registers": report.registers,
        "spill_stores": report.spill_stores,
        "spill_loads": report.spill_loads,
        "stack": report.stack,
        "static_shared": report.shared,
        "dynamic_shared": kernel.shared,
        "threads": kernel.threads,
        "serialised": report.serialised,
    })
}
