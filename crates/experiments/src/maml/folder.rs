//! The folder of a run.
//!
//! | file | |
//! |---|---|
//! | `settings.json` | what the run was begun with, and where |
//! | `log.jsonl` | a line for each outer step |
//! | `checkpoint.safetensors` | what the run goes on from |
//! | `checkpoint.previous.safetensors` | the checkpoint before it |
//!
//! A file that is replaced is written beside its place, brought to the disk and renamed, so that a process that is killed
//! at any moment, and a disk that is full, leave the old one or the new one. The log has at least the lines of the steps
//! of its checkpoint.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Checkpoint, Damage, MamlError, Record, Result, Settings};
use crate::bench::Host;

const SETTINGS: &str = "settings.json";
const LOG: &str = "log.jsonl";
const LATEST: &str = "checkpoint.safetensors";
const PREVIOUS: &str = "checkpoint.previous.safetensors";
/// Where a checkpoint goes that could not be read, when the run goes on from the one before it.
const DAMAGED: &str = "checkpoint.damaged.safetensors";
/// Behind the name of a file that is not in its place yet.
const NEW: &str = ".new";

/// Which checkpoint a run goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The last one.
    Latest,
    /// The one before it, where the last one cannot be read.
    Previous,
}

/// The folder of a run. No other process can open it as long as this one has it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    log: File,
}

impl Folder {
    /// An error if a run is in the folder. Nothing is written.
    pub fn is_free(path: &Path) -> Result<()> {
        let logged = fs::metadata(path.join(LOG)).is_ok_and(|log| log.is_file() && log.len() > 0);
        if logged || [LATEST, PREVIOUS].iter().any(|name| path.join(name).exists()) {
            return Err(MamlError::Occupied { folder: path.to_owned() });
        }
        Ok(())
    }

    /// The folder of a new run, made if need be.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(MamlError::file("make the folder", path))?;
        let folder = Self::lock(path, true)?;
        // Somebody else may have been faster.
        Self::is_free(path)?;
        Ok(folder)
    }

    /// The folder of a run that is there.
    pub fn open(path: &Path) -> Result<Self> {
        Self::lock(path, false)
    }

    fn lock(path: &Path, create: bool) -> Result<Self> {
        let at = path.join(LOG);
        let log = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&at);
        let log = log.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MamlError::NoRun { folder: path.to_owned(), log: LOG },
            _ => MamlError::file("open", &at)(error),
        })?;
        match log.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MamlError::Busy { folder: path.to_owned() }),
            // Some network folders have no locks.
            Err(TryLockError::Error(error)) => tracing::warn!(%error, "the folder of the run is not locked"),
        }
        Ok(Self { path: path.to_owned(), log })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what the run is made with, and where it is begun.
    pub fn write_settings(&self, settings: &Settings) -> Result<()> {
        let text = json!({
            "schema": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "host": Host::here(false).json(),
            "settings": settings.texts(),
        });
        let path = self.path.join(SETTINGS);
        replace(&path, format!("{text:#}\n").as_bytes()).map_err(MamlError::file("write", &path))
    }

    /// The checkpoint that the run goes on from. With [`Source::Previous`] it takes the place of the last one, which is
    /// kept under another name.
    pub fn checkpoint(&self, source: Source) -> Result<Checkpoint> {
        let (latest, previous) = (self.path.join(LATEST), self.path.join(PREVIOUS));
        match (read(&latest), source) {
            (Ok(checkpoint), _) => Ok(checkpoint),
            (Err(damage), Source::Latest) => {
                let before = read(&previous).ok().map(|checkpoint| (previous, checkpoint.step));
                Err(MamlError::Checkpoint { path: latest, damage, previous: before })
            }
            (Err(_), Source::Previous) => {
                let checkpoint = read(&previous).map_err(|damage| MamlError::Checkpoint {
                    path: previous.clone(),
                    damage,
                    previous: None,
                })?;
                self.put_previous_back(&latest, &previous).map_err(MamlError::file("replace", &latest))?;
                Ok(checkpoint)
            }
        }
    }

    fn put_previous_back(&self, latest: &Path, previous: &Path) -> io::Result<()> {
        // A copy: two names of one file cannot take turns.
        let new = beside(latest);
        write(&new, &fs::read(previous)?)?;
        if latest.exists() {
            fs::rename(latest, self.path.join(DAMAGED))?;
        }
        fs::rename(new, latest)?;
        sync_folder(&self.path)
    }

    /// Cuts the log back to the steps of a checkpoint.
    pub fn cut_log(&mut self, step: usize) -> Result<()> {
        let path = self.path.join(LOG);
        let (wrong, at) = (|reason| MamlError::Log { path: path.clone(), step, reason }, &path);
        let mut text = Vec::new();
        self.log
            .rewind()
            .and_then(|()| self.log.read_to_end(&mut text))
            .map_err(MamlError::file("read", at))?;
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let (mut end, mut last) = (0, None);
        for _ in 0..step {
            let Some(line) = lines.next() else {
                return Err(wrong("it has fewer lines than steps were made"));
            };
            (end, last) = (end + line.len(), Some(line));
        }
        if let Some(line) = last {
            let record = std::str::from_utf8(line).ok().and_then(Record::parse);
            if record.is_none_or(|record| record.step != step) {
                return Err(wrong("its line of that number is not of that step"));
            }
        }
        self.log
            .set_len(end as u64)
            .and_then(|()| self.log.seek(SeekFrom::End(0)))
            .map(|_| ())
            .map_err(MamlError::file("cut", at))
    }

    /// Adds a line to the log.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let line = format!("{}\n", record.json());
        let written = self.log.write_all(line.as_bytes());
        written.map_err(MamlError::file("write", &self.path.join(LOG)))
    }

    /// Every line of the log.
    pub fn records(&self) -> Result<Vec<Record>> {
        let path = self.path.join(LOG);
        let text = fs::read_to_string(&path).map_err(MamlError::file("read", &path))?;
        Ok(text.lines().filter_map(Record::parse).collect())
    }

    /// Puts a checkpoint in the place of the last one, which becomes the one before it.
    pub fn write_checkpoint(&self, checkpoint: &Checkpoint) -> Result<()> {
        let path = self.path.join(LATEST);
        let bytes =
            checkpoint.to_bytes().map_err(io::Error::other).map_err(MamlError::file("write", &path))?;
        // Its lines first: a log may be ahead of its checkpoint, but never behind.
        self.log.sync_data().map_err(MamlError::file("write", &self.path.join(LOG)))?;
        self.take_turns(&path, &bytes).map_err(MamlError::file("write", &path))
    }

    fn take_turns(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = beside(path);
        let turn = || {
            write(&new, bytes)?;
            if path.exists() {
                let previous = self.path.join(PREVIOUS);
                let kept = beside(&previous);
                second(path, &kept)?;
                fs::rename(&kept, previous)?;
                // Two names of one file do not take turns: where they were that already, both are left.
                let _ = fs::remove_file(kept);
            }
            fs::rename(&new, path)?;
            sync_folder(&self.path)
        };
        turn().inspect_err(|_| drop(fs::remove_file(&new)))
    }

    /// Puts a picture beside the log, and says where.
    pub fn write_picture(&self, name: &str, picture: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        replace(&path, picture.as_bytes()).map_err(MamlError::file("write", &path))?;
        Ok(path)
    }
}

fn read(path: &Path) -> Result<Checkpoint, Damage> {
    Checkpoint::parse(&fs::read(path)?)
}

/// Where a file is until it is whole.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW);
    name.into()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = beside(path);
    let done = write(&new, bytes).and_then(|()| fs::rename(&new, path));
    done.inspect_err(|_| drop(fs::remove_file(&new)))
}

/// A second name for a file, or a copy where a file has one name only.
fn second(path: &Path, name: &Path) -> io::Result<()> {
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::hard_link(path, name).or_else(|_| {
        fs::copy(path, name)?;
        File::open(name)?.sync_all()
    })
}

/// Brings names to the disk, where folders can be opened.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use theria_jvp_hvp::Streaming;
    use theria_maml::Host as Cpu;

    use super::*;
    use crate::maml::{TaskName, Training};

    fn checkpoints(count: usize) -> Vec<Checkpoint> {
        let machine = Cpu::<_, f64>::new(Streaming::new());
        let settings = Settings { batch: 1, ..Settings::of(TaskName::Sinusoid) };
        let mut training = Training::new(&machine, &settings).unwrap();
        let mut next = || {
            let made = training.checkpoint().unwrap();
            training.step().unwrap();
            made
        };
        (0..count).map(|_| next()).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What a process leaves that is killed while it writes a checkpoint.
    type Break = fn(&Path, &Checkpoint);

    const BREAKS: [Break; 4] = [
        |_, _| {},
        // While the new one was written.
        |folder, new| half_written(folder, &new.to_bytes().unwrap()[..100]),
        // Before the second name of the last one took the place of the one before it.
        |folder, new| {
            half_written(folder, &new.to_bytes().unwrap());
            second(&folder.join(LATEST), &folder.join(PREVIOUS.to_owned() + NEW)).unwrap();
        },
        // After that, before the new one took its own place.
        |folder, new| {
            half_written(folder, &new.to_bytes().unwrap());
            second(&folder.join(LATEST), &folder.join(PREVIOUS)).unwrap();
        },
    ];

    fn half_written(folder: &Path, bytes: &[u8]) {
        fs::write(folder.join(LATEST.to_owned() + NEW), bytes).unwrap();
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_the_last_one_wherever_an_earlier_turn_was_broken_off() {
        let made = checkpoints(3);
        for (n, broken) in BREAKS.into_iter().enumerate() {
            let place = tempfile::tempdir().unwrap();
            let folder = Folder::create(place.path()).unwrap();
            made[..2].iter().for_each(|checkpoint| folder.write_checkpoint(checkpoint).unwrap());
            broken(place.path(), &made[2]);
            assert_eq!(
                folder.checkpoint(Source::Latest).unwrap(),
                made[1],
                "{n}: whole, and not the new one"
            );
            folder.write_checkpoint(&made[2]).unwrap();
            assert_eq!(folder.checkpoint(Source::Latest).unwrap(), made[2], "{n}");
            fs::remove_file(place.path().join(LATEST)).unwrap();
            assert_eq!(folder.checkpoint(Source::Previous).unwrap(), made[1], "{n}");
            assert_eq!(names(place.path()), [PREVIOUS, LATEST, LOG], "{n}: nothing else is left");
        }
    }

    #[test]
    fn one_process_has_a_folder_and_a_run_is_begun_in_it_once() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::create(place.path()).unwrap();
        assert!(matches!(Folder::open(place.path()), Err(MamlError::Busy { .. })));
        assert!(Folder::is_free(place.path()).is_ok(), "nothing was made yet");
        folder.write_checkpoint(&checkpoints(1)[0]).unwrap();
        drop(folder);
        assert!(matches!(Folder::create(place.path()), Err(MamlError::Occupied { .. })));
        assert!(Folder::open(place.path()).is_ok());
        let elsewhere = place.path().join("elsewhere");
        assert!(matches!(Folder::open(&elsewhere), Err(MamlError::NoRun { .. })) && !elsewhere.exists());
    }
}
