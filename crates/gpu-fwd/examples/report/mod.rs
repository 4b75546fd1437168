//! What the programs `kernel_report` of all crates with kernels have in common: instances are compiled for every
//! architecture that theria serves, with no GPU, and what the assembler says of each is printed: a line of JSON for the
//! compiler, then one for each instance.
//!
//! `cargo xtask kernels` brings the compiler, reads these lines and holds them to the committed budget.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::{env, io, thread};

use serde_json::{Value, json};
use theria_gpu_fwd::{Architecture, Compiler, Error, KernelSpec};

const ARCHITECTURES: [Architecture; 3] = [Architecture::SM_80, Architecture::SM_89, Architecture::SM_90A];

/// Prints what the assembler says of these instances, on every architecture.
///
/// The compiler does one thing at a time in a process, so the program starts itself once for each core. Called by
/// itself, it is told which part of the instances is its own, and of how many.
pub(crate) fn print(kernels: fn(Architecture) -> Vec<KernelSpec>) -> Result<ExitCode, Error> {
    let compiler = Compiler::open()?;
    let instances_of = |architecture| kernels(architecture).into_iter().map(move |k| (architecture, k));
    let instances: Vec<(Architecture, KernelSpec)> =
        ARCHITECTURES.into_iter().flat_map(instances_of).collect();
    let told: Vec<usize> = env::args().skip(1).filter_map(|number| number.parse().ok()).collect();
    if let [part, parts] = told[..] {
        for (architecture, kernel) in instances.iter().skip(part).step_by(parts.max(1)) {
            println!("{}", line(&compiler, *architecture, kernel));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (major, minor) = compiler.version();
    // How many lines follow: a reader can tell that none is missing.
    println!("{}", json!({ "nvrtc": format!("{major}.{minor}"), "instances": instances.len() }));
    let parts = thread::available_parallelism().map_or(1, usize::from);
    let whole = thread::scope(|scope| {
        let all: Vec<_> = (0..parts).map(|part| scope.spawn(move || pass_on(part, parts))).collect();
        all.into_iter().all(|part| matches!(part.join(), Ok(Ok(true))))
    });
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts this program for a part of the instances, and prints what it prints. Whether it came to its end.
fn pass_on(part: usize, parts: usize) -> io::Result<bool> {
    let told = [part, parts].map(|number| number.to_string());
    let mut child = Command::new(env::current_exe()?).args(told).stdout(Stdio::piped()).spawn()?;
    for line in child.stdout.take().into_iter().flat_map(|lines| BufReader::new(lines).lines()) {
        println!("{}", line?);
    }
    Ok(child.wait()?.success())
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
