//! Few-shot classification of the images in a folder.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::ImageReader;
use image::imageops::{FilterType, resize};
use rayon::prelude::*;

use super::parameter::Parameters;
use super::{SampleShape, Samples, Stream, Target, Task, TaskSource};
use crate::{Error, Result};

const CLASSES: u32 = 0x500;
const IMAGES: u32 = 0x501;

/// What is kept of the colours of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// How bright it is (the luminance of ITU-R BT.709): one number a pixel.
    Grey,
    /// Red, green and blue: three numbers a pixel, side by side.
    Rgb,
}

impl Colours {
    fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
        }
    }
}

/// How images are read, and how many make a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSettings {
    /// Classes of a task, N.
    pub ways: usize,
    /// Images of each class to adapt to, K.
    pub shots: usize,
    /// Images of each class to judge by.
    pub queries: usize,
    /// Rows of pixels that every image is resized to.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// What is kept of the colours.
    pub colours: Colours,
    /// Bytes that the decoded images may take, all together.
    pub memory: u64,
}

impl Default for ImageSettings {
    fn default() -> Self {
        let (ways, shots, queries) = (5, 1, 15);
        Self { ways, shots, queries, height: 28, width: 28, colours: Colours::Grey, memory: 2 << 30 }
    }
}

impl ImageSettings {
    /// Numbers of an image.
    fn numbers(&self) -> usize {
        self.height * self.width * self.colours.channels()
    }

    fn check(&self) -> Result<()> {
        let parameters = Parameters("image folder");
        let counts = [("ways", self.ways), ("shots", self.shots), ("queries", self.queries)];
        for (name, count) in counts {
            parameters.positive(name, count)?;
        }
        // Far beyond few-shot data, and the numbers of an image stay below 2³².
        parameters.within("height", self.height, &(1..=1 << 15))?;
        parameters.within("width", self.width, &(1..=1 << 15))
    }
}

/// N-way K-shot tasks from a folder with a sub-folder of PNG or JPEG images for each class.
///
/// ```text
/// folder/ant/1.png
/// folder/ant/2.png
/// folder/bee/anything.jpeg
/// ```
///
/// Classes and images are sorted by name, so a folder gives the same tasks wherever it lies. A task draws N classes and
/// of each K images for the support and others for the query, none twice; the class that was drawn first is 0. Samples
/// come class by class. Files beside the sub-folders, and names that begin with a dot, are passed over; anything else
/// that is no image is an error. Keep the classes that a learner is tested on in another folder.
///
/// An image is one row of height × width × channels numbers in [0, 1], the last varying fastest. Transparency and
/// orientation tags are not looked at. Bits are the same on every platform for PNG, and for JPEG as far as its decoder
/// holds to that.
///
/// Every image is decoded once, on opening, so that a file that cannot be read is found before training and not
/// during it. What is kept takes one byte for each of these numbers ([`ImageFolder::bytes`]) and is refused beyond
/// [`ImageSettings::memory`] before the first image is read. While reading, each thread holds one image as it is stored.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    settings: ImageSettings,
    classes: Vec<Class>,
}

/// A class and its images, decoded.
#[derive(Clone, Debug)]
struct Class {
    name: String,
    images: Vec<Vec<u8>>,
}

impl ImageFolder {
    /// Reads every image of a folder.
    pub fn open(folder: impl AsRef<Path>, settings: ImageSettings) -> Result<Self> {
        settings.check()?;
        let folder = folder.as_ref();
        let mut classes = listed(folder)?;
        classes.retain(|path| path.is_dir());
        enough(folder, "classes", classes.len(), settings.ways)?;
        let mut files = Vec::new();
        for class in &classes {
            let images = listed(class)?;
            enough(class, "images", images.len(), settings.shots.saturating_add(settings.queries))?;
            files.push(images);
        }
        let needed = files.iter().map(Vec::len).sum::<usize>() as u64 * settings.numbers() as u64;
        if needed > settings.memory {
            return Err(Error::ImageMemory { folder: folder.into(), needed, allowed: settings.memory });
        }
        let read = |(class, files): (&PathBuf, &Vec<PathBuf>)| {
            // The first failure by name, not by time.
            let images: Vec<_> = files.par_iter().map(|file| decoded(file, settings)).collect();
            let name = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Class { name, images: images.into_iter().collect::<Result<_>>()? })
        };
        Ok(Self { settings, classes: classes.iter().zip(&files).map(read).collect::<Result<_>>()? })
    }

    /// The names of the classes, sorted.
    pub fn class_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.classes.iter().map(|class| class.name.as_str())
    }

    /// Bytes of all decoded images.
    pub fn bytes(&self) -> usize {
        self.classes.iter().map(|class| class.images.len()).sum::<usize>() * self.settings.numbers()
    }
}

impl TaskSource for ImageFolder {
    fn shape(&self) -> SampleShape {
        let target = Target::Class(self.settings.ways);
        SampleShape { length: 1, columns: self.settings.numbers(), target }
    }

    fn support_count(&self) -> usize {
        self.settings.ways * self.settings.shots
    }

    fn query_count(&self) -> usize {
        self.settings.ways * self.settings.queries
    }

    fn task(&self, seed: u64, number: u64) -> Result<Task> {
        let ImageSettings { ways, shots, queries, .. } = self.settings;
        let mut support = Samples::with_room(self.shape(), self.support_count());
        let mut query = Samples::with_room(self.shape(), self.query_count());
        let mut stream = Stream::new(seed, number, IMAGES);
        let drawn = Stream::new(seed, number, CLASSES).choose(ways, self.classes.len());
        for (label, class) in drawn.into_iter().enumerate() {
            let images = &self.classes[class].images;
            for (n, image) in stream.choose(shots + queries, images.len()).into_iter().enumerate() {
                let samples = if n < shots { &mut support } else { &mut query };
                samples.push(images[image].iter().map(|byte| f64::from(*byte) / 255.0), [label as f64]);
            }
        }
        Ok(Task { support, query })
    }
}

/// What is in a folder, sorted by name; names that begin with a dot are left out.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
    let mut entries = entries.map_err(|source| unreadable(folder, source))?;
    entries.retain(|entry| !hidden(&entry.file_name()));
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries.iter().map(fs::DirEntry::path).collect())
}

fn enough(folder: &Path, what: &'static str, given: usize, needed: usize) -> Result<()> {
    if given >= needed {
        return Ok(());
    }
    Err(Error::TooFewImages { folder: folder.into(), what, given, needed })
}

/// An image as bytes: rows of pixels of channels.
fn decoded(file: &Path, settings: ImageSettings) -> Result<Vec<u8>> {
    // By what is in the file, not by its name.
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format);
    let reader = reader.map_err(|source| unreadable(file, source))?;
    let image = reader.decode().map_err(|source| unreadable(file, source))?.into_rgb8();
    // A filter of sums and products alone: no function that platforms compute differently.
    let resized = resize(&image, settings.width as u32, settings.height as u32, FilterType::Triangle);
    Ok(match settings.colours {
        Colours::Rgb => resized.into_raw(),
        Colours::Grey => resized.pixels().map(|pixel| luminance(pixel.0)).collect(),
    })
}

/// In integers, so that it is the same everywhere.
fn luminance([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 2126 * u32::from(red) + 7152 * u32::from(green) + 722 * u32::from(blue);
    ((sum + 5000) / 10_000) as u8
}

fn unreadable(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::UnreadableImage { path: path.into(), source: Box::new(source) }
}
