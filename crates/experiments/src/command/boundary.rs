//! `theria boundary`: which backend supports which rule for which problem.

use clap::Args;
use serde_json::{Value, json};
use theria_contract::{Causal, DType, Problem, ProblemBuilder, Rule, Support, Window};

use super::console::{self, Console};
use super::{Common, Outcome};
use crate::backend::Backend;

const EXAMPLES: &str = "Examples:
  theria boundary
  theria boundary --json | jq '.entries[] | select(.rule == \"jvp\")'

exact: the derivative, up to rounding. frozen-stats: another linear map, in experiments only. refused: a call
returns an error with the reason. A backend never falls back in silence.";

/// Show which backend supports which rule for which problem
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BoundaryArgs {
    #[command(flatten)]
    common: Common,
}

/// A problem that stands for its kind.
struct Kind {
    name: &'static str,
    change: fn(ProblemBuilder) -> ProblemBuilder,
}

const KINDS: &[Kind] = &[
    Kind { name: "plain", change: |plain| plain },
    Kind { name: "causal", change: |plain| plain.causal(Causal::TopLeft) },
    Kind {
        name: "causal bottom-right, T < M",
        change: |plain| plain.lengths(64, 96).causal(Causal::BottomRight),
    },
    Kind { name: "window", change: |plain| plain.window(Window::new(16, 16)) },
    Kind { name: "mask", change: |plain| plain.mask([2, 1, 64, 64]) },
    Kind { name: "bias", change: |plain| plain.bias([1, 8, 64, 64]) },
    Kind { name: "bias, broadcast", change: |plain| plain.bias([1, 8, 1, 64]) },
    Kind { name: "dropout", change: |plain| plain.dropout(0.1, 1) },
    Kind { name: "grouped heads", change: |plain| plain.heads(8, 2) },
    Kind { name: "key lengths", change: ProblemBuilder::key_lengths },
    Kind { name: "head dimension 256, Dv 64", change: |plain| plain.head_dims(256, 64) },
    Kind { name: "empty batch", change: |plain| plain.batch(0) },
    Kind {
        name: "all of these",
        change: |plain| {
            plain
                .heads(8, 2)
                .causal(Causal::BottomRight)
                .window(Window::new(16, 0))
                .mask([2, 1, 64, 64])
                .bias([1, 8, 64, 64])
                .key_lengths()
                .dropout(0.1, 1)
        },
    },
];

/// What one backend says of one rule on one problem.
struct Entry {
    backend: Backend,
    problem: &'static str,
    dtype: DType,
    rule: Rule,
    support: Support,
}

fn entries() -> theria_contract::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for backend in Backend::ALL {
        for kind in KINDS {
            for dtype in DType::ALL {
                let plain = Problem::builder(dtype).batch(2).heads(8, 8).lengths(64, 64).head_dims(64, 64);
                let problem = (kind.change)(plain).build()?;
                for rule in Rule::ALL {
                    let support = backend.support(&problem, rule);
                    entries.push(Entry { backend: *backend, problem: kind.name, dtype, rule, support });
                }
            }
        }
    }
    Ok(entries)
}

pub(super) fn run(args: &BoundaryArgs, mut console: Console) -> anyhow::Result<Outcome> {
    if args.common.json {
        console.json(&as_json()?)?;
    } else {
        print(&mut console)?;
    }
    Ok(Outcome::Done)
}

/// The whole table for machines.
pub(super) fn as_json() -> theria_contract::Result<Value> {
    let entries = entries()?.into_iter().map(|entry| {
        let (support, reason) = match entry.support {
            Support::Refused(reason) => ("refused".to_owned(), Some(reason.to_string())),
            other => (other.to_string(), None),
        };
        json!({
            "backend": entry.backend.name(),
            "problem": entry.problem,
            "dtype": entry.dtype.name(),
            "rule": entry.rule.name(),
            "support": support,
            "reason": reason,
        })
    });
    Ok(json!({"schema": 1, "command": "boundary", "entries": entries.collect::<Vec<_>>()}))
}

/// One row for each problem, one column for each rule, reasons below.
pub(super) fn print(console: &mut Console) -> anyhow::Result<()> {
    let entries = entries()?;
    let mut reasons: Vec<String> = Vec::new();
    for backend in Backend::ALL {
        console.heading(&format!("{backend}: {}", backend.summary()))?;
        let [forward, backward, jvp, second_order] = Rule::ALL.map(Rule::name);
        let mut table = console::table(["problem", "types", forward, backward, jvp, second_order]);
        for kind in KINDS {
            // Types that get the same four answers share a row.
            let mut rows: Vec<(Vec<&str>, [String; 4])> = Vec::new();
            for dtype in DType::ALL {
                let answers = Rule::ALL.map(|rule| {
                    let entry = entries.iter().find(|entry| {
                        (entry.backend, entry.problem, entry.dtype, entry.rule)
                            == (*backend, kind.name, dtype, rule)
                    });
                    entry.map_or_else(String::new, |entry| answer(&entry.support, &mut reasons))
                });
                match rows.iter_mut().find(|(_, known)| *known == answers) {
                    Some((types, _)) => types.push(dtype.name()),
                    None => rows.push((vec![dtype.name()], answers)),
                }
            }
            for (types, answers) in rows {
                table.add_row([kind.name.to_owned(), types.join(" ")].into_iter().chain(answers));
            }
        }
        console.table(&table)?;
    }
    for (number, reason) in reasons.iter().enumerate() {
        console.line(format_args!("[{}] {reason}", number + 1))?;
    }
    Ok(())
}

fn answer(support: &Support, reasons: &mut Vec<String>) -> String {
    let Support::Refused(reason) = support else { return support.to_string() };
    let reason = reason.to_string();
    let number = reasons.iter().position(|known| *known == reason).unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    });
    format!("refused [{}]", number + 1)
}
