//! The log of a training: a line of JSON for each outer step.

use serde_json::{Map, Value, json};

/// What an outer step saw. Losses and accuracy are means over its tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number, from 1.
    pub step: usize,
    /// The loss on a task's own data before the first inner step.
    pub before: f64,
    /// The loss on the query after the last one.
    pub after: f64,
    /// The norm of the mean of meta-gradients, before it was cut.
    pub norm: f64,
    /// The part of the query that was classified rightly, after adaptation; of tasks with classes.
    pub accuracy: Option<f64>,
    /// The inner rates after the step, where they are learned.
    pub rates: Option<Vec<f64>>,
    /// |whole gradient - first order| / |whole gradient| of the mean over the tasks, where it was measured.
    pub rel_diff: Option<f64>,
    /// What it took, by the clock.
    pub seconds: f64,
}

impl Record {
    /// As an object.
    pub fn json(&self) -> Value {
        let mut line = json!({
            "step": self.step,
            "before": self.before,
            "after": self.after,
            "norm": self.norm,
            "seconds": self.seconds,
        });
        let optional = [
            ("accuracy", self.accuracy.map(Value::from)),
            ("rates", self.rates.clone().map(Value::from)),
            ("rel_diff", self.rel_diff.map(Value::from)),
        ];
        let given: Map<String, Value> =
            optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        if let Some(line) = line.as_object_mut() {
            line.extend(given);
        }
        line
    }

    /// A line that was read; none if it is not whole.
    pub fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let number = |key: &str| line[key].as_f64();
        let rates = line["rates"].as_array().map(|all| all.iter().filter_map(Value::as_f64).collect());
        Some(Self {
            step: line["step"].as_u64()? as usize,
            before: number("before")?,
            after: number("after")?,
            norm: number("norm")?,
            accuracy: number("accuracy"),
            rates,
            rel_diff: number("rel_diff"),
            seconds: number("seconds")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_half_a_line_is_none() {
        let plain = Record {
            step: 3,
            before: 1.5,
            after: 0.25,
            norm: 2.0,
            accuracy: None,
            rates: None,
            rel_diff: None,
            seconds: 0.5,
        };
        let all = Record {
            accuracy: Some(0.75),
            rates: Some(vec![0.125, 0.25]),
            rel_diff: Some(0.5),
            ..plain.clone()
        };
        for record in [plain, all] {
            let line = record.json().to_string();
            assert_eq!(Record::parse(&line), Some(record));
            assert!(!line.contains("null") && !line.contains('\n'), "{line}");
            assert!((0..line.len()).all(|end| Record::parse(&line[..end]).is_none()));
        }
    }
}
