//! Numbers from a seed: the same ones on every machine.

use theria_contract::{Element, Result, Tensor, philox4x32_10};

/// A stream of random numbers. Streams of one seed are independent of each other.
#[derive(Clone, Debug)]
pub struct Samples {
    key: [u32; 2],
    stream: u32,
    counter: u64,
    words: [u32; 4],
    used: usize,
}

impl Samples {
    /// Starts a stream.
    pub fn new(seed: u64, stream: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream, counter: 0, words: [0; 4], used: 4 }
    }

    fn word(&mut self) -> u32 {
        if self.used == 4 {
            // The last word keeps these streams apart from the dropout of the same seed, whose
            // last word is a batch index.
            let counter = [self.counter as u32, (self.counter >> 32) as u32, self.stream, u32::MAX];
            self.words = philox4x32_10(counter, self.key);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform with zero mean and unit variance.
    pub fn centred(&mut self) -> f64 {
        let bits = (u64::from(self.word()) << 32 | u64::from(self.word())) >> 11;
        let uniform = bits as f64 / (1_u64 << 53) as f64;
        (2.0 * uniform - 1.0) * 3.0_f64.sqrt()
    }

    /// A whole number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (u64::from(self.word()) * n) >> 32
    }

    /// `n` centred numbers.
    pub fn vector(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.centred()).collect()
    }

    /// A tensor of centred numbers, rounded to `E`.
    pub fn tensor<E: Element>(mut self, shape: [usize; 4]) -> Result<Tensor<E>> {
        Tensor::from_fn(shape, |_| E::from_f64(self.centred()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_another_gives_others() {
        let draw = |seed, stream| Samples::new(seed, stream).vector(64);
        assert_eq!(draw(3, 1), draw(3, 1));
        assert_ne!(draw(3, 1), draw(4, 1));
        assert_ne!(draw(3, 1), draw(3, 2));
    }

    #[test]
    fn numbers_have_zero_mean_and_unit_variance() {
        let numbers = Samples::new(1, 0).vector(100_000);
        let n = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / n;
        let variance = numbers.iter().map(|x| x * x).sum::<f64>() / n;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn whole_numbers_below_a_bound_reach_all_of_them_and_no_other() {
        let mut samples = Samples::new(5, 0);
        let mut seen = [0; 3];
        (0..300).for_each(|_| seen[samples.below(3) as usize] += 1);
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }
}
