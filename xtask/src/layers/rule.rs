//! The rule of the layers, over names and edges alone.

/// The layers from the bottom up: a crate may use the crates before it. Planned ones are listed
/// too, so that a new crate lands on its layer rather than wherever it happens to compile.
pub(crate) const ORDER: &[&str] = &[
    "theria-contract",
    "theria-reference",
    "theria-jvp-hvp",
    "theria-gpu-fwd",
    "theria-gpu-bwd",
    "theria-maml",
    "theria-experiments",
];

/// Uses every layer; nothing uses it.
const TESTS: &str = "theria-tests";

/// Stands beside the layers, so that checks still run when a layer does not compile.
const TOOL: &str = "xtask";

/// The crates that launch kernels. Nobody else needs unsafe code.
pub(crate) const UNSAFE_CRATES: &[&str] = &["theria-gpu-fwd", "theria-gpu-bwd", "theria-maml"];

pub(crate) fn may_be_unsafe(name: &str) -> bool {
    UNSAFE_CRATES.contains(&name)
}

/// `from` declares that it uses `to`.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) kind: &'static str,
}

/// A breach of the rule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error(
        "{name}: no layer is known for it; add it to ORDER in xtask/src/layers/rule.rs, \
         after the crates it uses (known: {})", ORDER.join(", ")
    )]
    Unknown { name: String },
    #[error("{from} -> {to} ({kind}): {why}")]
    Edge { from: String, to: String, kind: &'static str, why: String },
}

#[derive(Clone, Copy)]
enum Standing {
    Layer(usize),
    Tests,
    Tool,
}

fn standing(name: &str) -> Option<Standing> {
    match name {
        TESTS => Some(Standing::Tests),
        TOOL => Some(Standing::Tool),
        _ => ORDER.iter().position(|layer| *layer == name).map(Standing::Layer),
    }
}

/// Every breach among `members` and the `edges` between them. Because a layer may only use earlier
/// ones, a cycle always holds an edge that breaks the rule: no search for cycles is needed.
pub(crate) fn violations(members: &[&str], edges: &[Edge]) -> Vec<Violation> {
    let unknown = members.iter().filter(|name| standing(name).is_none());
    let mut found: Vec<Violation> =
        unknown.map(|name| Violation::Unknown { name: (*name).to_owned() }).collect();
    for edge in edges {
        // A dev-dependency on oneself turns a feature on for one's own tests: no layer is crossed.
        if edge.from == edge.to {
            continue;
        }
        let (Some(from), Some(to)) = (standing(&edge.from), standing(&edge.to)) else {
            continue; // reported above as unknown
        };
        if let Some(why) = objection(from, to) {
            found.push(Violation::Edge {
                from: edge.from.clone(),
                to: edge.to.clone(),
                kind: edge.kind,
                why,
            });
        }
    }
    found
}

fn objection(from: Standing, to: Standing) -> Option<String> {
    match (from, to) {
        (Standing::Tool, _) => Some(format!("{TOOL} uses no crate of the project")),
        (_, Standing::Tool) => Some(format!("nothing uses {TOOL}")),
        (_, Standing::Tests) => Some(format!("nothing uses {TESTS}")),
        (Standing::Layer(from), Standing::Layer(to)) if to >= from => {
            let allowed = match &ORDER[..from] {
                [] => "no crate of the project".to_owned(),
                below => below.join(", "),
            };
            Some(format!(
                "it points up; {} may use {allowed}. Move the shared part into the lower crate, \
                 or the test into tests/",
                ORDER[from]
            ))
        }
        (Standing::Layer(_) | Standing::Tests, Standing::Layer(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str, kind: &'static str) -> Edge {
        Edge { from: from.to_owned(), to: to.to_owned(), kind }
    }

    /// The edges that the rule rejects, as pairs.
    fn rejected(edges: &[Edge]) -> Vec<(String, String)> {
        let mut members: Vec<&str> = edges.iter().flat_map(|e| [e.from.as_str(), e.to.as_str()]).collect();
        members.sort_unstable();
        members.dedup();
        violations(&members, edges)
            .into_iter()
            .map(|violation| match violation {
                Violation::Edge { from, to, .. } => (from, to),
                Violation::Unknown { name } => (name, "unknown".to_owned()),
            })
            .collect()
    }

    fn pair(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn every_layer_may_use_every_earlier_one_and_tests_may_use_all() {
        let mut edges = Vec::new();
        for (index, upper) in ORDER.iter().enumerate() {
            edges.extend(ORDER[..index].iter().map(|lower| edge(upper, lower, "dependency")));
            edges.push(edge(TESTS, upper, "dev-dependency"));
        }
        assert_eq!(edges.len(), 7 * 6 / 2 + 7);
        assert_eq!(rejected(&edges), []);
    }

    #[test]
    fn no_layer_may_use_a_later_one_by_any_kind_of_dependency() {
        for (index, lower) in ORDER.iter().enumerate() {
            for upper in &ORDER[index + 1..] {
                for kind in ["dependency", "build-dependency", "dev-dependency"] {
                    assert_eq!(rejected(&[edge(lower, upper, kind)]), [pair(lower, upper)], "{kind}");
                }
            }
        }
    }

    #[test]
    fn a_cycle_through_a_dev_dependency_is_found() {
        let edges = [
            edge("theria-reference", "theria-contract", "dependency"),
            edge("theria-contract", "theria-reference", "dev-dependency"),
        ];
        assert_eq!(rejected(&edges), [pair("theria-contract", "theria-reference")]);
    }

    #[test]
    fn a_crate_may_turn_on_its_own_feature_for_its_tests() {
        assert_eq!(rejected(&[edge("theria-contract", "theria-contract", "dev-dependency")]), []);
    }

    #[test]
    fn an_unknown_crate_is_an_error_that_says_where_to_add_it() {
        let found = violations(&["theria-contract", "theria-candle"], &[]);
        assert_eq!(found, [Violation::Unknown { name: "theria-candle".to_owned() }]);
        assert!(found[0].to_string().contains("xtask/src/layers/rule.rs"), "{}", found[0]);
    }

    #[test]
    fn nothing_uses_the_test_crate_and_the_tool_stands_alone() {
        for (from, to) in [
            ("theria-experiments", TESTS),
            (TOOL, TESTS),
            (TOOL, "theria-contract"),
            ("theria-maml", TOOL),
            (TESTS, TOOL),
        ] {
            assert_eq!(rejected(&[edge(from, to, "dev-dependency")]), [pair(from, to)]);
        }
    }

    #[test]
    fn a_message_names_the_edge_and_what_is_allowed() {
        let wrong = [edge("theria-jvp-hvp", "theria-maml", "dependency")];
        let found = violations(&["theria-jvp-hvp", "theria-maml"], &wrong);
        let message = found[0].to_string();
        assert!(message.starts_with("theria-jvp-hvp -> theria-maml (dependency)"), "{message}");
        assert!(message.contains("may use theria-contract, theria-reference."), "{message}");
    }
}
