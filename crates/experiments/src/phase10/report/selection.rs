//! The rows that count, and where they come from.

use super::super::{Part, Row};
use super::page::escaped;

/// A program on a machine.
pub(super) struct Place<'a> {
    pub(super) letter: String,
    pub(super) row: &'a Row,
    pub(super) rows: usize,
}

/// Rows of one backend in one type, from one place.
pub(super) struct Line<'a> {
    pub(super) name: String,
    pub(super) rows: Vec<&'a Row>,
}

/// The rows that count: of those that measure the same on the same machine the last one, and quick ones only where there
/// are no others.
pub(super) struct Selection<'a> {
    rows: Vec<&'a Row>,
    places: Vec<Place<'a>>,
    superseded: usize,
    quick: bool,
}

impl<'a> Selection<'a> {
    pub(super) fn of(all: &'a [Row]) -> Self {
        let quick = all.iter().all(|row| row.get("quick") == true);
        let wanted: Vec<&Row> = all.iter().filter(|row| quick || row.get("quick") != true).collect();
        let is_last = |n: &usize| !wanted[n + 1..].iter().any(|later| wanted[*n].is_again(later));
        let rows: Vec<&Row> = (0..wanted.len()).filter(is_last).map(|n| wanted[n]).collect();
        let mut places: Vec<Place<'_>> = Vec::new();
        for row in &rows {
            match places.iter_mut().find(|place| place.row.is_from_where(row)) {
                Some(place) => place.rows += 1,
                None => places.push(Place { letter: letter(places.len()), row, rows: 1 }),
            }
        }
        Self { superseded: wanted.len() - rows.len(), rows, places, quick }
    }

    pub(super) fn rows(&self) -> &[&'a Row] {
        &self.rows
    }

    pub(super) fn places(&self) -> &[Place<'a>] {
        &self.places
    }

    pub(super) fn superseded(&self) -> usize {
        self.superseded
    }

    pub(super) fn is_quick(&self) -> bool {
        self.quick
    }

    fn letter(&self, row: &Row) -> &str {
        self.places.iter().find(|place| place.row.is_from_where(row)).map_or("", |place| &place.letter)
    }

    /// Backend, type and place in a word.
    pub(super) fn subject(&self, row: &Row) -> String {
        format!("{} {} [{}]", escaped(row.text("backend")), row.text("dtype"), self.letter(row))
    }

    /// The rows of a part that a condition holds for, by backend, type and place, in the order in which they were measured.
    pub(super) fn lines(&self, part: Part, wanted: impl Fn(&Row) -> bool) -> Vec<Line<'a>> {
        let mut lines: Vec<Line<'a>> = Vec::new();
        for row in self.rows.iter().filter(|row| row.part() == part && wanted(row)) {
            let name = self.subject(row);
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => line.rows.push(row),
                None => lines.push(Line { name, rows: vec![row] }),
            }
        }
        lines
    }

    /// The different numbers that rows of a part have under a key, in rising order.
    pub(super) fn counts(&self, part: Part, key: &str) -> Vec<u64> {
        let rows = self.rows.iter().filter(|row| row.part() == part);
        let mut all: Vec<u64> = rows.filter_map(|row| row.count(key)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Line<'_> {
    /// The numbers under a key of the rows of so many steps.
    pub(super) fn at(&self, steps: u64, key: &str) -> Vec<f64> {
        let rows = self.rows.iter().filter(|row| row.count("steps") == Some(steps));
        rows.map(|row| row.number(key).unwrap_or(f64::NAN)).collect()
    }
}

/// A, B, …, Z, and numbers after that.
fn letter(n: usize) -> String {
    u8::try_from(n)
        .ok()
        .filter(|n| *n < 26)
        .map_or_else(|| n.to_string(), |n| char::from(b'A' + n).to_string())
}
