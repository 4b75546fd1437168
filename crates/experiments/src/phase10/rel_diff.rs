//! What the first order leaves out of a meta-gradient, over the steps of the loop.

use theria_maml::{Machine, Result as Learned};

use super::prototypes::{GROUPS, Prototypes, Second, described};
use super::workload::error;
use super::{Origin, Part, Result, Row, Subject, Verdict};
use crate::maml::Visit;

/// Steps of the loops.
pub(super) const STEPS: [usize; 4] = [1, 5, 10, 20];
/// The rate of the inner loops of this part and of the next.
pub(super) const RATE: f64 = 0.4;

/// What was found for a seed: loops of each number of steps, and a product of the Hessian.
pub(super) struct Found {
    product: Vec<f64>,
    loops: Vec<Learned<Second>>,
}

/// Loops of one machine, for each of so many seeds.
struct Loops<'a> {
    steps: &'a [usize],
    seeds: u64,
}

impl Visit for Loops<'_> {
    type Output = Learned<Vec<Found>>;

    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
        let of_seed = |seed| {
            let mut prototypes = Prototypes::new(machine, seed)?;
            let product = prototypes.hessian_product(machine)?;
            let steps = self.steps.iter();
            let loops = steps.map(|steps| prototypes.second(machine, &prototypes.inner(*steps))).collect();
            Ok(Found { product, loops })
        };
        (0..self.seeds).map(of_seed).collect()
    }
}

/// Loops that others are held against.
pub(super) fn reference(steps: &[usize], seeds: u64) -> Result<Vec<Found>> {
    Ok(Subject::REFERENCE.visit(Loops { steps, seeds })??)
}

/// The error that is allowed after so many products of the Hessian, of the gradient and of `rel_diff`: roundings of one
/// step know nothing of those of another, and a bound that grew faster would let operators pass that are wrong on purpose.
fn bound(subject: Subject, steps: usize) -> f64 {
    subject.bound() * (steps as f64).sqrt()
}

/// Rows of a subject, held against the reference.
pub(super) fn rows(
    subject: Subject,
    (steps, reference): (&[usize], &[Found]),
    origin: &Origin,
    add: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let found = subject.visit(Loops { steps, seeds: reference.len() as u64 })??;
    for (seed, (found, right)) in found.iter().zip(reference).enumerate() {
        for ((steps, found_loop), right_loop) in steps.iter().zip(&found.loops).zip(&right.loops) {
            let row = described(Row::new(Part::RelDiff, subject, origin), seed as u64, *steps);
            let row = if subject == Subject::REFERENCE {
                row
            } else {
                row.with("oracle", Subject::REFERENCE.name())
                    .with("hvp_error", error(&found.product, &right.product))
            };
            let row = match (found_loop, right_loop) {
                (Ok(found), Ok(right)) => judged(row, subject, *steps, found, right),
                (Err(reason), _) | (_, Err(reason)) => {
                    let row = row.with("finite", false).with("reason", reason.to_string());
                    row.judged(Verdict::Failed, Verdict::Passed)
                }
            };
            add(row)?;
        }
    }
    Ok(())
}

fn judged(row: Row, subject: Subject, steps: usize, found: &Second, right: &Second) -> Row {
    let mine = found.path.rel_diff();
    let mut row = row
        .with("rel_diff", mine)
        .with("asymmetry", found.symmetry.asymmetry)
        .with("hessian_product", found.symmetry.product)
        .with("gradient_norm", found.path.whole.full)
        .with("finite", found.gradient.iter().all(|x| x.is_finite()));
    for (name, group) in GROUPS.iter().zip(&found.path.groups) {
        row = row.with(&format!("path_{name}"), group.second_order);
        row = row.with(&format!("full_{name}"), group.full);
    }
    if subject == Subject::REFERENCE {
        return row; // it would pass whatever it is
    }
    let (off, bound) = (error(&found.gradient, &right.gradient), bound(subject, steps));
    let between = (mine - right.path.rel_diff()).abs();
    let expected = if subject.is_wrong() { Verdict::Failed } else { Verdict::Passed };
    row.with("rel_diff_reference", right.path.rel_diff())
        .with("rel_diff_difference", between)
        .with("error", off)
        .with("bound", bound)
        .judged(Verdict::of(off <= bound && between <= bound), expected)
}
