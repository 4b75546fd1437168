//! A named case: a problem, and how its data are made.

use crate::Problem;

/// One entry of the suite.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about; unique in a suite.
    pub name: &'static str,
    /// The problem. Its element type is replaced by that of the backend under test.
    pub problem: Problem,
    /// The size of the data.
    pub amplitude: Amplitude,
    /// How the tensors lie in memory, inputs and outputs alike.
    pub memory: Memory,
    /// The entries of a boolean mask, if the problem has one.
    pub mask: MaskPattern,
    /// Key lengths, if the problem has them. Keys and values beyond them are filled with NaN.
    pub key_lengths: Vec<i32>,
    /// Share of bias entries that are `-inf`, in 1/256.
    pub hidden_by_bias: u32,
    /// The first so many keys have a bias of the most negative finite number: the mask of padding that
    /// frameworks add.
    pub lowest_keys: usize,
}

impl Case {
    /// A case with moderate data in packed memory.
    pub fn new(name: &'static str, problem: Problem) -> Self {
        Self {
            name,
            problem,
            amplitude: Amplitude::Moderate,
            memory: Memory::Contiguous,
            mask: MaskPattern::Random,
            key_lengths: Vec::new(),
            hidden_by_bias: 0,
            lowest_keys: 0,
        }
    }

    /// Whether it is run in a few forms only, because each takes its time.
    pub fn is_large(&self) -> bool {
        self.problem.shape().scores().iter().product::<usize>() > 30_000
    }
}

/// The size of queries and keys; everything else has variance 1, a bias 1/4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amplitude {
    /// Variates of mean 0 and variance 1.
    Unit,
    /// Variates of mean 0 and variance 1/4: probabilities of the same order, so that gradients have
    /// light tails and a bound on their maximum speaks of the rule and not of the data.
    Moderate,
    /// Multiples of 1/4 up to 2 in size. Their products are exact in every
    /// element type, so large scores test the softmax and not the rounding of the scores.
    Grid,
    /// Variates of mean 0 and variance 2⁻¹²: nearly uniform probabilities.
    Tiny,
    /// A grid, and keys that double in size from eighth to eighth of their number: maxima of rows come
    /// late and again and again, which is what a running softmax has to live with.
    Rising,
    /// The same the other way round: for kernels that begin with the last keys.
    Falling,
}

/// How tensors lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// (B, H, T, D).
    Contiguous,
    /// (B, T, H, D).
    HeadsInside,
    /// (B, H, T, D) with unused elements after every row, head and batch entry.
    Padded,
}

/// The entries of a boolean mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskPattern {
    /// Three of four visible.
    Random,
    /// Three of four visible, and every third row sees nothing.
    SomeRowsEmpty,
    /// Nothing is visible.
    AllHidden,
}
