//! Choices that were measured on this device, over those that are shipped.
//!
//! A file for each device lies beside the compiled kernels. It is advice and no more: what cannot be read, or
//! does not fit the kernels of this build, is passed over with a warning, and what is shipped serves.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::choice::shipped;
use super::{Choice, Occasion};
use crate::cache::{hash, replace};
use crate::sources::FUSED_FORWARD;
use crate::{Architecture, CubinCache, Error, Result};

/// Measured choices.
#[derive(Clone, Debug, Default)]
pub struct Table {
    measured: BTreeMap<Occasion, Choice>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    device: String,
    /// What was measured: the hash of the kernel's source.
    kernels: String,
    #[serde(default)]
    forward: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    occasion: Occasion,
    #[serde(flatten)]
    choice: Choice,
}

impl Table {
    /// Where the choices for a device of this name lie.
    pub fn path(device: &str) -> Result<PathBuf> {
        let slug: String = device
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        Ok(CubinCache::of_user()?.folder().join(format!("tuning-{slug}.toml")))
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

    fn parse(text: &str, device: &str, architecture: Architecture) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.device != device {
            return Err(format!("they are those of {}", file.device));
        }
        if file.kernels != kernels() {
            return Err("they are those of other kernels".into());
        }
        let unfit = |entry: &&Entry| !entry.choice.fits(entry.occasion, architecture);
        if let Some(Entry { occasion, choice }) = file.forward.iter().find(unfit) {
            return Err(format!("no kernel of this build is {choice:?} for {occasion}"));
        }
        Ok(Self { measured: file.forward.into_iter().map(|entry| (entry.occasion, entry.choice)).collect() })
    }

    /// The choice for an occasion.
    pub fn choice(&self, occasion: Occasion, architecture: Architecture) -> Choice {
        self.measured.get(&occasion).copied().unwrap_or_else(|| shipped(occasion, architecture))
    }

    /// Takes a measured choice.
    pub fn insert(&mut self, occasion: Occasion, choice: Choice) {
        self.measured.insert(occasion, choice);
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
        let text = toml::to_string(&self.file(device)).map_err(std::io::Error::other);
        let written = text.and_then(|text| replace(&path, &[text.as_bytes()]));
        written.map_err(|source| Error::Cache { path: path.clone(), source })?;
        Ok(path)
    }

    /// The choices as a file has them.
    fn file(&self, device: &str) -> File {
        let entry = |(occasion, choice): (&Occasion, &Choice)| Entry { occasion: *occasion, choice: *choice };
        File {
            device: device.to_owned(),
            kernels: kernels(),
            forward: self.measured.iter().map(entry).collect(),
        }
    }
}

/// The hash of the source that choices are for.
fn kernels() -> String {
    hash(FUSED_FORWARD.parts()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::{Load, Masking, Products};

    const DEVICE: &str = "A device";

    fn occasion() -> Occasion {
        Occasion { products: Products::Bf16, room: 64, masking: Masking::Lengths, load: Load::Long }
    }

    fn text(table: &Table) -> String {
        toml::to_string(&table.file(DEVICE)).unwrap()
    }

    #[test]
    fn measured_choices_are_read_as_they_were_written_and_go_before_the_shipped_ones() {
        let architecture = Architecture::SM_90A;
        let default = shipped(occasion(), architecture);
        let mut other = default;
        other.section = 7;
        let mut table = Table::default();
        assert_eq!(table.choice(occasion(), architecture), default);
        table.insert(occasion(), other);
        let read = Table::parse(&text(&table), DEVICE, architecture).unwrap();
        assert_eq!((read.len(), read.choice(occasion(), architecture)), (1, other));
        let elsewhere = Occasion { load: Load::Few, ..occasion() };
        assert_eq!(read.choice(elsewhere, architecture), shipped(elsewhere, architecture));
    }

    #[test]
    fn a_file_that_is_damaged_foreign_or_of_other_kernels_is_no_advice() {
        let mut table = Table::default();
        table.insert(occasion(), shipped(occasion(), Architecture::SM_90A));
        let good = text(&table);
        let parse = |text: &str| Table::parse(text, DEVICE, Architecture::SM_90A);
        assert!(parse(&good).is_ok());
        assert!(Table::parse(&good, "another device", Architecture::SM_90A).is_err());
        for (from, to) in [
            ("step = 64", "step = 63"),
            ("step = 64", "step = \"x\""),
            ("room = 64", "room = 1000"),
            ("bf16", "bf17"),
            ("[[forward]]", "[[forward"),
            ("kernels = \"", "kernels = \"0"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good, "{from} is in {good}");
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
