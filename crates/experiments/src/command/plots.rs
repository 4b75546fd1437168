//! What `--plots` writes.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use theria_contract::Problem;
use theria_jvp_hvp::proof::{Detail, Finding, Point, Proof, Remainders};
use theria_jvp_hvp::variant::Variant;

use super::proofs::Proved;
use crate::backend::Backend;
use crate::case_file::Destination;
use crate::claim::{Evaluated, Mistake};
use crate::plot::{self, Panel, Series};

/// The picture of the Taylor proofs.
pub(super) const TAYLOR: &str = "taylor.svg";

/// The proofs in the picture: what is subtracted, and the order that is left.
const ORDERS: [(Proof, &str, i32); 3] = [
    (Proof::ValueOrder, "f(x + hv) - f(x)", 1),
    (Proof::VjpOrder, "φ = ⟨u, f⟩ less its gradient term", 2),
    (Proof::SecondOrder, "φ less its gradient and Hessian terms", 3),
];

/// A folder that pictures can be written to, made if need be, and a place for each.
pub(super) fn open(folder: &Path) -> anyhow::Result<Destination> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {} for the pictures", folder.display()))?;
    Ok(Destination::open(&folder.join(TAYLOR))?)
}

/// Draws the remainders that the proofs measured, beside those of an operator that holds a statistic.
pub(super) fn taylor(
    proved: &[Proved],
    backend: Backend,
    problem: &Problem,
    seed: u64,
) -> anyhow::Result<String> {
    let oracle = Evaluated::new(Backend::ORACLE, problem);
    let point: Point = oracle.point(seed);
    let frozen = Mistake::Variant(Variant::FrozenLse);
    let wrong = ORDERS.map(|(proof, ..)| frozen.examine(proof, &oracle, &point));
    let right = ORDERS.map(|(proof, ..)| {
        proved.iter().map(|proved| &proved.finding).find(|finding| finding.proof == proof)
    });
    let right: Vec<&Finding> = right.into_iter().flatten().collect();
    let wrong: Vec<&Finding> = wrong.iter().collect();
    let panels = [
        Panel { title: format!("exact rules ({backend})"), series: series(&right) },
        Panel { title: "frozen statistics: the backward holds lse constant".into(), series: series(&wrong) },
    ];
    plot::remainders("Taylor remainders of attention", &panels)
        .map_err(|error| anyhow!("cannot draw {TAYLOR}: {error}"))
}

fn series<'a>(findings: &[&'a Finding]) -> Vec<Series<'a>> {
    let of = |(proof, name, order)| {
        let finding = findings.iter().find(|finding| finding.proof == proof)?;
        Some(Series { name, order, remainders: remainders(finding)? })
    };
    ORDERS.into_iter().filter_map(of).collect()
}

fn remainders(finding: &Finding) -> Option<&Remainders> {
    match &finding.detail {
        Detail::Remainders(remainders) => Some(remainders),
        _ => None,
    }
}
