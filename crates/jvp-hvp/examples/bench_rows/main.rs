//! Measures rows of a bench file and prints it as JSON.
//!
//! ```text
//! cargo run --release -p theria-jvp-hvp --example bench_rows -- --help
//! ```
//!
//! Times are wall-clock times of whole calls (`"method": "clock"`), after a warm-up. Memory is what
//! the system saw: a fresh process for each row touches operands and outputs, resets the high-water
//! mark of its resident set, makes one call and reads the mark (Linux; `null` elsewhere). So scratch,
//! stacks of threads and whatever the product library keeps are all counted, to the 4 KB page.

mod arguments;
mod call;
mod ceiling;
mod host;
mod memory;
mod row;

use std::error::Error;
use std::process::ExitCode;

use serde_json::json;

use arguments::{Arguments, HELP, Memory};

/// Whatever went wrong.
type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Failure> {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build()?;
    pool.install(|| {
        if arguments.memory == Memory::Only {
            println!(
                "{}",
                json!(row::peak_extra_bytes(&arguments, arguments.shapes[0], arguments.rules[0])?)
            );
            return Ok(());
        }
        let mut rows = Vec::new();
        for &shape in &arguments.shapes {
            for &rule in &arguments.rules {
                rows.push(row::measure(&arguments, shape, rule)?);
            }
        }
        let ceiling = if arguments.ceiling { ceiling::measure(arguments.seconds) } else { json!(null) };
        let file = json!({ "schema": 1, "host": host::describe(), "ceiling": ceiling, "rows": rows });
        println!("{}", serde_json::to_string_pretty(&file)?);
        Ok(())
    })
}
