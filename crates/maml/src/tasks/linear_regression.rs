//! Linear regression from a context.

use super::parameter::Parameters;
use super::{SampleShape, Samples, Stream, Target, Task, TaskSource};
use crate::Result;

const LAW: u32 = 0x400;
const SUPPORT: u32 = 0x401;
const QUERY: u32 = 0x402;

/// Linear functions of which a context of points is known.
///
/// ```text
/// y = w·x + σ n          w ~ N(0, I)                    once a task
///                        x ~ N(0, I)    n ~ N(0, 1)     for each point
/// ```
///
/// To learn it by gradient steps, take the points as they are. To learn it in context, take the sequences of
/// [`Task::in_context`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearRegression {
    /// Columns of x.
    pub width: usize,
    /// Points that are known.
    pub context: usize,
    /// Points to judge by.
    pub queries: usize,
    /// σ, on what is known and on what is judged by.
    pub noise: f64,
}

impl Default for LinearRegression {
    fn default() -> Self {
        Self { width: 10, context: 20, queries: 10, noise: 0.0 }
    }
}

impl LinearRegression {
    /// w of a task.
    pub fn weights(&self, seed: u64, number: u64) -> Vec<f64> {
        let mut stream = Stream::new(seed, number, LAW);
        (0..self.width).map(|_| stream.normal()).collect()
    }

    fn points(&self, weights: &[f64], mut stream: Stream, count: usize) -> Samples {
        let mut points = Samples::with_room(self.shape(), count);
        for _ in 0..count {
            let x: Vec<f64> = weights.iter().map(|_| stream.normal()).collect();
            let y: f64 = weights.iter().zip(&x).map(|(w, x)| w * x).sum();
            // Drawn without noise, too: the points are the same for any σ.
            let noise = self.noise * stream.normal();
            points.push(x, [y + noise]);
        }
        points
    }
}

impl TaskSource for LinearRegression {
    fn shape(&self) -> SampleShape {
        SampleShape { length: 1, columns: self.width, target: Target::Numbers(1) }
    }

    fn support_count(&self) -> usize {
        self.context
    }

    fn query_count(&self) -> usize {
        self.queries
    }

    fn task(&self, seed: u64, number: u64) -> Result<Task> {
        let parameters = Parameters("linear regression");
        for (name, count) in [("width", self.width), ("context", self.context), ("queries", self.queries)] {
            parameters.positive(name, count)?;
        }
        parameters.noise(self.noise)?;
        let weights = self.weights(seed, number);
        Ok(Task {
            support: self.points(&weights, Stream::new(seed, number, SUPPORT), self.context),
            query: self.points(&weights, Stream::new(seed, number, QUERY), self.queries),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_linear_function_of_the_inputs() {
        let source = LinearRegression::default();
        let (task, weights) = (source.task(7, 3).unwrap(), source.weights(7, 3));
        for points in [&task.support, &task.query] {
            for n in 0..points.count {
                let expected: f64 = points.input(n).iter().zip(&weights).map(|(x, w)| x * w).sum();
                assert!((points.target(n)[0] - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn noise_has_its_scale_and_leaves_the_inputs_as_they_were() {
        let quiet = LinearRegression { context: 20_000, ..LinearRegression::default() };
        let noisy = LinearRegression { noise: 0.5, ..quiet };
        let (quiet, noisy) = (quiet.task(7, 3).unwrap().support, noisy.task(7, 3).unwrap().support);
        assert_eq!(quiet.inputs, noisy.inputs);
        let squares = quiet.targets.iter().zip(&noisy.targets).map(|(a, b)| (a - b).powi(2));
        let variance = squares.sum::<f64>() / 20_000.0;
        assert!((variance / 0.25 - 1.0).abs() < 5.0 * (2.0_f64 / 20_000.0).sqrt(), "{variance}");
        let square = quiet.inputs.iter().map(|x| x * x).sum::<f64>() / 200_000.0;
        assert!((square - 1.0).abs() < 5.0 * (2.0_f64 / 200_000.0).sqrt(), "{square}");
    }

    #[test]
    fn weights_are_standard_normal_over_tasks() {
        let weights: Vec<f64> =
            (0..5_000).flat_map(|number| LinearRegression::default().weights(1, number)).collect();
        let mean = weights.iter().sum::<f64>() / 50_000.0;
        let square = weights.iter().map(|w| w * w).sum::<f64>() / 50_000.0;
        assert!(mean.abs() < 5.0 / 50_000.0_f64.sqrt(), "{mean}");
        assert!((square - 1.0).abs() < 5.0 * (2.0_f64 / 50_000.0).sqrt(), "{square}");
    }
}
