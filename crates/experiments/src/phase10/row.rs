//! Rows: what was measured, as JSON objects, a line each.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::origin::KEYS;
use super::{Origin, Part, Phase10Error, Result, Subject};

const SCHEMA: u64 = 1;

/// What a row says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within its bound, or the same bits as what it ought to be.
    Passed,
    /// Not so.
    Failed,
    /// There is no number, by decision of the backend.
    Refused,
}

impl Verdict {
    const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::Refused];

    /// Passed if what ought to hold does.
    pub fn of(holds: bool) -> Self {
        if holds { Self::Passed } else { Self::Failed }
    }

    /// The name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }
}

/// A measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    part: Part,
    keys: Map<String, Value>,
}

impl Row {
    /// One of this part, of what attends in it.
    pub fn new(part: Part, subject: Subject, origin: &Origin) -> Self {
        Self::of(part, &subject.name(), subject.dtype.name(), origin)
    }

    /// The same by names.
    pub fn of(part: Part, backend: &str, dtype: &str, origin: &Origin) -> Self {
        let mut keys = origin.json();
        keys.insert("schema".into(), json!(SCHEMA));
        keys.insert("phase".into(), json!(10));
        keys.insert("part".into(), json!(part.name()));
        keys.insert("backend".into(), json!(backend));
        keys.insert("dtype".into(), json!(dtype));
        Self { part, keys }
    }

    /// With something more. What is no number is null.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    /// With a verdict, and the one that it ought to be: a negative control ought to fail, or to be refused.
    #[must_use]
    pub fn judged(self, verdict: Verdict, expected: Verdict) -> Self {
        self.with("verdict", verdict.name()).with("expected", expected.name())
    }

    /// Its part.
    pub fn part(&self) -> Part {
        self.part
    }

    /// What it says of a key; null where it says nothing.
    pub fn get(&self, key: &str) -> &Value {
        self.keys.get(key).unwrap_or(&Value::Null)
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.get(key).as_f64()
    }

    /// A count.
    pub fn count(&self, key: &str) -> Option<u64> {
        self.get(key).as_u64()
    }

    /// A text; empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).as_str().unwrap_or("")
    }

    /// Its verdict, and the one that it ought to be; of parts that judge.
    pub fn verdict(&self) -> Option<(Verdict, Verdict)> {
        Some((Verdict::named(self.text("verdict"))?, Verdict::named(self.text("expected"))?))
    }

    /// Whether it came out otherwise than it ought to.
    pub fn is_surprise(&self) -> bool {
        self.verdict().is_some_and(|(verdict, expected)| verdict != expected)
    }

    /// Whether it is there to fail.
    pub fn is_control(&self) -> bool {
        self.verdict().is_some_and(|(_, expected)| expected != Verdict::Passed)
    }

    /// Whether it is the same measurement as another: made again on the same machine, it takes the other one's place.
    pub(super) fn is_again(&self, other: &Self) -> bool {
        let keys = ["backend", "dtype", "cpu", "device"].iter().chain(self.part.identity());
        let mut keys = keys.chain(["quick"].iter());
        self.part == other.part && keys.all(|key| self.get(key) == other.get(key))
    }

    /// Whether two rows come from the same program on the same machine.
    pub(super) fn is_from_where(&self, other: &Self) -> bool {
        KEYS.iter().all(|key| self.get(key) == other.get(key))
    }

    /// As an object.
    pub fn json(&self) -> Value {
        Value::Object(self.keys.clone())
    }

    /// A line that was read, or what is wrong with it.
    fn parse(line: &str) -> Result<Self, String> {
        let keys = match serde_json::from_str(line) {
            Ok(Value::Object(keys)) => keys,
            Ok(other) => return Err(format!("it is {other} and no object")),
            Err(error) => return Err(format!("it is no JSON ({error})")),
        };
        let schema = keys.get("schema").unwrap_or(&Value::Null);
        if *schema != SCHEMA || keys.get("phase") != Some(&json!(10)) {
            return Err(format!("its schema is {schema}, and this build reads {SCHEMA} of phase 10"));
        }
        let name = keys.get("part").and_then(Value::as_str).unwrap_or("");
        let part: Part = name.parse().map_err(|error| format!("{error}"))?;
        let needed = ["backend", "dtype"].iter().chain(&KEYS).chain(part.identity());
        if let Some(key) = needed.into_iter().find(|key| !keys.contains_key(**key)) {
            return Err(format!("it has no `{key}`, which rows of {part} have"));
        }
        let row = Self { part, keys };
        if row.keys.contains_key("verdict") && row.verdict().is_none() {
            return Err("its verdict or the expected one is none of passed, failed, refused".into());
        }
        Ok(row)
    }
}

/// The rows of a file, in their order.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).map_err(Phase10Error::file("read", path))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let row = |(n, line)| {
        Row::parse(line).map_err(|reason| Phase10Error::Line { path: path.to_owned(), line: n + 1, reason })
    };
    let rows: Vec<Row> = lines.map(row).collect::<Result<_>>()?;
    if rows.is_empty() { Err(Phase10Error::NoRows { path: path.to_owned() }) } else { Ok(rows) }
}

/// A file that rows are added to, each as soon as it is measured.
#[derive(Debug)]
pub struct RowFile {
    path: PathBuf,
    file: File,
}

impl RowFile {
    /// Opens a file, made if need be. One that has other things in it than rows is left alone.
    pub fn open(path: &Path) -> Result<Self> {
        match read(path) {
            Ok(_) | Err(Phase10Error::NoRows { .. }) => {}
            Err(Phase10Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new().append(true).create(true).open(path);
        Ok(Self { path: path.to_owned(), file: file.map_err(Phase10Error::file("write", path))? })
    }

    /// Adds a row.
    pub fn add(&mut self, row: &Row) -> Result<()> {
        writeln!(self.file, "{}", row.json()).map_err(Phase10Error::file("write", &self.path))
    }
}
