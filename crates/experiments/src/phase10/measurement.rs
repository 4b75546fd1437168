//! All parts, one after the other.

use std::path::PathBuf;

use super::timings::{Deep, HEADS, Subjected};
use super::{Origin, Part, Result, Row, Subject};
use super::{depth, gradients, peers, rel_diff, timings, trainings};
use crate::backend::Backend;

/// Whoever is told what is measured.
pub trait Watch {
    /// A row is made.
    fn row(&mut self, row: &Row) -> Result<()>;
    /// A training has made so many of its steps.
    fn step(&mut self, what: &str, step: usize, of: usize);
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Which parts.
    pub parts: Vec<Part>,
    /// On which backends, in all types that they serve.
    pub backends: Vec<Backend>,
    /// On which backends trainings are made, in the first type.
    pub trained_on: Vec<Backend>,
    /// Seeds of each training and of each `rel_diff`.
    pub seeds: u64,
    /// A little of each part, in seconds.
    pub quick: bool,
    /// Whether times of `PyTorch` stand beside those of a device.
    pub peers: bool,
    /// Folders of runs that stand for trainings.
    pub runs: Vec<PathBuf>,
}

impl Measurement {
    /// Makes the rows.
    pub fn run(&self, watch: &mut dyn Watch) -> Result<()> {
        for folder in &self.runs {
            trainings::row_of_run(folder, watch)?;
        }
        for part in &self.parts {
            match part {
                Part::Gradients => self.gradients(watch)?,
                Part::RelDiff => self.rel_diff(watch)?,
                Part::Depth => self.depth(watch)?,
                Part::Timings => self.timings(watch)?,
                Part::KeyValue | Part::Sinusoid => self.trainings(*part, watch)?,
            }
        }
        Ok(())
    }

    fn subjects(&self) -> Vec<Subject> {
        Subject::all(&self.backends)
    }

    /// So many of a list, or the first ones.
    fn some<'a, T>(&self, all: &'a [T], few: usize) -> &'a [T] {
        if self.quick { &all[..few.min(all.len())] } else { all }
    }

    fn gradients(&self, watch: &mut dyn Watch) -> Result<()> {
        for subject in self.subjects() {
            let origin = Origin::here(subject.is_cuda());
            gradients::rows(subject, &origin, &mut |row| self.told(watch, row))?;
        }
        Ok(())
    }

    fn rel_diff(&self, watch: &mut dyn Watch) -> Result<()> {
        let steps = self.some(&rel_diff::STEPS, 2);
        let reference = rel_diff::reference(steps, if self.quick { 1 } else { self.seeds })?;
        let mut subjects = self.subjects();
        if subjects.contains(&Subject::REFERENCE) {
            subjects.extend(Subject::WRONG);
        }
        for subject in subjects {
            let origin = Origin::here(subject.is_cuda());
            let against = (steps, &reference[..]);
            rel_diff::rows(subject, against, &origin, &mut |row| self.told(watch, row))?;
        }
        Ok(())
    }

    fn depth(&self, watch: &mut dyn Watch) -> Result<()> {
        let steps = self.some(&depth::STEPS, 2);
        let reference = depth::reference(steps)?;
        for subject in self.subjects() {
            let origin = Origin::here(subject.is_cuda());
            depth::rows(subject, (steps, &reference), &origin, &mut |row| self.told(watch, row))?;
        }
        Ok(())
    }

    fn timings(&self, watch: &mut dyn Watch) -> Result<()> {
        let runs = if self.quick { 3 } else { 15 };
        let (on_device, on_host): (Vec<Subject>, Vec<Subject>) =
            self.subjects().into_iter().partition(|subject| subject.is_cuda());
        for head in self.some(&HEADS, 1).iter().filter(|_| !on_host.is_empty()) {
            let what = Subjected::Head(*head);
            let oracle = timings::reference(what)?;
            for subject in &on_host {
                let oracle = Some(&oracle).filter(|_| *subject != Subject::REFERENCE);
                let (row, _) = timings::row(*subject, what, runs, oracle, &Origin::here(false))?;
                self.told(watch, row)?;
            }
        }
        if on_device.is_empty() { Ok(()) } else { self.timings_on_device(&on_device, runs.min(7), watch) }
    }

    /// A small transformer is held against the host's. The large one is too much for the host, and has the fused f32 for an
    /// oracle.
    fn timings_on_device(&self, subjects: &[Subject], runs: usize, watch: &mut dyn Watch) -> Result<()> {
        let (small, origin) = (Subjected::Deep(Deep::SMALL), Origin::here(true));
        let oracle = timings::reference(small)?;
        for subject in subjects {
            self.told(watch, timings::row(*subject, small, runs, Some(&oracle), &origin)?.0)?;
        }
        if self.quick {
            return Ok(());
        }
        let (large, mut oracle) = (Subjected::Deep(Deep::LARGE), None);
        for subject in Subject::all(&[Backend::CudaFused]).into_iter().filter(|it| subjects.contains(it)) {
            let (row, found) = timings::row(subject, large, runs, oracle.as_ref(), &origin)?;
            oracle = oracle.or(found);
            self.told(watch, row)?;
        }
        if self.peers { peers::rows(&Deep::LARGE, &origin, &mut |row| self.told(watch, row)) } else { Ok(()) }
    }

    fn trainings(&self, part: Part, watch: &mut dyn Watch) -> Result<()> {
        let Some(task) = part.task() else { return Ok(()) };
        let seeds = if self.quick { 2 } else { self.seeds };
        let backends = self.trained_on.iter();
        backends
            .copied()
            .try_for_each(|backend| trainings::rows(part, task, backend, (seeds, self.quick), watch))
    }

    fn told(&self, watch: &mut dyn Watch, row: Row) -> Result<()> {
        watch.row(&if self.quick { row.with("quick", true) } else { row })
    }
}
