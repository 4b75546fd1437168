//! A memory of keys and values, to be written by gradient steps.

use super::parameter::Parameters;
use super::{SampleShape, Samples, Stream, Target, Task, TaskSource};
use crate::Result;

const KEYS: u32 = 0x300;
const LABELS: u32 = 0x301;
const NOISE: u32 = 0x302;

/// Pairs of a key and a label: the support is to be written into a memory, the query reads the same keys again, with
/// some noise.
///
/// ```text
/// key_i = norm · n/|n|         n ~ N(0, I)        label_i ~ uniform       of a task
/// support: (key_i, label_i)    query: (key_i + σ n, label_i)              in the same order
/// ```
///
/// Meant for a loop that adapts the memory alone, inside one that learns to read it. How reading should change so that
/// writing gets better is a mixed second derivative, which a first-order loop leaves out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyValue {
    /// Pairs to remember, n.
    pub pairs: usize,
    /// Columns of a key.
    pub width: usize,
    /// |key|.
    pub norm: f64,
    /// Labels there are.
    pub labels: usize,
    /// σ, the noise on each column of a key when it is read.
    pub noise: f64,
}

impl Default for KeyValue {
    fn default() -> Self {
        Self { pairs: 16, width: 16, norm: 4.0, labels: 8, noise: 0.1 }
    }
}

impl KeyValue {
    fn check(&self) -> Result<()> {
        let parameters = Parameters("key-value memory");
        for (name, count) in [("pairs", self.pairs), ("width", self.width), ("labels", self.labels)] {
            parameters.positive(name, count)?;
        }
        parameters.length("norm", self.norm)?;
        parameters.noise(self.noise)
    }

    fn key(&self, stream: &mut Stream) -> Vec<f64> {
        loop {
            let key: Vec<f64> = (0..self.width).map(|_| stream.normal()).collect();
            let norm = libm::sqrt(key.iter().map(|x| x * x).sum());
            // All zeros have no direction: rare, but they would be NaN.
            if norm > 0.0 {
                return key.into_iter().map(|x| self.norm * (x / norm)).collect();
            }
        }
    }
}

impl TaskSource for KeyValue {
    fn shape(&self) -> SampleShape {
        SampleShape { length: 1, columns: self.width, target: Target::Class(self.labels) }
    }

    fn support_count(&self) -> usize {
        self.pairs
    }

    fn query_count(&self) -> usize {
        self.pairs
    }

    fn task(&self, seed: u64, number: u64) -> Result<Task> {
        self.check()?;
        let [mut keys, mut labels, mut noise] =
            [KEYS, LABELS, NOISE].map(|name| Stream::new(seed, number, name));
        let mut support = Samples::with_room(self.shape(), self.pairs);
        let mut query = support.clone();
        for _ in 0..self.pairs {
            let (key, label) = (self.key(&mut keys), labels.below(self.labels) as f64);
            query.push(key.iter().map(|x| x + self.noise * noise.normal()), [label]);
            support.push(key, [label]);
        }
        Ok(Task { support, query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(row: impl Iterator<Item = f64>) -> f64 {
        row.map(|x| x * x).sum::<f64>().sqrt()
    }

    #[test]
    fn keys_have_their_norm_and_point_anywhere() {
        let (mut sums, mut keys) = ([0.0; 16], 0.0);
        for number in 0..500 {
            let task = KeyValue::default().task(2, number).unwrap();
            for key in task.support.inputs.chunks_exact(16) {
                assert!((norm(key.iter().copied()) - 4.0).abs() < 1e-12);
                sums.iter_mut().zip(key).for_each(|(sum, x)| *sum += x);
                keys += 1.0;
            }
        }
        // A column of a key has variance 4²/16 = 1.
        assert!(sums.iter().all(|sum| (sum / keys).abs() < 5.0 / f64::sqrt(keys)), "{sums:?}");
    }

    #[test]
    fn the_query_is_the_support_with_noise_of_the_given_scale() {
        let (mut squares, mut count) = (0.0, 0.0);
        for number in 0..500 {
            let task = KeyValue::default().task(2, number).unwrap();
            assert_eq!(task.support.targets, task.query.targets);
            for (key, read) in task.support.inputs.iter().zip(&task.query.inputs) {
                squares += (read - key).powi(2);
                count += 1.0;
            }
        }
        let variance: f64 = squares / count;
        assert!((variance / 0.01 - 1.0).abs() < 5.0 * f64::sqrt(2.0 / count), "{variance}");
        let quiet = KeyValue { noise: 0.0, ..KeyValue::default() }.task(2, 0).unwrap();
        assert_eq!(quiet.support, quiet.query);
    }

    #[test]
    fn labels_are_balanced() {
        let mut labels = [0_u32; 8];
        for number in 0..1_000 {
            for label in KeyValue::default().task(9, number).unwrap().support.targets {
                labels[label as usize] += 1;
            }
        }
        let deviation = (16_000.0_f64 / 8.0 * 7.0 / 8.0).sqrt();
        assert!(labels.iter().all(|n| (f64::from(*n) - 2_000.0).abs() < 5.0 * deviation), "{labels:?}");
    }

    #[test]
    fn more_pairs_leave_the_first_ones_as_they_were() {
        let few = KeyValue { pairs: 8, ..KeyValue::default() }.task(1, 1).unwrap();
        let many = KeyValue::default().task(1, 1).unwrap();
        assert_eq!(few.support.inputs, many.support.inputs[..8 * 16]);
        assert_eq!(few.query.inputs, many.query.inputs[..8 * 16]);
        assert_eq!(few.query.targets, many.query.targets[..8]);
    }
}
