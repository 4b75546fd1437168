//! Compiles every instance of this crate's kernels, and prints what the assembler says of each.

#[path = "../../gpu-fwd/examples/report/mod.rs"]
mod report;

fn main() -> Result<std::process::ExitCode, theria_gpu_fwd::Error> {
    report::print(|_| theria_maml::machine::kernels())
}
