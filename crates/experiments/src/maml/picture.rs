//! Pictures of a training: losses, accuracy, and what the first order leaves out.

use super::{MamlError, Record, Result};
use crate::plot::curves::{Curve, Scale, curves};

/// Points of a curve are means over so many steps that there are no more of them than this.
const MOST: usize = 400;

/// One number of each step.
type Column = fn(&Record) -> Option<f64>;

/// A picture: its file, its axis, and its curves.
const PICTURES: [(&str, &str, Scale, &[(&str, Column)]); 3] = [
    (
        "loss.svg",
        "loss",
        Scale::PowersOfTen,
        &[
            ("support, before adaptation", |record| Some(record.before)),
            ("query, after adaptation", |record| Some(record.after)),
        ],
    ),
    ("accuracy.svg", "accuracy", Scale::Even, &[("query, after adaptation", |record| record.accuracy)]),
    ("rel_diff.svg", "rel_diff", Scale::Even, &[("|full - first order| / |full|", |record| record.rel_diff)]),
];

/// Each picture that there are numbers for, by the name of its file.
pub fn pictures(title: &str, records: &[Record]) -> Result<Vec<(&'static str, String)>> {
    let mut drawn = Vec::new();
    for (name, axis, scale, columns) in PICTURES {
        let all: Vec<Curve> = columns.iter().filter_map(|(words, of)| curve(words, records, *of)).collect();
        if all.is_empty() {
            continue;
        }
        let picture = curves(title, ["outer step", axis], scale, &all)
            .map_err(|error| MamlError::Picture { name, reason: error.to_string() })?;
        drawn.push((name, picture));
    }
    Ok(drawn)
}

fn curve(words: &str, records: &[Record], of: Column) -> Option<Curve> {
    let points: Vec<(f64, f64)> =
        records.iter().filter_map(|record| Some((record.step as f64, of(record)?))).collect();
    let together = points.len().div_ceil(MOST);
    if together == 0 {
        return None;
    }
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    let name = if together > 1 { format!("{words}; means over {together}") } else { words.to_owned() };
    Some(Curve { name, points: points.chunks(together).map(mean).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: usize, accuracy: Option<f64>) -> Record {
        let (before, after, norm, seconds) = (2.0, 1.0 / step as f64, 1.0, 0.1);
        Record { step, before, after, norm, accuracy, rates: None, rel_diff: None, seconds }
    }

    #[test]
    fn there_is_a_picture_for_what_there_are_numbers_for() {
        let names = |records: &[Record]| -> Vec<&str> {
            pictures("t", records).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let plain: Vec<Record> = (1..9).map(|step| record(step, None)).collect();
        assert_eq!(names(&plain), ["loss.svg"]);
        let mut all: Vec<Record> = (1..9).map(|step| record(step, Some(0.5))).collect();
        all[3].rel_diff = Some(0.2);
        assert_eq!(names(&all), ["loss.svg", "accuracy.svg", "rel_diff.svg"]);
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn many_steps_become_means_of_some() {
        let records: Vec<Record> = (1..=1000).map(|step| record(step, None)).collect();
        let made = curve("after", &records, |record| Some(record.after)).unwrap();
        assert_eq!((made.points.len(), made.name.as_str()), (334, "after; means over 3"));
        assert_eq!(made.points[0], (2.0, (1.0 + 0.5 + 1.0 / 3.0) / 3.0));
        assert_eq!(made.points[333].0, 1000.0);
    }
}
