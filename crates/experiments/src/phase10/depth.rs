//! Loops of many steps: how the error of a type grows, what is kept, and how long it takes.

use std::time::Instant;

use theria_maml::{Machine, Result as Learned};

use super::prototypes::{Prototypes, described};
use super::workload::error;
use super::{Origin, Part, Result, Row, Subject};
use crate::bench::{Method, Times};
use crate::maml::Visit;

/// Steps of the loops.
pub(super) const STEPS: [usize; 7] = [1, 2, 5, 10, 20, 50, 100];
/// Each is gone so many times: on a device the first is made, and the second recorded.
const RUNS: usize = 3;

/// The loop of one number of steps.
pub(super) struct Found {
    gradient: Vec<f64>,
    kept: usize,
    last: f64,
}

/// Loops of one machine.
struct Loops<'a> {
    steps: &'a [usize],
    runs: usize,
}

impl Visit for Loops<'_> {
    type Output = Learned<Vec<Learned<Found>>>;

    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
        let mut prototypes = Prototypes::new(machine, 0)?;
        let found = |steps: &usize| {
            let inner = prototypes.inner(*steps);
            let (mut made, mut last) = (prototypes.gradient(machine, &inner)?, f64::NAN);
            for _ in 1..self.runs {
                let now = Instant::now();
                made = prototypes.gradient(machine, &inner)?;
                last = Times::new(Method::Clock, &[now.elapsed()]).percentile(0.5);
            }
            Ok(Found { gradient: made.0, kept: made.1, last })
        };
        Ok(self.steps.iter().map(found).collect())
    }
}

/// Loops that others are held against.
pub(super) fn reference(steps: &[usize]) -> Result<Vec<Learned<Found>>> {
    Ok(Subject::REFERENCE.visit(Loops { steps, runs: 1 })??)
}

/// Rows of a subject, held against the reference.
pub(super) fn rows(
    subject: Subject,
    (steps, reference): (&[usize], &[Learned<Found>]),
    origin: &Origin,
    add: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let found = subject.visit(Loops { steps, runs: RUNS })??;
    for ((steps, found), right) in steps.iter().zip(&found).zip(reference) {
        let row = described(Row::new(Part::Depth, subject, origin), 0, *steps);
        let row = row.with("keep", "roots");
        add(match (found, right) {
            (Ok(found), Ok(right)) => held_against(row, subject, error(&found.gradient, &right.gradient))
                .with("finite", found.gradient.iter().all(|x| x.is_finite()))
                .with("kept_states", found.kept)
                .with("time_us", found.last),
            (Err(reason), _) | (_, Err(reason)) => {
                row.with("finite", false).with("reason", reason.to_string())
            }
        })?;
    }
    Ok(())
}

/// The error against the reference, which has none itself.
fn held_against(row: Row, subject: Subject, error: f64) -> Row {
    if subject == Subject::REFERENCE {
        row
    } else {
        row.with("oracle", Subject::REFERENCE.name()).with("error", error)
    }
}
