//! Choices that were measured on this device, over those that are shipped.
//!
//! A file for each device and kind of situation lies beside the compiled kernels. It is advice and no more: what cannot
//! be read, or does not fit the kernels of this build, is passed over with a warning, and what is shipped serves.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cache::{hash, replace};
use crate::forward::{Choice, Occasion};
use crate::{Architecture, CubinCache, Error, KernelSpec, Result, Source};

/// What is chosen for.
pub trait Situation: Copy + Ord + Display + Serialize + DeserializeOwned {
    /// The name of the list of choices in their file.
    const LIST: &'static str;
    /// What the name of the file has after that of the device.
    const SUFFIX: &'static str;
    /// The kernels that are chosen among: measured choices are those of these texts.
    const SOURCES: &'static [Source];

    /// The shipped choice.
    fn shipped(self, architecture: Architecture) -> Choice;

    /// Whether a device of this architecture can run a choice: the kernels' own conditions, and memory.
    fn fits(self, choice: &Choice, architecture: Architecture) -> bool;

    /// What a choice launches.
    fn kernels(self, choice: Choice) -> Vec<KernelSpec>;
}

/// Measured choices.
#[derive(Clone, Debug)]
pub struct Table<S = Occasion> {
    measured: BTreeMap<S, Choice>,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self { measured: BTreeMap::new() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(bound = "S: Situation")]
struct File<S> {
    device: String,
    /// What was measured: the hash of the kernels' sources.
    kernels: String,
    #[serde(flatten)]
    lists: BTreeMap<String, Vec<Entry<S>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(bound = "S: Situation")]
struct Entry<S> {
    #[serde(flatten)]
    situation: S,
    #[serde(flatten)]
    choice: Choice,
}

impl<S: Situation> Table<S> {
    /// Where the choices for a device of this name lie.
    pub fn path(device: &str) -> Result<PathBuf> {
        let slug: String = device
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        Ok(CubinCache::of_user()?.folder().join(format!("tuning-{slug}{}.toml", S::SUFFIX)))
    }

    /// The choices that were measured on a device of this name; none where none were.
    pub fn of_user(device: &str, architecture: Architecture) -> Self {
        let Ok(path) = Self::path(device) else { return Self::default() };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, device, architecture).unwrap_or_else(|reason| {
                tracing::warn!(path = %path.display(), %reason, "measured choices are passed over; `theria tune` makes them anew");
                Self::default()
            }),
            Err(_) => Self::default(),
        }
    }

    /// The choices of a file for a device of this name, or why they are no advice.
    pub fn parse(text: &str, device: &str, architecture: Architecture) -> Result<Self, String> {
        let mut file: File<S> = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.device != device {
            return Err(format!("they are those of {}", file.device));
        }
        if file.kernels != kernels::<S>() {
            return Err("they are those of other kernels".into());
        }
        let list = file.lists.remove(S::LIST).unwrap_or_default();
        if let Some(other) = file.lists.keys().next() {
            return Err(format!("`{other}` is not known"));
        }
        let unfit = |entry: &&Entry<S>| !entry.situation.fits(&entry.choice, architecture);
        if let Some(Entry { situation, choice }) = list.iter().find(unfit) {
            return Err(format!("no kernel of this build is {choice:?} for {situation}"));
        }
        Ok(Self { measured: list.into_iter().map(|entry| (entry.situation, entry.choice)).collect() })
    }

    /// The choice for a situation. One that does not fit is passed over.
    pub fn choice(&self, situation: S, architecture: Architecture) -> Choice {
        let measured = self.measured.get(&situation).filter(|choice| situation.fits(choice, architecture));
        measured.copied().unwrap_or_else(|| situation.shipped(architecture))
    }

    /// Takes a measured choice.
    pub fn insert(&mut self, situation: S, choice: Choice) {
        self.measured.insert(situation, choice);
    }

    /// How many choices were measured.
    pub fn len(&self) -> usize {
        self.measured.len()
    }

    /// Whether none were.
    pub fn is_empty(&self) -> bool {
        self.measured.is_empty()
    }

    /// Keeps the choices for a device of this name, and says where. Another process sees the old file or
    /// the new one.
    pub fn save(&self, device: &str) -> Result<PathBuf> {
        let path = Self::path(device)?;
        let written = self.text(device).and_then(|text| replace(&path, &[text.as_bytes()]));
        written.map_err(|source| Error::Cache { path: path.clone(), source })?;
        Ok(path)
    }

    /// The choices as a file has them, for a device of this name.
    pub fn text(&self, device: &str) -> std::io::Result<String> {
        let entry = |(situation, choice): (&S, &Choice)| Entry { situation: *situation, choice: *choice };
        let list = self.measured.iter().map(entry).collect();
        let lists = BTreeMap::from([(S::LIST.to_owned(), list)]);
        let file = File { device: device.to_owned(), kernels: kernels::<S>(), lists };
        toml::to_string(&file).map_err(std::io::Error::other)
    }
}

/// The hash of the sources that choices are for.
fn kernels<S: Situation>() -> String {
    hash(S::SOURCES.iter().flat_map(Source::parts)).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::{Load, Masking, Products, Tiling};

    const DEVICE: &str = "A device";

    fn occasion() -> Occasion {
        Occasion { products: Products::Bf16, room: 64, masking: Masking::Lengths, load: Load::Long }
    }

    fn text(table: &Table) -> String {
        table.text(DEVICE).unwrap()
    }

    #[test]
    fn measured_choices_are_read_as_they_were_written_and_go_before_the_shipped_ones() {
        let architecture = Architecture::SM_90A;
        let default = occasion().shipped(architecture);
        let mut other = default;
        other.section = 7;
        let mut table = Table::default();
        assert_eq!(table.choice(occasion(), architecture), default);
        table.insert(occasion(), other);
        let read = Table::parse(&text(&table), DEVICE, architecture).unwrap();
        assert_eq!((read.len(), read.choice(occasion(), architecture)), (1, other));
        let elsewhere = Occasion { load: Load::Few, ..occasion() };
        assert_eq!(read.choice(elsewhere, architecture), elsewhere.shipped(architecture));
    }

    #[test]
    fn a_file_that_is_damaged_foreign_or_of_other_kernels_is_no_advice() {
        let mut table = Table::default();
        table.insert(occasion(), occasion().shipped(Architecture::SM_90A));
        let good = text(&table);
        let parse = |text: &str| Table::<Occasion>::parse(text, DEVICE, Architecture::SM_90A);
        assert!(parse(&good).is_ok());
        assert!(Table::<Occasion>::parse(&good, "another device", Architecture::SM_90A).is_err());
        for (from, to) in [
            ("step = 64", "step = 63"),
            ("step = 64", "step = \"x\""),
            ("room = 64", "room = 1000"),
            ("bf16", "bf17"),
            ("[[forward]]", "[[forward"),
            ("forward", "sweeps"),
            ("device = ", "size = 1\ndevice = "),
            ("kernels = \"", "kernels = \"0"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good, "{from} is in {good}");
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_choice_that_does_not_fit_is_passed_over() {
        let default = occasion().shipped(Architecture::SM_90A);
        let mut table = Table::default();
        table.insert(occasion(), Choice { tiling: Tiling { step: 24, ..default.tiling }, ..default });
        assert_eq!(table.choice(occasion(), Architecture::SM_90A), default);
    }

    #[test]
    fn the_file_of_forward_choices_has_the_name_that_it_always_had() {
        let name = Table::<Occasion>::path("NVIDIA H200").unwrap().file_name().unwrap().to_owned();
        assert_eq!(name, "tuning-nvidia-h200.toml");
    }
}
