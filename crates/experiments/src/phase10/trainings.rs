//! Trainings of both modes over seeds: the same start and the same tasks for both.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use theria_maml::Machine;

use super::{Origin, Part, Phase10Error, Result, Row, Subject, Watch};
use crate::backend::Backend;
use crate::maml::{
    Attending, Evaluation, Folder, MamlError, MetaMode, Settings, Source, TaskName, Training, Visit,
    with_machine,
};

/// What is compared.
const MODES: [MetaMode; 2] = [MetaMode::Full, MetaMode::FirstOrder];
/// Of a quick training.
const QUICK: (usize, usize) = (4, 10);

/// Tasks that a training is judged by, none of which it has learned from.
fn judged(part: Part) -> usize {
    if part == Part::Sinusoid { 600 } else { 1000 }
}

/// A training to its end, or one that is there already.
struct Train<'a, 'w> {
    settings: &'a Settings,
    from: Option<&'a Folder>,
    tasks: usize,
    watch: &'w mut dyn Watch,
}

impl Visit for Train<'_, '_> {
    type Output = Result<(Evaluation, f64), MamlError>;

    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
        if let Some(folder) = self.from {
            let checkpoint = folder.checkpoint(Source::Latest)?;
            let training = Training::resume(machine, self.settings, &checkpoint)?;
            let seconds = folder.records()?.iter().map(|record| record.seconds).sum();
            return Ok((training.evaluate(self.tasks)?, seconds));
        }
        let Settings { task, mode, seed, outer_steps, .. } = self.settings;
        let what = format!("{task}, {mode}, seed {seed}");
        let (begun, mut training) = (Instant::now(), Training::new(machine, self.settings)?);
        while training.steps() < *outer_steps {
            training.step()?;
            self.watch.step(&what, training.steps(), *outer_steps);
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok((training.evaluate(self.tasks)?, seconds))
    }
}

/// Rows of trainings on a backend, in the first type that it serves.
pub(super) fn rows(
    part: Part,
    task: TaskName,
    backend: Backend,
    (seeds, quick): (u64, bool),
    watch: &mut dyn Watch,
) -> Result<()> {
    let Some(subject) = Subject::all(&[backend]).first().copied() else { return Ok(()) };
    let origin = Origin::here(subject.is_cuda());
    for seed in 0..seeds {
        for mode in MODES {
            let usual = Settings::of(task);
            let usual = if quick { Settings { outer_steps: QUICK.0, batch: 4, ..usual } } else { usual };
            let settings = Settings { mode, seed, backend: backend.into(), dtype: subject.dtype, ..usual };
            let tasks = if quick { QUICK.1 } else { judged(part) };
            let begun = Train { settings: &settings, from: None, tasks, watch: &mut *watch };
            let (evaluation, seconds) = with_machine(settings.attending(), settings.dtype, begun)??;
            let made = row(part, &settings, (&evaluation, seconds), &origin);
            watch.row(&if quick { made.with("quick", true) } else { made })?;
        }
    }
    Ok(())
}

/// The row of a run of `theria maml` that came to its end. It is judged here and now.
pub(super) fn row_of_run(path: &Path, watch: &mut dyn Watch) -> Result<()> {
    let refuse = |reason: String| Phase10Error::Run { folder: path.to_owned(), reason };
    let folder = Folder::open(path)?;
    let checkpoint = folder.checkpoint(Source::Latest)?;
    let settings = checkpoint.settings.clone();
    let part = Part::ALL.into_iter().find(|part| part.task() == Some(settings.task));
    let part = part.ok_or_else(|| refuse(format!("its task is {}", settings.task)))?;
    if !MODES.contains(&settings.mode) {
        return Err(refuse(format!("its mode is {}, and full and first-order are compared", settings.mode)));
    }
    if checkpoint.step < settings.outer_steps {
        return Err(refuse(format!("it stands at step {} of {}", checkpoint.step, settings.outer_steps)));
    }
    let Attending { backend, .. } = settings.attending();
    let train = Train { settings: &settings, from: Some(&folder), tasks: judged(part), watch: &mut *watch };
    let (evaluation, seconds) = with_machine(settings.attending(), settings.dtype, train)??;
    let origin = Origin::here(backend.is_cuda());
    let row = row(part, &settings, (&evaluation, seconds), &origin);
    watch.row(&row.with("trained_by", trained_by(path)))
}

/// The revision that a run was begun with, as its folder says.
fn trained_by(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("settings.json")).unwrap_or_default();
    let settings = serde_json::from_str::<Value>(&text).unwrap_or_default();
    settings["host"]["git"].as_str().unwrap_or("unknown").to_owned()
}

fn row(part: Part, settings: &Settings, (evaluation, seconds): (&Evaluation, f64), origin: &Origin) -> Row {
    let Evaluation { tasks, diverged, before, loss, accuracy } = evaluation;
    let backend = settings.attending().to_string();
    Row::of(part, &backend, settings.dtype.name(), origin)
        .with("mode", settings.mode.to_string())
        .with("seed", settings.seed)
        .with("steps", settings.outer_steps)
        .with("batch", settings.batch)
        .with("inner_steps", settings.inner_steps)
        .with("inner_rate", settings.inner_rate)
        .with("outer_rate", settings.outer_rate)
        .with("evaluated", *tasks)
        .with("diverged", *diverged)
        .with("loss_before", before.mean)
        .with("loss", loss.mean)
        .with("loss_median", loss.median)
        .with("loss_standard_error", loss.error)
        .with("accuracy", accuracy.map(|accuracy| accuracy.mean))
        .with("finite", loss.mean.is_finite())
        .with("seconds", seconds)
}
