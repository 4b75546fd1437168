//! Everything that a training depends on.
//!
//! Settings are written as texts under the names that they have on the command line. A number as a text is read back as
//! the same number by everybody who rounds correctly, which parsers of JSON numbers need not do; and what differs between
//! two runs can be told in the words in which it is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use theria_contract::DType;
use theria_maml::meta::{Inner, Outer};

use super::experiment;
use super::{Attending, MamlError, MetaMode, OptimiserName, Result, TaskName};
use crate::backend::Backend;

/// Everything that a training depends on, and how long it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is learned to be learned.
    pub task: TaskName,
    /// Images to learn from.
    pub folder: Option<PathBuf>,
    /// Images to be judged by; those of `folder` if none.
    pub test_folder: Option<PathBuf>,
    /// Classes of a task of images.
    pub ways: usize,
    /// Images of each class to adapt to.
    pub shots: usize,
    /// Images of each class to judge by.
    pub queries: usize,
    /// How much of the inner loop is differentiated.
    pub mode: MetaMode,
    /// What attends.
    pub backend: Attending,
    /// What is computed in.
    pub dtype: DType,
    /// Steps of the inner loop, K.
    pub inner_steps: usize,
    /// Their rate, or where it begins.
    pub inner_rate: f64,
    /// Whether each adapted parameter has a rate that is learned.
    pub learn_rates: bool,
    /// What makes a step of the inner loop.
    pub optimiser: OptimiserName,
    /// What makes an outer step.
    pub outer_optimiser: OptimiserName,
    /// Its rate.
    pub outer_rate: f64,
    /// Outer steps, all together.
    pub outer_steps: usize,
    /// Tasks of an outer step.
    pub batch: usize,
    /// The norm that the mean of their gradients is cut down to.
    pub clip: Option<f64>,
    /// What the start and the tasks are drawn by.
    pub seed: u64,
    /// Outer steps between two measurements of what the first order leaves out; never if 0.
    pub rel_diff_every: usize,
    /// Outer steps between two checkpoints.
    pub checkpoint_every: usize,
}

/// What belongs to an experiment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Defaults {
    /// Steps of the inner loop.
    pub inner_steps: usize,
    /// Their rate.
    pub inner_rate: f64,
    /// Whether it is learned.
    pub learn_rates: bool,
    /// The outer rate, for Adam.
    pub outer_rate: f64,
    /// Outer steps.
    pub outer_steps: usize,
    /// Tasks of an outer step.
    pub batch: usize,
    /// The norm that gradients are cut down to.
    pub clip: Option<f64>,
}

/// What a run may change when it goes on: how far it goes, and how often it writes.
const FREE: [&str; 2] = ["outer-steps", "checkpoint-every"];

impl Settings {
    /// Those of the experiment.
    pub fn of(task: TaskName) -> Self {
        let defaults = experiment::defaults(task);
        let images = theria_maml::tasks::ImageSettings::default();
        Self {
            task,
            folder: None,
            test_folder: None,
            ways: images.ways,
            shots: images.shots,
            queries: images.queries,
            mode: MetaMode::Full,
            backend: Backend::Streaming.into(),
            dtype: DType::F64,
            inner_steps: defaults.inner_steps,
            inner_rate: defaults.inner_rate,
            learn_rates: defaults.learn_rates,
            optimiser: OptimiserName::Sgd,
            outer_optimiser: OptimiserName::Adam,
            outer_rate: defaults.outer_rate,
            outer_steps: defaults.outer_steps,
            batch: defaults.batch,
            clip: defaults.clip,
            seed: 0,
            rel_diff_every: 0,
            checkpoint_every: 100,
        }
    }

    /// An error unless every setting is in its range.
    pub fn check(&self) -> Result<()> {
        let count = |name, given: usize, allowed| {
            if given > 0 { Ok(()) } else { Err(MamlError::setting(name, given, allowed)) }
        };
        count("inner-steps", self.inner_steps, "at least 1: a loop of no steps adapts nothing")?;
        count("batch", self.batch, "at least 1: an outer step over no tasks has no gradient")?;
        count("checkpoint-every", self.checkpoint_every, "at least 1")?;
        let rate = |name, given: f64| {
            let allowed = given.is_finite() && given >= 0.0;
            if allowed { Ok(()) } else { Err(MamlError::setting(name, given, "finite and not negative")) }
        };
        rate("inner-rate", self.inner_rate)?;
        rate("outer-rate", self.outer_rate)?;
        if let Some(clip) = self.clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
            return Err(MamlError::setting("clip", clip, "a norm above 0, or none"));
        }
        match (self.task, &self.folder) {
            (TaskName::Images, None) => Err(MamlError::setting("folder", "missing", "a folder of images")),
            (TaskName::Images, Some(_)) => Ok(()),
            (task, _) => self.refuse_images_settings(task),
        }
    }

    fn refuse_images_settings(&self, task: TaskName) -> Result<()> {
        let usual = Self::of(task);
        let given = [
            ("folder", self.folder.is_some()),
            ("test-folder", self.test_folder.is_some()),
            ("ways", self.ways != usual.ways),
            ("shots", self.shots != usual.shots),
            ("queries", self.queries != usual.queries),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(MamlError::Foreign { name, task: task.name() }),
            None => Ok(()),
        }
    }

    /// What attends: an opaque handle under a strict first order.
    pub fn attending(&self) -> Attending {
        let strict = self.mode == MetaMode::FirstOrderStrict;
        Attending { opaque: self.backend.opaque || strict, ..self.backend }
    }

    /// The inner loop for as many adapted parameters.
    pub fn inner(&self, parameters: usize) -> Inner {
        let inner = Inner::new(self.inner_steps, self.optimiser.optimiser(), self.inner_rate, parameters);
        if self.learn_rates { inner.learning_rates() } else { inner }
    }

    /// The outer step.
    pub fn outer(&self) -> Outer {
        Outer { optimiser: self.outer_optimiser.optimiser(), rate: self.outer_rate, clip: self.clip }
    }

    /// Each setting as a text, by its name on the command line.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let path = |path: &Option<PathBuf>| path.as_deref().map_or("none".into(), shown);
        // `{:?}` of a float is the shortest text that reads back as the same number.
        let number = |number: f64| format!("{number:?}");
        let all: [(&str, String); 20] = [
            ("task", self.task.to_string()),
            ("folder", path(&self.folder)),
            ("test-folder", path(&self.test_folder)),
            ("ways", self.ways.to_string()),
            ("shots", self.shots.to_string()),
            ("queries", self.queries.to_string()),
            ("mode", self.mode.to_string()),
            ("backend", self.backend.to_string()),
            ("dtype", self.dtype.to_string()),
            ("inner-steps", self.inner_steps.to_string()),
            ("inner-rate", number(self.inner_rate)),
            ("learn-rates", self.learn_rates.to_string()),
            ("optimiser", self.optimiser.to_string()),
            ("outer-optimiser", self.outer_optimiser.to_string()),
            ("outer-rate", number(self.outer_rate)),
            ("outer-steps", self.outer_steps.to_string()),
            ("batch", self.batch.to_string()),
            ("clip", self.clip.map_or("none".into(), number)),
            ("seed", self.seed.to_string()),
            ("rel-diff-every", self.rel_diff_every.to_string()),
        ];
        let checkpoints = ("checkpoint-every", self.checkpoint_every.to_string());
        all.into_iter().chain([checkpoints]).map(|(name, text)| (name.to_owned(), text)).collect()
    }

    /// Those that were written as texts; none if one is missing or cannot be read.
    pub fn from_texts(texts: &BTreeMap<String, String>) -> Option<Self> {
        fn read<T: std::str::FromStr>(texts: &BTreeMap<String, String>, name: &str) -> Option<T> {
            texts.get(name)?.parse().ok()
        }
        let optional = |name: &str| texts.get(name).map(|text| Some(text).filter(|text| *text != "none"));
        let path = |name| optional(name).map(|text| text.map(PathBuf::from));
        Some(Self {
            task: read(texts, "task")?,
            folder: path("folder")?,
            test_folder: path("test-folder")?,
            ways: read(texts, "ways")?,
            shots: read(texts, "shots")?,
            queries: read(texts, "queries")?,
            mode: read(texts, "mode")?,
            backend: read(texts, "backend")?,
            dtype: read(texts, "dtype")?,
            inner_steps: read(texts, "inner-steps")?,
            inner_rate: read(texts, "inner-rate")?,
            learn_rates: read(texts, "learn-rates")?,
            optimiser: read(texts, "optimiser")?,
            outer_optimiser: read(texts, "outer-optimiser")?,
            outer_rate: read(texts, "outer-rate")?,
            outer_steps: read(texts, "outer-steps")?,
            batch: read(texts, "batch")?,
            clip: optional("clip")?
                .map(|text| text.parse().ok())
                .map_or(Some(None), |clip| clip.map(Some))?,
            seed: read(texts, "seed")?,
            rel_diff_every: read(texts, "rel-diff-every")?,
            checkpoint_every: read(texts, "checkpoint-every")?,
        })
    }

    /// In what way other settings would make another run of this one: nothing where they only go further, or write more
    /// often.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (mine, theirs) = (self.texts(), other.texts());
        let binding = |name: &str| !FREE.contains(&name);
        let differs = |(name, mine): (String, String)| {
            let other = theirs.get(&name).filter(|other| **other != mine && binding(&name))?;
            Some(format!("{name} is {mine} and not {other}"))
        };
        mine.into_iter().filter_map(differs).collect()
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd() -> Settings {
        Settings {
            folder: Some("some/images".into()),
            ways: 3,
            mode: MetaMode::Truncated(2),
            backend: "opaque(dense)".parse().unwrap(),
            dtype: DType::F32,
            inner_rate: 0.1 + 0.2,
            learn_rates: true,
            outer_rate: 1.0 / 3.0,
            clip: None,
            seed: u64::MAX,
            ..Settings::of(TaskName::Images)
        }
    }

    #[test]
    fn settings_are_read_as_they_are_written_to_the_last_bit() {
        let all = TaskName::ALL.map(Settings::of).into_iter().chain([odd()]);
        for settings in all {
            let texts = settings.texts();
            assert_eq!(Settings::from_texts(&texts), Some(settings));
            for name in texts.keys() {
                let mut fewer = texts.clone();
                fewer.remove(name);
                assert_eq!(Settings::from_texts(&fewer), None, "without {name}");
                let mut other = texts.clone();
                other.insert(name.clone(), "?!".into());
                let free_text = name.ends_with("folder");
                assert_eq!(Settings::from_texts(&other).is_some(), free_text, "{name}");
            }
        }
    }

    #[test]
    fn what_differs_is_told_by_name_unless_the_run_only_goes_further() {
        let settings = Settings::of(TaskName::KeyValue);
        let further = Settings { outer_steps: 1, checkpoint_every: 7, ..settings.clone() };
        assert!(settings.differences(&further).is_empty());
        let other = Settings { seed: 5, clip: None, ..settings.clone() };
        assert_eq!(settings.differences(&other), ["clip is 1.0 and not none", "seed is 0 and not 5"]);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let usual = Settings::of(TaskName::Sinusoid);
        assert!(usual.check().is_ok());
        for (name, settings) in [
            ("inner-steps is 0", Settings { inner_steps: 0, ..usual.clone() }),
            ("batch is 0", Settings { batch: 0, ..usual.clone() }),
            ("checkpoint-every is 0", Settings { checkpoint_every: 0, ..usual.clone() }),
            ("inner-rate is NaN", Settings { inner_rate: f64::NAN, ..usual.clone() }),
            ("outer-rate is -1", Settings { outer_rate: -1.0, ..usual.clone() }),
            ("clip is 0", Settings { clip: Some(0.0), ..usual.clone() }),
            ("ways is given", Settings { ways: 2, ..usual.clone() }),
            ("folder is given", Settings { folder: Some("x".into()), ..usual.clone() }),
            ("folder is missing", Settings::of(TaskName::Images)),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
        assert!(odd().check().is_ok());
    }

    #[test]
    fn a_strict_first_order_attends_through_an_opaque_handle() {
        let strict = Settings { mode: MetaMode::FirstOrderStrict, ..Settings::of(TaskName::KeyValue) };
        assert_eq!(strict.attending().to_string(), "opaque(streaming)");
        assert_eq!(Settings::of(TaskName::KeyValue).attending().to_string(), "streaming");
    }
}
