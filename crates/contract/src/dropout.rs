//! Dropout that every rule regenerates and nothing stores.
//!
//! The weight of key `j` for query `i` comes from a counter, not from a state: Philox4x32-10 with
//! the seed as key and `(j / 4, i, h, b)` as counter, lane `j mod 4`. The same function on the GPU
//! gives the same bits.

use crate::{Error, Result};

/// Drop each probability with probability `p`; scale the kept ones by `1 / (1 - p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    p: f64,
    seed: u64,
}

impl Dropout {
    /// `p` must be in `[0, 1)`.
    pub fn new(p: f64, seed: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::DropoutProbability { p });
        }
        Ok(Self { p, seed })
    }

    /// The probability of being dropped.
    pub fn p(&self) -> f64 {
        self.p
    }

    /// The key of the generator.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What a kept probability is multiplied by.
    pub fn kept_weight(&self) -> f64 {
        1.0 / (1.0 - self.p)
    }

    /// Words of the generator below this one drop their key.
    pub fn threshold(&self) -> u32 {
        // p < 1, so the product is below 2³².
        (self.p * 4_294_967_296.0).floor() as u32
    }

    /// The generator along one row of scores.
    pub fn row(&self, batch: usize, head_q: usize, row: usize) -> DropoutRow {
        DropoutRow {
            key: [self.seed as u32, (self.seed >> 32) as u32],
            counter: [row as u32, head_q as u32, batch as u32],
            threshold: self.threshold(),
        }
    }
}

/// One row of the dropout mask.
#[derive(Clone, Copy, Debug)]
pub struct DropoutRow {
    key: [u32; 2],
    counter: [u32; 3],
    threshold: u32,
}

impl DropoutRow {
    /// Whether key `j` is kept.
    #[inline]
    pub fn keeps(&self, j: usize) -> bool {
        self.keeps_four(j / 4)[j % 4]
    }

    /// Writes `kept` for each of the 64 keys from `4 · block` on that is kept, and `dropped` for the
    /// others: sixteen calls of the generator side by side, in the lanes of the machine's registers if
    /// the caller was compiled for them.
    #[allow(clippy::inline_always)] // out of line it would not be compiled for the caller's registers
    #[inline(always)]
    pub fn choose_64<T: Copy>(&self, block: usize, kept: T, dropped: T) -> [[T; 4]; LANES] {
        let [row, head, batch] = self.counter;
        let blocks = std::array::from_fn(|lane| (block + lane) as u32);
        let counter = [blocks, [row; LANES], [head; LANES], [batch; LANES]];
        let words = philox4x32_10_lanes(counter, self.key);
        let mut chosen = [[dropped; 4]; LANES];
        for (lane, chosen) in chosen.iter_mut().enumerate() {
            for (word, chosen) in words.iter().zip(chosen) {
                *chosen = if word[lane] >= self.threshold { kept } else { dropped };
            }
        }
        chosen
    }

    /// Whether keys `4 · block` to `4 · block + 3` are kept: one call of the generator.
    #[inline]
    pub fn keeps_four(&self, block: usize) -> [bool; 4] {
        let [row, head, batch] = self.counter;
        philox4x32_10([block as u32, row, head, batch], self.key).map(|word| word >= self.threshold)
    }
}

/// Counters that [`DropoutRow::choose_64`] takes at once: the 32-bit lanes of a 512-bit register.
const LANES: usize = 16;

/// [`philox4x32_10`] on many counters, word by word: `counter[word][lane]`.
#[allow(clippy::inline_always, clippy::needless_range_loop)] // for the compiler: vectors, not iterators
#[inline(always)]
fn philox4x32_10_lanes<const N: usize>(mut counter: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..10 {
        for lane in 0..N {
            let first = u64::from(counter[0][lane]) * u64::from(MULTIPLIERS[0]);
            let second = u64::from(counter[2][lane]) * u64::from(MULTIPLIERS[1]);
            counter[0][lane] = (second >> 32) as u32 ^ counter[1][lane] ^ key[0];
            counter[1][lane] = second as u32;
            counter[2][lane] = (first >> 32) as u32 ^ counter[3][lane] ^ key[1];
            counter[3][lane] = first as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The Philox4x32 bijection with ten rounds (Salmon and others, "Parallel random numbers: as easy
/// as 1, 2, 3", 2011).
#[inline]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * u64::from(MULTIPLIERS[0]);
        let second = u64::from(counter[2]) * u64::from(MULTIPLIERS[1]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_its_authors() {
        // Test vectors of the Random123 distribution (kat_vectors).
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, words) in known {
            assert_eq!(philox4x32_10(counter, key), words);
        }
        assert_ne!(philox4x32_10([0; 4], [1, 0]), known[0].2, "the key matters");
    }

    #[test]
    fn keys_side_by_side_are_chosen_as_they_are_one_by_one() {
        let row = Dropout::new(0.4, 0x1234_5678_9abc_def0).unwrap().row(3, 1, 4);
        for block in [0, 1, 7, 1_000_003] {
            let together = row.choose_64(block, 1, 0);
            for (lane, chosen) in together.as_flattened().iter().enumerate() {
                assert_eq!(*chosen == 1, row.keeps(4 * block + lane), "key {lane} from block {block}");
            }
        }
    }

    #[test]
    fn the_share_of_dropped_keys_is_p() {
        let dropout = Dropout::new(0.3, 7).unwrap();
        let dropped: usize =
            (0..100).map(|i| (0..100).filter(|j| !dropout.row(1, 2, i).keeps(*j)).count()).sum();
        assert!((2800..3200).contains(&dropped), "{dropped} of 10000");
        assert!((0..1000).all(|j| Dropout::new(0.0, 7).unwrap().row(0, 0, 0).keeps(j)));
    }

    #[test]
    fn every_index_and_both_halves_of_the_seed_matter() {
        let bits = |seed, b, h, i| -> Vec<bool> {
            (0..64).map(|j| Dropout::new(0.5, seed).unwrap().row(b, h, i).keeps(j)).collect()
        };
        let base = bits(1, 0, 0, 0);
        for other in [
            bits(2, 0, 0, 0),
            bits(1 | 1 << 40, 0, 0, 0),
            bits(1, 1, 0, 0),
            bits(1, 0, 1, 0),
            bits(1, 0, 0, 1),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_probability_outside_its_range_is_refused() {
        for p in [-0.1, 1.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(Dropout::new(p, 0).is_err(), "{p}");
        }
    }
}
