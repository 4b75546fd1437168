//! Random numbers by counter: what is drawn depends on where, not on what was drawn before.

use std::f64::consts::TAU;

use theria_contract::philox4x32_10;

/// 2⁻⁵³: the step between numbers drawn from [0, 1).
const STEP: f64 = 1.0 / (1_u64 << 53) as f64;

/// A sequence of random numbers, named by a seed, the number of a task, and what it is drawn for.
///
/// Philox4x32-10 with the seed as key and (block, stream, task number) as counter: sequences of different names share
/// no counter, and each is 2³² blocks of two numbers long. Functions come from `libm`, the same code everywhere.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    /// The other half of the last block.
    bits: Option<u64>,
    /// The other one of the last two normal numbers.
    normal: Option<f64>,
}

impl Stream {
    /// The sequence of this name, from its beginning. The generators of this crate use streams from 0x100 to 0xfff, of
    /// which no two share one; the others are free.
    pub fn new(seed: u64, number: u64, stream: u32) -> Self {
        let halves = |word: u64| [word as u32, (word >> 32) as u32];
        let [low, high] = halves(number);
        Self { key: halves(seed), counter: [0, stream, low, high], bits: None, normal: None }
    }

    /// 64 random bits.
    ///
    /// # Panics
    /// After 2³³ of them.
    pub fn bits(&mut self) -> u64 {
        if let Some(bits) = self.bits.take() {
            return bits;
        }
        let [a, b, c, d] = philox4x32_10(self.counter, self.key).map(u64::from);
        self.counter[0] = self.counter[0].checked_add(1).expect("fewer than 2³² blocks of one stream");
        self.bits = Some(c | d << 32);
        a | b << 32
    }

    /// Uniform in [0, 1): a multiple of 2⁻⁵³.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * STEP
    }

    /// Uniform between two numbers.
    pub fn uniform(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.unit()
    }

    /// Of the standard normal distribution, by the transform of Box and Muller.
    pub fn normal(&mut self) -> f64 {
        if let Some(normal) = self.normal.take() {
            return normal;
        }
        // 1 - u is in (0, 1] and exact, so the logarithm is finite.
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        let angle = TAU * self.unit();
        self.normal = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }

    /// A number from 0 below `bound`, each exactly as likely.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "there is no number below zero");
        let bound = bound as u64;
        // Bits from the last multiple of the bound on would favour the small remainders.
        let last = u64::MAX - u64::MAX % bound;
        loop {
            let bits = self.bits();
            if bits < last {
                return (bits % bound) as usize;
            }
        }
    }

    /// `count` different numbers from 0 below `bound`, in random order.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn choose(&mut self, count: usize, bound: usize) -> Vec<usize> {
        assert!(count <= bound, "{count} different numbers below {bound}");
        let mut all: Vec<usize> = (0..bound).collect();
        for place in 0..count {
            let other = place + self.below(bound - place);
            all.swap(place, other);
        }
        all.truncate(count);
        all
    }

    /// The numbers from 0 below `bound` in random order.
    pub fn permutation(&mut self, bound: usize) -> Vec<usize> {
        self.choose(bound, bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean, variance, and the third and fourth moment about zero.
    fn moments(numbers: &[f64]) -> [f64; 4] {
        let mean = |f: &dyn Fn(f64) -> f64| numbers.iter().map(|x| f(*x)).sum::<f64>() / numbers.len() as f64;
        let first = mean(&|x| x);
        [first, mean(&|x| (x - first).powi(2)), mean(&|x| x.powi(3)), mean(&|x| x.powi(4))]
    }

    const MANY: usize = 200_000;

    /// Five standard errors of a mean of [`MANY`] numbers with this deviation.
    fn five_errors(deviation: f64) -> f64 {
        5.0 * deviation / (MANY as f64).sqrt()
    }

    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        let mut stream = Stream::new(1, 2, 3);
        let numbers: Vec<f64> = (0..MANY).map(|_| stream.normal()).collect();
        let made = moments(&numbers);
        // Deviations of x, x², x³ and x⁴: √1, √2, √15, √96.
        for ((made, expected), variance) in
            made.iter().zip([0.0, 1.0, 0.0, 3.0]).zip([1.0_f64, 2.0, 15.0, 96.0])
        {
            assert!((made - expected).abs() < five_errors(variance.sqrt()), "{made} {expected}");
        }
        // The two of a pair are not related.
        let product = numbers.chunks_exact(2).map(|two| two[0] * two[1]).sum::<f64>() / (MANY / 2) as f64;
        assert!(product.abs() < 2.0_f64.sqrt() * five_errors(1.0), "{product}");
    }

    #[test]
    fn uniform_numbers_stay_between_their_ends_and_fill_them_evenly() {
        let mut stream = Stream::new(1, 2, 3);
        let numbers: Vec<f64> = (0..MANY).map(|_| stream.uniform(-1.0, 3.0)).collect();
        assert!(numbers.iter().all(|x| (-1.0..3.0).contains(x)));
        let [mean, variance, ..] = moments(&numbers);
        let deviation = (16.0_f64 / 12.0).sqrt();
        assert!((mean - 1.0).abs() < five_errors(deviation), "{mean}");
        // The square about the mean has the variance w⁴/80 - (w²/12)².
        assert!((variance - 16.0 / 12.0).abs() < five_errors((256.0_f64 / 180.0).sqrt()), "{variance}");
    }

    #[test]
    fn numbers_below_a_bound_are_equally_likely() {
        let mut stream = Stream::new(1, 2, 3);
        let mut counts = [0_u32; 7];
        for _ in 0..MANY {
            counts[stream.below(7)] += 1;
        }
        let expected = MANY as f64 / 7.0;
        let square: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        assert!(square < 6.0 + 5.0 * 12.0_f64.sqrt(), "{square}: chi-squared with 6 degrees of freedom");
        assert!((0..9).all(|_| stream.below(1) == 0));
        // Two thirds of all bits: without the redraw, numbers below one third would come twice as often.
        let bound = (u64::MAX / 3 * 2) as usize;
        let low = (0..MANY).filter(|_| stream.below(bound) < bound / 2).count() as f64 / MANY as f64;
        assert!((low - 0.5).abs() < five_errors(0.5), "{low}");
    }

    #[test]
    fn chosen_numbers_differ_and_every_order_comes_as_often() {
        let mut orders = std::collections::BTreeMap::new();
        for number in 0..24_000 {
            let chosen = Stream::new(5, number, 1).choose(2, 4);
            assert!(chosen[0] != chosen[1] && chosen.iter().all(|n| *n < 4));
            *orders.entry(chosen).or_insert(0) += 1;
        }
        assert_eq!(orders.len(), 12);
        assert!(orders.values().all(|n| (1_785..2_215).contains(n)), "2000 ± 5·√(2000·11/12): {orders:?}");
        let mut all = Stream::new(5, 0, 2).permutation(100);
        assert_ne!(all, (0..100).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn every_part_of_a_name_matters_both_halves_of_it() {
        let first = |seed, number, stream| Stream::new(seed, number, stream).bits();
        let names = [
            (1, 1, 1),
            (2, 1, 1),
            (1 | 1 << 40, 1, 1),
            (1, 2, 1),
            (1, 1 | 1 << 40, 1),
            (1, 1, 2),
            (1, 1, 1 << 20),
        ];
        let drawn: std::collections::BTreeSet<u64> =
            names.into_iter().map(|(a, b, c)| first(a, b, c)).collect();
        assert_eq!(drawn.len(), names.len());
    }

    #[test]
    fn a_block_is_two_numbers_of_the_known_answer() {
        // The answer of the generator's authors to all zeros: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
        let mut stream = Stream::new(0, 0, 0);
        assert_eq!([stream.bits(), stream.bits()], [0xe169_c58d_6627_e8d5, 0x9b00_dbd8_bc57_ac4c]);
    }
}
