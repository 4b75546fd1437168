//! Tasks of the theria workspace. `cargo xtask --help` lists them; each lives in the file of its name.
//!
//! Please think twice before adding a dependency: this crate is compiled before every task.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

mod builds;
mod ci;
mod date;
mod docs;
mod evidence;
mod gpu_bundle;
mod kernel_sources;
mod kernels;
mod layers;
mod links;
mod phase_check;
mod phases;
mod revision;
mod roadmap;
mod seal;
mod sources;
mod suites;
mod unseal;

/// Tasks of the theria workspace.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    /// Workspace to work on [default: the one that holds xtask]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "Examples:
  cargo xtask ci                        everything that must hold before a change is merged
  cargo xtask ci --only clippy          one step of it
  cargo xtask kernels --check           registers, spills and shared memory of every CUDA kernel
  cargo xtask gpu-bundle                what a GPU host runs; there: bash run.sh test
  cargo xtask phase-check 1             run the suites of phase 1 and check its seal
  cargo xtask seal 1                    run, record and bind the evidence of phase 1
  cargo xtask unseal 1 \"grouped heads\"  reopen phase 1 and say why";

#[derive(Subcommand)]
enum Task {
    /// Run every check, cheapest first, and stop at the first that fails
    Ci {
        /// Print the steps and what each one runs, then stop
        #[arg(long)]
        list: bool,
        /// Run this step alone; may be repeated
        #[arg(long, value_name = "STEP", value_parser = ci::step_names(), conflicts_with = "skip")]
        only: Vec<String>,
        /// Leave this step out; may be repeated
        #[arg(long, value_name = "STEP", value_parser = ci::step_names())]
        skip: Vec<String>,
    },
    /// Build the guide with mdBook and the API pages with rustdoc, warnings denied
    Docs,
    /// Pack tests, benches and the theria command into one folder for a GPU host without Rust and git
    GpuBundle {
        /// Folder to make, relative to the workspace; an older bundle there is replaced
        #[arg(long, value_name = "DIR", default_value = "gpu-bundle")]
        out: PathBuf,
    },
    /// Compile every CUDA kernel, with no GPU, and print what it needs of a device
    ///
    /// The compiler, NVRTC, is fetched once by pip into the folder of build outputs.
    Kernels {
        /// Fail on spills, stack frames, blocks beyond the hardware, and registers beyond the budget
        #[arg(long)]
        check: bool,
        /// Write the registers that were measured as the new budget
        #[arg(long, conflicts_with = "check")]
        bless: bool,
        /// Only the kernels of this crate [default: of all crates]
        #[arg(long, value_parser = PossibleValuesParser::new(kernels::CRATES.map(|(package, _)| package)))]
        package: Option<String>,
    },
    /// Check that crates depend downward only, inherit the lints, and keep unsafe code at the bottom
    Layers,
    /// Find relative links in Markdown files that lead nowhere
    Links,
    /// Check that seals are fresh and that sealed phases still pass
    PhaseCheck {
        /// Phase to check [default: all]
        phase: Option<u32>,
        /// Check hashes and recorded evidence, but leave the suites alone
        #[arg(long)]
        no_run: bool,
    },
    /// Write the status table of ROADMAP.md from phases.toml
    Roadmap {
        /// Change nothing; fail when the table is stale
        #[arg(long)]
        check: bool,
    },
    /// Run a phase's suites, record their evidence, and bind it to the sources it speaks for
    Seal {
        /// Phase to seal
        phase: u32,
        /// Folder of evidence files made on another machine, such as a GPU host
        #[arg(long, value_name = "DIR")]
        evidence: Option<PathBuf>,
        /// Print the hash of the phase's sources (`THERIA_SOURCE_HASH` of a run elsewhere), then stop
        #[arg(long, conflicts_with = "evidence")]
        hash_only: bool,
    },
    /// Reopen a sealed phase, saying why
    Unseal {
        /// Phase to reopen
        phase: u32,
        /// Why its sources are about to change
        reason: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = cli.root.unwrap_or_else(workspace_root);
    match run(&root, cli.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, task: Task) -> anyhow::Result<()> {
    match task {
        Task::Ci { list: true, .. } => {
            ci::list();
            Ok(())
        }
        Task::Ci { only, skip, .. } => ci::run(root, &only, &skip),
        Task::Docs => docs::build(root),
        Task::GpuBundle { out } => gpu_bundle::bundle(root, &out),
        Task::Kernels { check: true, package, .. } => kernels::check(root, package.as_deref()),
        Task::Kernels { bless: true, package, .. } => kernels::bless(root, package.as_deref()),
        Task::Kernels { package, .. } => kernels::print(root, package.as_deref()),
        Task::Layers => layers::check(root),
        Task::Links => links::check(root),
        Task::PhaseCheck { phase, no_run } => phase_check::check(root, phase, !no_run),
        Task::Roadmap { check: true } => roadmap::check(root),
        Task::Roadmap { check: false } => roadmap::write(root),
        Task::Seal { phase, hash_only: true, .. } => seal::print_source_hash(root, phase),
        Task::Seal { phase, evidence, .. } => seal::seal(root, phase, evidence.as_deref()),
        Task::Unseal { phase, reason } => unseal::unseal(root, phase, &reason),
    }
}

/// Cargo names the manifest at run time; the compiled-in path serves a binary started by hand.
fn workspace_root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}
