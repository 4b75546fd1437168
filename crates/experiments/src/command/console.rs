//! Standard output: locked, with colours where they are welcome, and no panic when nobody reads.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, StdoutLock, Write as _};

use comfy_table::{LineStyle, Table, TableStyle};
use serde_json::Value;

/// Words whose colour says how it went.
const GOOD: [&str; 2] = ["passed", "exact"];
const BAD: [&str; 2] = ["FAILED", "wrong shape"];
const ODD: [&str; 3] = ["refused", "not judged", "frozen-stats"];

/// The one writer to standard output.
pub(super) struct Console {
    out: StdoutLock<'static>,
    colour: bool,
}

impl Console {
    pub(super) fn new() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let out = io::stdout();
        let colour = out.is_terminal() && !set("NO_COLOR") && !dumb;
        Self { out: out.lock(), colour }
    }

    pub(super) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// A line whose verdict has its colour.
    pub(super) fn verdict(&mut self, text: impl Display) -> io::Result<()> {
        let text = self.painted(&text.to_string());
        writeln!(self.out, "{text}")
    }

    pub(super) fn heading(&mut self, text: &str) -> io::Result<()> {
        if self.colour {
            writeln!(self.out, "\n\x1b[1m{text}\x1b[0m")
        } else {
            writeln!(self.out, "\n{text}")
        }
    }

    pub(super) fn table(&mut self, table: &Table) -> io::Result<()> {
        let text = self.painted(&table.trim_fmt());
        writeln!(self.out, "{text}")
    }

    pub(super) fn json(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.out, value)?;
        writeln!(self.out)
    }

    fn painted(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if self.colour {
            for (words, code) in [(&GOOD[..], 32), (&BAD[..], 31), (&ODD[..], 33)] {
                for word in words {
                    text = text.replace(word, &format!("\x1b[{code}m{word}\x1b[0m"));
                }
            }
        }
        text
    }
}

/// A rule below the header and nothing else: tables are read, pasted and piped.
const PLAIN: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table with a header.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(PLAIN).set_header(header);
    table
}

/// A number as JSON; NaN and infinities, which JSON has not, as the strings that `float()` reads.
pub(super) fn json_number(value: f64) -> Value {
    if value.is_finite() { value.into() } else { value.to_string().to_lowercase().into() }
}

/// An error number for people.
pub(super) fn scientific(value: f64) -> String {
    if value == 0.0 { "0".into() } else { format!("{value:.2e}") }
}

/// Bytes for people.
pub(super) fn bytes(count: f64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit =
        (0..units.len() - 1).find(|unit| count < 1024_f64.powi(*unit as i32 + 1)).unwrap_or(units.len() - 1);
    let digits = usize::from(unit > 0);
    format!("{:.digits$} {}", count / 1024_f64.powi(unit as i32), units[unit])
}

/// Whether an error only says that the reader of standard output is gone.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        assert_eq!(bytes(0.0), "0 bytes");
        assert_eq!(bytes(1023.0), "1023 bytes");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * 1024_f64.powi(3)), "3.0 GiB");
    }

    #[test]
    fn numbers_that_json_has_not_become_strings() {
        assert_eq!(json_number(0.5), serde_json::json!(0.5));
        assert_eq!(json_number(f64::INFINITY), serde_json::json!("inf"));
        assert_eq!(json_number(f64::NAN), serde_json::json!("nan"));
    }
}
