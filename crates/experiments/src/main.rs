//! The `theria` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    theria_experiments::command::run(std::env::args_os())
}
