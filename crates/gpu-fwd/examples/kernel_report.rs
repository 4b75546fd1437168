//! Compiles every instance of this crate's kernels, and prints what the assembler says of each.

mod report;

fn main() -> Result<std::process::ExitCode, theria_gpu_fwd::Error> {
    report::print(theria_gpu_fwd::forward::kernels)
}
