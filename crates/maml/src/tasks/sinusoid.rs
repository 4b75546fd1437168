//! Regression of sine waves.

use std::f64::consts::PI;

use super::parameter::Parameters;
use super::{SampleShape, Samples, Stream, Target, Task, TaskSource};
use crate::Result;

const LAW: u32 = 0x100;
const SUPPORT: u32 = 0x101;
const QUERY: u32 = 0x102;

/// Sine waves of which a few points are known (Finn, Abbeel and Levine, "Model-agnostic meta-learning", 2017).
///
/// ```text
/// y = A sin(x - φ)       A ~ U[0.1, 5]    φ ~ U[0, π]    once a task
///                        x ~ U[-5, 5]                    for each point
/// ```
///
/// The loss is the squared error. Of the outcome take medians as well as means: a task on which the inner loop diverges
/// decides a mean alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sinusoid {
    /// Points to adapt to.
    pub shots: usize,
    /// Points to judge by.
    pub queries: usize,
}

impl Default for Sinusoid {
    fn default() -> Self {
        Self { shots: 10, queries: 10 }
    }
}

/// What a task is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wave {
    /// A.
    pub amplitude: f64,
    /// φ.
    pub phase: f64,
}

impl Wave {
    /// A sin(x - φ).
    pub fn at(self, x: f64) -> f64 {
        self.amplitude * libm::sin(x - self.phase)
    }
}

impl Sinusoid {
    /// The wave of a task.
    pub fn wave(&self, seed: u64, number: u64) -> Wave {
        let mut stream = Stream::new(seed, number, LAW);
        Wave { amplitude: stream.uniform(0.1, 5.0), phase: stream.uniform(0.0, PI) }
    }

    fn points(self, wave: Wave, mut stream: Stream, count: usize) -> Samples {
        let mut points = Samples::with_room(self.shape(), count);
        for _ in 0..count {
            let x = stream.uniform(-5.0, 5.0);
            points.push([x], [wave.at(x)]);
        }
        points
    }
}

impl TaskSource for Sinusoid {
    fn shape(&self) -> SampleShape {
        SampleShape { length: 1, columns: 1, target: Target::Numbers(1) }
    }

    fn support_count(&self) -> usize {
        self.shots
    }

    fn query_count(&self) -> usize {
        self.queries
    }

    fn task(&self, seed: u64, number: u64) -> Result<Task> {
        let parameters = Parameters("sinusoid");
        parameters.positive("shots", self.shots)?;
        parameters.positive("queries", self.queries)?;
        let wave = self.wave(seed, number);
        Ok(Task {
            support: self.points(wave, Stream::new(seed, number, SUPPORT), self.shots),
            query: self.points(wave, Stream::new(seed, number, QUERY), self.queries),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// a and b of the least squares a sin x + b cos x.
    fn fitted(points: &Samples) -> (f64, f64) {
        let [mut ss, mut sc, mut cc, mut sy, mut cy] = [0.0; 5];
        for (x, y) in points.inputs.iter().zip(&points.targets) {
            let (s, c) = x.sin_cos();
            ss += s * s;
            sc += s * c;
            cc += c * c;
            sy += s * y;
            cy += c * y;
        }
        let determinant = ss * cc - sc * sc;
        ((sy * cc - cy * sc) / determinant, (cy * ss - sy * sc) / determinant)
    }

    proptest! {
        #[test]
        fn support_and_query_lie_on_one_wave_of_the_protocol(seed: u64, number: u64) {
            let source = Sinusoid::default();
            let task = source.task(seed, number).unwrap();
            // A sin(x - φ) = A cos φ sin x - A sin φ cos x.
            let waves = [&task.support, &task.query].map(|points| {
                let (a, b) = fitted(points);
                prop_assert!(points.inputs.iter().all(|x| (-5.0..=5.0).contains(x)));
                for (x, y) in points.inputs.iter().zip(&points.targets) {
                    prop_assert!((a * x.sin() + b * x.cos() - y).abs() < 1e-9, "off the wave at {x}");
                }
                Ok((a.hypot(b), (-b).atan2(a)))
            });
            let [support, query] = waves;
            let ((amplitude, phase), query) = (support?, query?);
            prop_assert!((amplitude - query.0).abs() < 1e-9 && (phase - query.1).abs() < 1e-7);
            prop_assert!((0.1 - 1e-9..5.0 + 1e-9).contains(&amplitude), "{amplitude}");
            prop_assert!((-1e-7..PI + 1e-7).contains(&phase), "{phase}");
            let wave = source.wave(seed, number);
            prop_assert!((wave.amplitude - amplitude).abs() < 1e-9 && (wave.phase - phase).abs() < 1e-7);
        }
    }

    #[test]
    fn amplitudes_and_phases_fill_their_ranges() {
        let waves: Vec<Wave> = (0..10_000).map(|number| Sinusoid::default().wave(11, number)).collect();
        let mean = |f: fn(&Wave) -> f64| waves.iter().map(f).sum::<f64>() / waves.len() as f64;
        // Five standard errors of a uniform mean: 5 · width / √12 / √10000.
        assert!((mean(|wave| wave.amplitude) - 2.55).abs() < 0.05 * 4.9 / 12.0_f64.sqrt());
        assert!((mean(|wave| wave.phase) - PI / 2.0).abs() < 0.05 * PI / 12.0_f64.sqrt());
    }

    #[test]
    fn more_shots_leave_the_others_and_the_query_as_they_were() {
        let few = Sinusoid { shots: 5, queries: 100 }.task(3, 4).unwrap();
        let many = Sinusoid { shots: 10, queries: 100 }.task(3, 4).unwrap();
        assert_eq!(few.query, many.query);
        assert_eq!(few.support.inputs, many.support.inputs[..5]);
    }
}
