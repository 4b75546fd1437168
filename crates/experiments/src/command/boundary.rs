//! `theria boundary`: which backend supports which rule for which problem.

use clap::Args;
use comfy_table::Table;
use serde_json::{Value, json};
use theria_contract::{Attention, Causal, DType, Problem, ProblemBuilder, Refusal, Rule, Support, Window};
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_jvp_hvp::{Opaque, Streaming};

use super::console::{self, Console};
use super::{Common, Outcome};
use crate::backend::{Backend, with_element};

const EXAMPLES: &str = "Examples:
  theria boundary
  theria boundary --json | jq '.entries[] | select(.rule == \"jvp\")'

exact: the derivative, up to rounding. frozen-stats: another linear map, in experiments only. refused: a call
returns an error with the reason. A backend never falls back in silence. Blocks under \"Experiments only\" (in
JSON: \"standing\": \"experiment\") are for comparison: --backend does not take them.";

const EXPERIMENTS: &str =
    "Experiments only, refused by every production path: `--backend` does not take them";

const PEERS: &str = "The same question put to PyTorch and JAX, measured: docs/phase3_boundary.md";

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

/// Whose answers a block of the table shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// A backend that `theria eval` runs.
    Backend(Backend),
    /// The default backend as a fused kernel is to its callers: without higher rules.
    Opaque,
    /// Another linear map under the name of the derivative. It exists in binary64.
    FrozenStats,
}

impl Subject {
    fn all() -> Vec<Self> {
        let backends = Backend::ALL.iter().map(|backend| Self::Backend(*backend));
        backends.chain([Self::Opaque, Self::FrozenStats]).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Backend(backend) => backend.name(),
            Self::Opaque => "opaque(streaming)",
            Self::FrozenStats => Variant::FrozenStats.name(),
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Self::Backend(backend) => backend.summary(),
            Self::Opaque => "streaming with its higher rules taken away, as a fused kernel is to its callers",
            Self::FrozenStats => "row statistics held constant: another linear map, in binary64 alone",
        }
    }

    /// Whether it is there to be run, or only to be compared with.
    fn is_experiment(self) -> bool {
        !matches!(self, Self::Backend(_))
    }

    fn support(self, problem: &Problem, rule: Rule) -> Option<Support> {
        match self {
            Self::Backend(backend) => Some(backend.support(problem, rule)),
            Self::Opaque => Some(with_element!(problem.dtype(), E => {
                Attention::<E>::support(&Opaque::new(Streaming::new()), problem, rule)
            })),
            Self::FrozenStats => (problem.dtype() == DType::F64)
                .then(|| Varied::new(Variant::FrozenStats).support(problem, rule)),
        }
    }
}

/// Why a name of the table that is no backend cannot be chosen as one; `None` for any other name.
pub(super) fn not_a_backend(name: &str) -> Option<String> {
    let subject = Subject::all().into_iter().find(|subject| {
        subject.is_experiment() && subject.name().split('(').next() == name.split('(').next()
    })?;
    Some(match subject {
        Subject::FrozenStats => format!("'{name}': {}", Refusal::FrozenStats),
        _ => format!("'{name}' is a wrapper for experiments, not a backend: {}", Refusal::Opaque),
    })
}

/// What one of them says of one rule on one problem.
struct Entry {
    subject: Subject,
    problem: &'static str,
    dtype: DType,
    rule: Rule,
    support: Support,
}

fn entries() -> theria_contract::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for subject in Subject::all() {
        for kind in KINDS {
            for dtype in DType::ALL {
                let plain = Problem::builder(dtype).batch(2).heads(8, 8).lengths(64, 64).head_dims(64, 64);
                let problem = (kind.change)(plain).build()?;
                let answers = Rule::ALL.into_iter().filter_map(|rule| {
                    let support = subject.support(&problem, rule)?;
                    Some(Entry { subject, problem: kind.name, dtype, rule, support })
                });
                entries.extend(answers);
            }
        }
    }
    Ok(entries)
}

pub(super) fn run(args: &BoundaryArgs, mut console: Console) -> anyhow::Result<Outcome> {
    if args.common.json {
        console.json(&as_json()?)?;
    } else {
        print(&mut console, Detail::EveryProblem)?;
        console.line(PEERS)?;
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
            "backend": entry.subject.name(),
            "standing": if entry.subject.is_experiment() { "experiment" } else { "backend" },
            "problem": entry.problem,
            "dtype": entry.dtype.name(),
            "rule": entry.rule.name(),
            "support": support,
            "reason": reason,
        })
    });
    Ok(json!({"schema": 1, "command": "boundary", "entries": entries.collect::<Vec<_>>()}))
}

/// How much of the table people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// A row for each problem.
    EveryProblem,
    /// One row for all problems that get the same answers.
    Together,
}

/// A table for each backend, one column for each rule, reasons below.
pub(super) fn print(console: &mut Console, detail: Detail) -> anyhow::Result<()> {
    let entries = entries()?;
    let mut reasons: Vec<String> = Vec::new();
    let (backends, experiments): (Vec<_>, Vec<_>) =
        Subject::all().into_iter().partition(|subject| !subject.is_experiment());
    for subject in backends {
        console.heading(&format!("{}: {}", subject.name(), subject.summary()))?;
        console.table(&block(&entries, subject, detail, &mut reasons))?;
    }
    console.heading(EXPERIMENTS)?;
    for subject in experiments {
        console.heading(&format!("{}: {}", subject.name(), subject.summary()))?;
        console.table(&block(&entries, subject, Detail::Together, &mut reasons))?;
    }
    for (number, reason) in reasons.iter().enumerate() {
        console.line(format_args!("[{}] {reason}", number + 1))?;
    }
    Ok(())
}

/// What some problems and types have in common.
struct Group {
    problems: Vec<&'static str>,
    types: Vec<&'static str>,
    answers: [String; 4],
}

fn block(entries: &[Entry], subject: Subject, detail: Detail, reasons: &mut Vec<String>) -> Table {
    let [forward, backward, jvp, second_order] = Rule::ALL.map(Rule::name);
    let mut groups: Vec<Group> = Vec::new();
    for kind in KINDS {
        // Types that get the same four answers share a row.
        let mut rows: Vec<(Vec<&'static str>, [String; 4])> = Vec::new();
        for dtype in DType::ALL {
            let said = |rule: Rule| {
                entries.iter().find(|entry| {
                    (entry.subject, entry.problem, entry.dtype, entry.rule)
                        == (subject, kind.name, dtype, rule)
                })
            };
            if said(Rule::Forward).is_none() {
                continue;
            }
            let answers = Rule::ALL
                .map(|rule| said(rule).map_or_else(String::new, |entry| answer(&entry.support, reasons)));
            match rows.iter_mut().find(|(_, known)| *known == answers) {
                Some((types, _)) => types.push(dtype.name()),
                None => rows.push((vec![dtype.name()], answers)),
            }
        }
        for (types, answers) in rows {
            let same = |group: &&mut Group| group.types == types && group.answers == answers;
            match groups.iter_mut().find(same) {
                Some(group) if detail == Detail::Together => group.problems.push(kind.name),
                _ => groups.push(Group { problems: vec![kind.name], types, answers }),
            }
        }
    }
    let mut table = console::table(["problem", "types", forward, backward, jvp, second_order]);
    for Group { problems, types, answers } in groups {
        let problems = if problems.len() == KINDS.len() {
            format!("every kind ({})", problems.len())
        } else {
            problems.join("; ")
        };
        table.add_row([problems, types.join(" ")].into_iter().chain(answers));
    }
    table
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_experiments_is_no_backend_and_says_why() {
        for subject in Subject::all() {
            let name = subject.name();
            assert_eq!(not_a_backend(name).is_some(), subject.is_experiment(), "{name}");
            assert_eq!(Backend::named(name).is_none(), subject.is_experiment(), "{name}");
        }
        assert!(not_a_backend("opaque(dense)").unwrap().contains("cannot be differentiated"));
        assert!(not_a_backend("frozen-stats").unwrap().contains("another linear map"));
        assert_eq!(not_a_backend("cuda"), None);
    }
}
