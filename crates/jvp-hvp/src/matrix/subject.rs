//! The problem on which operators are examined: small, with all that a mistake needs to show itself.
//!
//! Row shifts need a bias; a redrawn mask needs dropout; sums over shared heads need groups; a
//! transposed index needs T ≠ M and D ≠ Dv; a row statistic needs rows of different lengths.

use theria_contract::{Attention, Causal, DType, Host, Problem, Result, Tensor};

use crate::proof::AttentionClaim;

/// Keys of each batch entry.
const KEY_LENGTHS: [i32; 2] = [7, 6];

/// A problem and the seed of its operands.
#[derive(Debug)]
pub(super) struct Subject {
    problem: Problem,
    seed: u64,
}

impl Subject {
    pub(super) fn new(seed: u64) -> Result<Self> {
        let problem = Problem::builder(DType::F64)
            .batch(2)
            .heads(4, 2)
            .lengths(5, 7)
            .head_dims(4, 3)
            .causal(Causal::BottomRight)
            .bias([1, 4, 5, 7])
            .key_lengths()
            .dropout(0.25, 7)
            .build()?;
        Ok(Self { problem, seed })
    }

    pub(super) fn problem(&self) -> &Problem {
        &self.problem
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// A backend on this problem.
    pub(super) fn claim<'a, A: Attention<f64, Storage = Host>>(
        &'a self,
        attention: &'a A,
    ) -> Result<AttentionClaim<'a, A>> {
        claim_on(&self.problem, attention)
    }
}

/// A backend on a problem of the same shape.
pub(super) fn claim_on<'a, A: Attention<f64, Storage = Host>>(
    problem: &'a Problem,
    attention: &'a A,
) -> Result<AttentionClaim<'a, A>> {
    let key_lengths = Tensor::from_vec(KEY_LENGTHS.to_vec(), problem.shape().key_lengths())?;
    Ok(AttentionClaim::new(attention, problem).with_key_lengths(key_lengths))
}
