//! The tables of a bench.

use theria_contract::{DType, Precision};

use super::super::console::{self, Console, bytes, scientific};
use crate::bench::{Ceiling, Host, Row, Task, Times};

/// Two rounds of theria that differ by more are worth a warning.
const STEADY: f64 = 1.03;

pub(super) fn print(
    console: &mut Console,
    host: &Host,
    ceiling: Ceiling,
    rows: &[Row],
    notes: &[String],
) -> std::io::Result<()> {
    console.line(host.line())?;
    if let Some(tflops) = ceiling.matmul_tflops {
        let copy = ceiling.copy_gbps.map_or_else(String::new, |gbps| format!(", copy {gbps:.0} GB/s"));
        console.line(format_args!("ceiling  product {tflops:.3} TFLOP/s{copy}"))?;
    }
    let mut table = console::table([
        "rule",
        "B,H,T,D",
        "type",
        "backend",
        "p50",
        "p90",
        "p99",
        "TFLOP/s",
        "of ceiling",
        "extra memory",
        "error",
        "by",
    ]);
    for row in rows {
        let task = &row.task;
        let measured = row.outcome.as_ref().ok();
        let times = measured.and_then(|measured| measured.times.as_ref());
        let at = |share: f64| times.map_or_else(String::new, |times| duration(times.percentile(share)));
        table.add_row([
            task.rule.name().to_owned(),
            row.shape.to_string(),
            task.problem.dtype().name().to_owned(),
            task.backend.name().to_owned(),
            if row.is_wrong() {
                "FAILED".to_owned()
            } else if times.is_none() {
                "refused".to_owned()
            } else {
                at(0.5)
            },
            at(0.9),
            at(0.99),
            row.tflops().map_or_else(String::new, tflops),
            row.fraction(ceiling).map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share)),
            row.extra_bytes().map_or_else(String::new, |count| bytes(count as f64)),
            measured.map_or_else(String::new, |measured| scientific(measured.checked.error)),
            times.map_or_else(String::new, by),
        ]);
    }
    console.table(&table)?;
    print_peers(console, rows)?;
    for row in rows {
        let place = format!("{} {}", row.task.rule, row.shape);
        if let Some(error) = row.error() {
            console.line(format_args!("{place}: {error}"))?;
        }
        if let Some(times) = row.outcome.as_ref().ok().and_then(|measured| measured.with_rest.as_ref()) {
            let time = duration(times.percentile(0.5));
            console.line(format_args!(
                "{place}: {time} where O keeps what rounding takes from it, for derivatives"
            ))?;
        }
        let drift = row.outcome.as_ref().map_or(1.0, |measured| measured.drift);
        if drift > STEADY {
            console.line(format_args!(
                "{place}: warning: the two rounds of theria differ by {:.1} %; something else uses this machine",
                100.0 * (drift - 1.0)
            ))?;
        }
    }
    for note in notes {
        console.line(note)?;
    }
    let notes = [
        (Precision::F32, "f32 on a device: products are split in three of TF32, which no ceiling here is of"),
        (Precision::Tf32, "f32 on a device: operands are rounded to TF32, which no ceiling here is of"),
    ];
    for (precision, note) in notes {
        let is = |row: &Row| {
            let Task { backend, problem, .. } = &row.task;
            backend.is_cuda() && backend.precision(DType::F32) == precision && problem.dtype() == DType::F32
        };
        if rows.iter().any(is) {
            console.line(note)?;
        }
    }
    Ok(())
}

fn print_peers(console: &mut Console, rows: &[Row]) -> std::io::Result<()> {
    let measured = rows.iter().filter_map(|row| Some((row, row.outcome.as_ref().ok()?)));
    let with_peers: Vec<_> = measured.filter(|(_, measured)| !measured.peers.is_empty()).collect();
    if with_peers.is_empty() {
        return Ok(());
    }
    console.heading("Peers: a ratio above 1 says that theria is faster")?;
    let mut table =
        console::table(["rule", "B,H,T,D", "peer", "version", "p50", "ratio", "extra memory", "by"]);
    for (row, measured) in with_peers {
        for peer in &measured.peers {
            let ratio = measured.times.as_ref().and_then(|times| peer.ratio(times));
            let p50 = match (peer.micros, &peer.error) {
                (Some(micros), _) => duration(micros[0]),
                (None, error) => short(error.as_deref().unwrap_or_default()),
            };
            table.add_row([
                row.task.rule.name().to_owned(),
                row.shape.to_string(),
                peer.name.clone(),
                peer.version.clone().unwrap_or_default(),
                p50,
                ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                peer.peak_extra_bytes.map_or_else(String::new, |count| bytes(count as f64)),
                peer.method.clone().unwrap_or_default(),
            ]);
        }
    }
    console.table(&table)
}

/// The first line of an error; the result file has all of it.
fn short(error: &str) -> String {
    const LONGEST: usize = 60;
    let line = error.lines().next().unwrap_or_default();
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    format!("{}…", line.chars().take(LONGEST).collect::<String>())
}

fn by(times: &Times) -> String {
    format!("{} × {}", times.count(), times.method.name())
}

fn tflops(value: f64) -> String {
    if value < 10.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

fn duration(micros: f64) -> String {
    match micros {
        _ if micros < 1e3 => format!("{micros:.2} µs"),
        _ if micros < 1e6 => format!("{:.3} ms", micros * 1e-3),
        _ => format!("{:.3} s", micros * 1e-6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_errors_are_short() {
        let times = [9.125, 1234.5, 2e6].map(duration);
        assert_eq!(times, ["9.12 µs", "1.234 ms", "2.000 s"]);
        assert_eq!(short("no kernel\nat line 3"), "no kernel");
        assert_eq!(short(&"x".repeat(100)).chars().count(), 61);
    }
}
