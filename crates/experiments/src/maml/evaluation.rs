//! What a training came to: tasks that nothing was learned from.

use serde_json::{Value, json};

/// Numbers in brief.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Their mean: not a number if there are none.
    pub mean: f64,
    /// The one in the middle, or the larger of two.
    pub median: f64,
    /// The standard error of the mean: how far it may be off by chance.
    pub error: f64,
}

impl Spread {
    /// Of numbers in any order.
    pub fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
        let median = numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN);
        Self { mean, median, error: (squares / (count - 1.0) / count).sqrt() }
    }

    fn json(&self) -> Value {
        // JSON has no NaN: what cannot be said is null.
        json!({ "mean": self.mean, "median": self.median, "standard_error": self.error })
    }
}

/// Losses and accuracies on tasks that nothing was learned from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Tasks that were adapted to.
    pub tasks: usize,
    /// Further ones whose inner loop diverged. They are in no mean.
    pub diverged: usize,
    /// The loss on a task's own data before the first step.
    pub before: Spread,
    /// The loss on the query after adaptation.
    pub loss: Spread,
    /// The part of the query that is classified rightly; of tasks with classes.
    pub accuracy: Option<Spread>,
}

impl Evaluation {
    /// As an object.
    pub fn json(&self) -> Value {
        json!({
            "tasks": self.tasks,
            "diverged": self.diverged,
            "before": self.before.json(),
            "loss": self.loss.json(),
            "accuracy": self.accuracy.as_ref().map(Spread::json),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_that_of_its_numbers() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 0.0]);
        assert_eq!((spread.mean, spread.median), (2.0, 3.0));
        // Squares 4 + 1 + 1 + 4 over 3, over 4.
        assert!((spread.error - (10.0_f64 / 12.0).sqrt()).abs() < 1e-15);
        assert!(Spread::of(Vec::new()).mean.is_nan() && Spread::of(Vec::new()).json()["mean"].is_null());
    }
}
