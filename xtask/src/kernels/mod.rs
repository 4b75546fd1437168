//! What the assembler says of every kernel, held to a committed budget. Needs no GPU: the run-time
//! compiler comes from the package index ([`compiler`]), a small program compiles every instance
//! ([`report`]), and [`budget`] says what must hold.

mod budget;
mod compiler;
mod report;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::sources::write_file;
use budget::{Budget, Remedy, Violation};
use report::{Instance, Outcome};

/// The crates that have kernels, and the budget of each.
pub(crate) const CRATES: [(&str, &str); 3] = [
    ("theria-gpu-fwd", "crates/gpu-fwd/kernels/budget.toml"),
    ("theria-gpu-bwd", "crates/gpu-bwd/kernels/budget.toml"),
    ("theria-maml", "crates/maml/kernels/budget.toml"),
];

/// All of them, or one.
fn chosen(only: Option<&str>) -> impl Iterator<Item = (&'static str, &'static str)> {
    CRATES.into_iter().filter(move |(package, _)| only.is_none_or(|only| only == *package))
}

/// Prints what every instance needs, and judges nothing.
pub(crate) fn print(root: &Path, only: Option<&str>) -> Result<()> {
    for (package, _) in chosen(only) {
        print!("{}", table(&compile(root, package)?));
    }
    Ok(())
}

/// Fails with everything that breaks the budget of a crate.
pub(crate) fn check(root: &Path, only: Option<&str>) -> Result<()> {
    for (package, budget) in chosen(only) {
        let allowed = read_budget(root, budget)?;
        judge(&compile(root, package)?, &allowed, budget)?;
    }
    Ok(())
}

/// Writes the registers that were measured as the new budgets. What no budget allows still fails.
pub(crate) fn bless(root: &Path, only: Option<&str>) -> Result<()> {
    for (package, budget) in chosen(only) {
        let instances = compile(root, package)?;
        let allowed = Budget::of(&instances);
        write_file(&root.join(budget), &allowed.to_string())?;
        println!("kernels: wrote {budget}");
        judge(&instances, &allowed, budget)?;
    }
    Ok(())
}

fn compile(root: &Path, package: &str) -> Result<Vec<Instance>> {
    let folder = compiler::fetched(root)?;
    let start = Instant::now();
    let instances = report::of_every_instance(root, package, &folder)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("kernels: compiled {} instances of {package} in {seconds:.1} s", instances.len());
    Ok(instances)
}

fn read_budget(root: &Path, path: &str) -> Result<Budget> {
    match fs::read_to_string(root.join(path)) {
        Ok(text) => Budget::parse(&text).with_context(|| format!("{path} is not a budget")),
        // Without a file every instance is reported as one that has no budget.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Budget::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {path}")),
    }
}

fn judge(instances: &[Instance], budget: &Budget, path: &str) -> Result<()> {
    let violations = budget::judge(instances, budget);
    if violations.is_empty() {
        let below = budget.tighter(instances);
        println!("kernels: no spills, no stack, and {} instances within {path}", instances.len());
        if below > 0 {
            println!(
                "kernels: {below} need fewer registers than allowed; `cargo xtask kernels --bless` keeps that"
            );
        }
        return Ok(());
    }
    bail!("{}", message(&violations));
}

/// A line for each instance with all that is wrong with it, then what to do about each kind, once.
fn message(violations: &[Violation]) -> String {
    let of_one_instance = violations.chunk_by(|one, next| one.instance() == next.instance());
    let lines: Vec<String> = of_one_instance
        .map(|violations| {
            let breaches: Vec<String> = violations.iter().map(|one| one.breach.to_string()).collect();
            format!("{}: {}", violations[0].instance(), breaches.join("; "))
        })
        .collect();
    let mut remedies: Vec<Remedy> = violations.iter().map(|violation| violation.breach.remedy()).collect();
    remedies.sort_unstable();
    remedies.dedup();
    let remedies: Vec<String> = remedies.iter().map(ToString::to_string).collect();
    format!(
        "{} of the instances need what they must not:\n  {}\n{}",
        lines.len(),
        lines.join("\n  "),
        remedies.join("\n")
    )
}

fn table(instances: &[Instance]) -> String {
    let head = ["instance", "arch", "threads", "registers", "spills", "stack", "shared", ""];
    let mut rows = vec![head.map(str::to_owned)];
    for Instance { name, architecture, outcome } in instances {
        let (name, architecture) = (name.clone(), architecture.clone());
        let none = String::new;
        rows.push(match outcome {
            Outcome::Refused { .. } => {
                [name, architecture, none(), none(), none(), none(), none(), "does not compile".to_owned()]
            }
            Outcome::Compiled(needs) => [
                name,
                architecture,
                needs.threads.to_string(),
                needs.registers.to_string(),
                (needs.spill_stores + needs.spill_loads).to_string(),
                needs.stack.to_string(),
                needs.shared().to_string(),
                if needs.serialised { "serialised".to_owned() } else { none() },
            ],
        });
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut table = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::fixture::{compiled, refused};

    #[test]
    fn every_violation_is_listed_and_each_advice_given_once() {
        let spilling = |name: &str| {
            compiled(name, "sm_90a", |needs| {
                needs.spill_stores = 8;
                needs.stack = 16;
            })
        };
        let instances = [spilling("a"), spilling("b"), refused("c", "sm_80")];
        let budget = Budget::parse("[sm_90a]\na = 64\nb = 64\n").expect("a budget");
        let error = judge(&instances, &budget, "a budget").expect_err("spills").to_string();
        for part in
            ["3 of the", "sm_90a a: it spills", "; it has a stack frame of 16", "sm_90a b: ", "sm_80 c: "]
        {
            assert!(error.contains(part), "no {part:?} in:\n{error}");
        }
        assert_eq!(error.matches(&Remedy::FewerRegisters.to_string()).count(), 1, "{error}");
        assert!(!error.contains("--bless"), "blessing cures none of these:\n{error}");
    }

    #[test]
    fn a_table_has_a_line_for_each_instance() {
        let table = table(&[compiled("wide", "sm_80", |_| {}), refused("broken", "sm_90a")]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[1].starts_with("wide ") && lines[1].contains("sm_80"), "{table}");
        assert!(lines[2].ends_with("does not compile"), "{table}");
    }
}
