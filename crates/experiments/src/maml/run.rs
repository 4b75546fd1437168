//! A training in a folder: stopped at any moment, it goes on from its last checkpoint.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use theria_maml::Machine;

use super::{
    Checkpoint, Evaluation, Folder, MamlError, Record, Result, Settings, Source, Training, Visit, picture,
    with_machine,
};

/// A run that is about to begin, or to go on.
#[derive(Debug)]
pub struct Run {
    settings: Settings,
    place: Place,
}

/// Where a run is.
#[derive(Debug)]
enum Place {
    /// To be made, when the machine is known to do what is asked.
    New(PathBuf),
    /// There, with what it goes on from.
    There(Folder, Box<Checkpoint>),
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its settings.
    pub settings: Settings,
    /// Its folder.
    pub folder: PathBuf,
    /// The step that it went on from, if it did.
    pub resumed: Option<usize>,
    /// Outer steps, all together.
    pub steps: usize,
    /// What the steps of this process took, with all that is around them.
    pub seconds: f64,
    /// The inner rates at the end.
    pub rates: Vec<f64>,
    /// What it says on tasks that nothing was learned from.
    pub evaluation: Evaluation,
    /// Pictures that were drawn.
    pub pictures: Vec<PathBuf>,
}

impl Summary {
    /// As an object.
    pub fn json(&self) -> Value {
        let pictures: Vec<String> = self.pictures.iter().map(|path| path.display().to_string()).collect();
        json!({
            "schema": 1,
            "command": "maml",
            "version": env!("CARGO_PKG_VERSION"),
            "settings": self.settings.texts(),
            "out": self.folder.display().to_string(),
            "resumed": self.resumed,
            "steps": self.steps,
            "seconds": self.seconds,
            "rates": self.rates,
            "evaluation": self.evaluation.json(),
            "pictures": pictures,
        })
    }
}

/// What is asked of a run beside its training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// Tasks to be judged by.
    pub evaluate: usize,
    /// Whether pictures are drawn.
    pub plots: bool,
    /// Tasks that are learned from side by side, on the threads of the pool that it is called in. They change no bit.
    pub threads: usize,
}

impl Run {
    /// A new run in a folder that need not exist. Nothing is written yet.
    pub fn new(settings: Settings, folder: &Path) -> Result<Self> {
        settings.check()?;
        Folder::is_free(folder)?;
        Ok(Self { settings, place: Place::New(folder.to_owned()) })
    }

    /// The run in a folder, with what `change` makes of its settings: nothing but a further end, or another number of
    /// checkpoints.
    pub fn resume(folder: &Path, source: Source, change: impl FnOnce(Settings) -> Settings) -> Result<Self> {
        let there = Folder::open(folder)?;
        let checkpoint = there.checkpoint(source)?;
        let settings = change(checkpoint.settings.clone());
        settings.check()?;
        let differences = settings.differences(&checkpoint.settings);
        if !differences.is_empty() {
            let differences = differences.join(", ");
            return Err(MamlError::OtherSettings { folder: folder.to_owned(), differences });
        }
        Ok(Self { settings, place: Place::There(there, Box::new(checkpoint)) })
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Steps that were made already.
    pub fn step(&self) -> usize {
        match &self.place {
            Place::New(_) => 0,
            Place::There(_, checkpoint) => checkpoint.step,
        }
    }

    /// Trains to the end, and judges. `watch` is shown each step.
    pub fn train(self, extras: Extras, watch: &mut dyn FnMut(&Record)) -> Result<Summary> {
        let (attending, dtype) = (self.settings.attending(), self.settings.dtype);
        with_machine(attending, dtype, OnMachine { run: self, extras, watch })?
    }

    fn on_machine<M: Machine + 'static>(
        self,
        machine: &M,
        extras: Extras,
        watch: &mut dyn FnMut(&Record),
    ) -> Result<Summary> {
        let begun = Instant::now();
        let resumed = matches!(self.place, Place::There(..)).then(|| self.step());
        let Self { settings, place } = self;
        let (training, mut folder) = match place {
            Place::New(path) => {
                let training = Training::new(machine, &settings)?;
                let folder = Folder::create(&path)?;
                folder.write_settings(&settings)?;
                folder.write_checkpoint(&training.checkpoint()?)?;
                (training, folder)
            }
            Place::There(mut folder, checkpoint) => {
                let training = Training::resume(machine, &settings, &checkpoint)?;
                folder.cut_log(checkpoint.step)?;
                if settings != checkpoint.settings {
                    folder.write_settings(&settings)?;
                }
                (training, folder)
            }
        };
        // A device has its own work side by side.
        let learners = if M::RECORDS { 1 } else { extras.threads.min(settings.batch) };
        let mut training = training.side_by_side(learners)?;
        let mut kept = training.steps();
        let trained = steps(&mut training, &mut folder, &settings, &mut kept, watch);
        trained.map_err(|source| MamlError::Stopped {
            folder: folder.path().to_owned(),
            kept,
            source: Box::new(source),
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Summary {
            folder: folder.path().to_owned(),
            resumed,
            steps: training.steps(),
            seconds,
            rates: training.inner().rates.clone(),
            evaluation: training.evaluate(extras.evaluate)?,
            pictures: if extras.plots { draw(&folder, &settings)? } else { Vec::new() },
            settings,
        })
    }
}

/// Steps until the last one, with a line of the log for each, and a checkpoint now and then. `kept` is the step of the
/// last one.
fn steps<M: Machine + 'static>(
    training: &mut Training<'_, M>,
    folder: &mut Folder,
    settings: &Settings,
    kept: &mut usize,
    watch: &mut dyn FnMut(&Record),
) -> Result<()> {
    while training.steps() < settings.outer_steps {
        let record = training.step()?;
        folder.append(&record)?;
        watch(&record);
        let step = training.steps();
        if step.is_multiple_of(settings.checkpoint_every) || step == settings.outer_steps {
            folder.write_checkpoint(&training.checkpoint()?)?;
            *kept = step;
        }
    }
    Ok(())
}

fn draw(folder: &Folder, settings: &Settings) -> Result<Vec<PathBuf>> {
    let title = format!("{}, {}, {}", settings.task, settings.mode, settings.backend);
    let pictures = picture::pictures(&title, &folder.records()?)?;
    pictures.into_iter().map(|(name, picture)| folder.write_picture(name, &picture)).collect()
}

struct OnMachine<'w> {
    run: Run,
    extras: Extras,
    watch: &'w mut dyn FnMut(&Record),
}

impl Visit for OnMachine<'_> {
    type Output = Result<Summary>;

    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
        self.run.on_machine(machine, self.extras, self.watch)
    }
}
