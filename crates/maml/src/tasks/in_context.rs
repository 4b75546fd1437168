//! A task as sequences: what is known first, then what is asked.

use super::{SampleShape, Samples, Target, Task};
use crate::{Error, Result};

impl Task {
    /// For each sample of the query a sequence: the support with its targets, and last the sample without its own.
    ///
    /// ```text
    /// x_1   y_1
    /// x_2   y_2
    ///  ⋮     ⋮
    /// x_q    0     →  y_q
    /// ```
    ///
    /// A class is written as a row of zeros with a one in its place, so that its number is no magnitude. Only samples of
    /// one row can be written so.
    pub fn in_context(&self) -> Result<Samples> {
        let SampleShape { length, columns, target } = self.query.shape;
        if length != 1 {
            return Err(Error::Elements { what: "a sample of a context (rows)", given: length, expected: 1 });
        }
        let known: Vec<f64> = (0..self.support.count)
            .flat_map(|n| {
                self.support.input(n).iter().copied().chain(written(target, self.support.target(n)))
            })
            .collect();
        let shape =
            SampleShape { length: self.support.count + 1, columns: columns + target.outputs(), target };
        let mut sequences = Samples::with_room(shape, self.query.count);
        for n in 0..self.query.count {
            let asked = self.query.input(n).iter().copied().chain(vec![0.0; target.outputs()]);
            sequences.push(known.iter().copied().chain(asked), self.query.target(n).iter().copied());
        }
        Ok(sequences)
    }
}

/// A target as a model would put it out.
fn written(target: Target, value: &[f64]) -> Vec<f64> {
    match target {
        Target::Numbers(_) => value.to_vec(),
        Target::Class(classes) => {
            (0..classes).map(|class| if class as f64 == value[0] { 1.0 } else { 0.0 }).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{KeyValue, LinearRegression, Prototypes, TaskSource as _};

    #[test]
    fn a_sequence_shows_the_support_and_asks_for_a_query() {
        let source = LinearRegression { width: 2, context: 3, queries: 2, noise: 0.0 };
        let task = source.task(1, 1).unwrap();
        let made = task.in_context().unwrap();
        assert_eq!((made.count, made.shape.length, made.shape.columns), (2, 4, 3));
        for n in 0..2 {
            let rows: Vec<&[f64]> = made.input(n).chunks_exact(3).collect();
            for (row, shown) in rows[..3].iter().enumerate() {
                assert_eq!(shown[..2], *task.support.input(row));
                assert_eq!(shown[2..], *task.support.target(row));
            }
            assert_eq!(rows[3][..2], *task.query.input(n));
            assert_eq!(rows[3][2], 0.0, "the answer is not shown");
            assert_eq!(made.target(n), task.query.target(n));
        }
    }

    #[test]
    fn classes_are_shown_in_their_places() {
        let task = KeyValue { pairs: 4, width: 2, labels: 3, ..KeyValue::default() }.task(1, 1).unwrap();
        let made = task.in_context().unwrap();
        assert_eq!((made.shape.length, made.shape.columns), (5, 5));
        for (row, class) in made.input(0).chunks_exact(5).zip(&task.support.targets) {
            let mut expected = [0.0; 3];
            expected[*class as usize] = 1.0;
            assert_eq!(row[2..], expected);
        }
    }

    #[test]
    fn sequences_have_no_context() {
        let refused = Prototypes::default().task(1, 1).unwrap().in_context();
        assert!(matches!(refused, Err(Error::Elements { given: 32, .. })));
    }
}
