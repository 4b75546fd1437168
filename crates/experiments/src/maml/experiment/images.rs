//! Images of a folder, N ways and K shots, classified by a small transformer over their patches.

use theria_maml::tasks::{Colours, ImageFolder, ImageSettings, Task, TaskSource};
use theria_maml::{Machine, Result};

use super::{Classifier, Draft, Experiment, Places, Purpose, Side};
use crate::maml::settings::Defaults;
use crate::maml::{MamlError, Settings};

pub(super) const DEFAULTS: Defaults = Defaults {
    inner_steps: 5,
    inner_rate: 0.1,
    learn_rates: true,
    outer_rate: 1e-3,
    outer_steps: 10_000,
    batch: 4,
    clip: Some(1.0),
};

/// Rows and columns of pixels of a patch.
const PATCH: usize = 7;

/// A [`Classifier`] of patches; all of it is adapted.
#[derive(Clone, Debug)]
pub struct ImageExperiment {
    source: ImageFolder,
    settings: ImageSettings,
    width: usize,
    heads: usize,
}

impl ImageExperiment {
    /// Reads the images that settings name.
    pub fn open(settings: &Settings, purpose: Purpose) -> Result<Self, MamlError> {
        let judging = settings.test_folder.as_ref().filter(|_| purpose == Purpose::Judging);
        let folder = judging.or(settings.folder.as_ref());
        let Some(folder) = folder else {
            return Err(MamlError::setting("folder", "missing", "a folder of images"));
        };
        let images = ImageSettings {
            ways: settings.ways,
            shots: settings.shots,
            queries: settings.queries,
            height: 4 * PATCH,
            width: 4 * PATCH,
            colours: Colours::Grey,
            ..ImageSettings::default()
        };
        Ok(Self { source: ImageFolder::open(folder, images)?, settings: images, width: 32, heads: 4 })
    }
}

/// The pixels of an image, patch by patch, each of them row by row.
fn patches(pixels: &[f64], width: usize) -> Vec<f64> {
    let mut patches = Vec::with_capacity(pixels.len());
    for band in pixels.chunks(PATCH * width) {
        for left in (0..width).step_by(PATCH) {
            for row in band.chunks(width) {
                patches.extend_from_slice(&row[left..left + PATCH]);
            }
        }
    }
    patches
}

impl<M: Machine + 'static> Experiment<M> for ImageExperiment {
    fn source(&self) -> &dyn TaskSource {
        &self.source
    }

    fn draft(&self, draft: &mut Draft<M>, side: Side) -> Result<Places> {
        let ImageSettings { ways, height, width, .. } = self.settings;
        let classifier = Classifier {
            length: (height / PATCH) * (width / PATCH),
            columns: PATCH * PATCH,
            width: self.width,
            heads: self.heads,
            classes: ways,
        };
        classifier.draft(draft, side.count(&self.source))
    }

    fn numbers(&self, task: &Task, side: Side) -> Result<Vec<Vec<f64>>> {
        let samples = side.of(task);
        let tokens = (0..samples.count).flat_map(|n| patches(samples.input(n), self.settings.width));
        Ok(vec![tokens.collect(), samples.targets.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_has_its_pixels_side_by_side_and_none_is_lost() {
        let (width, height) = (3 * PATCH, 2 * PATCH);
        let pixels: Vec<f64> = (0..width * height).map(|n| n as f64).collect();
        let made = patches(&pixels, width);
        // The second patch of the second band begins at its corner, and its second row lies below.
        let (patch, corner) = (PATCH * PATCH, PATCH * width + PATCH);
        assert_eq!(made[4 * patch], corner as f64);
        assert_eq!(made[4 * patch + PATCH], (corner + width) as f64);
        let mut sorted = made.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted == pixels && made != pixels);
    }
}
