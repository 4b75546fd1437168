//! A claim whose vectors are known to have the right lengths.
//!
//! Sums over two vectors stop at the shorter one. A rule that gives too few numbers would pass
//! where those that are missing are wrong, so it is stopped before any identity sees it.

use super::finding::Obstacle;
use super::{Answer, Block, Claim, Gap, Point};

/// A claim at a point, with every length checked.
pub(super) struct Checked<'a, C: ?Sized> {
    claim: &'a C,
    blocks: Vec<Block>,
    invariant: Vec<Vec<f64>>,
}

impl<'a, C: Claim + ?Sized> Checked<'a, C> {
    /// Checks what the claim says of its inputs.
    pub(super) fn new(claim: &'a C, point: &Point) -> Result<Self, Obstacle> {
        let n = point.x.len();
        let (blocks, invariant) = (claim.blocks(), claim.invariant_directions());
        if let Some(block) =
            blocks.iter().find(|block| block.range.start > block.range.end || block.range.end > n)
        {
            return Err(Obstacle::Invalid(format!(
                "block {} is {:?} of {n} inputs",
                block.name, block.range
            )));
        }
        if let Some(direction) = invariant.iter().find(|direction| direction.len() != n) {
            let given = direction.len();
            return Err(Obstacle::Invalid(format!("an invariant direction has {given} numbers, not {n}")));
        }
        Ok(Self { claim, blocks, invariant })
    }
}

/// The numbers of a rule, if there are as many as there must be.
fn of_length<E: std::fmt::Display>(answer: Answer<E>, rule: &str, expected: usize) -> Answer<String> {
    match answer {
        Ok(numbers) if numbers.len() == expected => Ok(numbers),
        Ok(numbers) => Err(Gap::Failed(format!("the {rule} has {} numbers, not {expected}", numbers.len()))),
        Err(Gap::NotClaimed(reason)) => Err(Gap::NotClaimed(reason)),
        Err(Gap::Failed(error)) => Err(Gap::Failed(error.to_string())),
    }
}

impl<C: Claim + ?Sized> Claim for Checked<'_, C> {
    type Error = String;

    fn outputs(&self) -> usize {
        self.claim.outputs()
    }

    fn value(&self, x: &[f64]) -> Answer<String> {
        of_length(self.claim.value(x), "value", self.outputs())
    }

    fn jvp(&self, x: &[f64], v: &[f64]) -> Answer<String> {
        of_length(self.claim.jvp(x, v), "JVP", self.outputs())
    }

    fn vjp(&self, x: &[f64], u: &[f64]) -> Answer<String> {
        of_length(self.claim.vjp(x, u), "VJP", x.len())
    }

    fn second_order(&self, x: &[f64], v: &[f64], u: &[f64], u_tangent: Option<&[f64]>) -> Answer<String> {
        of_length(self.claim.second_order(x, v, u, u_tangent), "second order", x.len())
    }

    fn blocks(&self) -> Vec<Block> {
        self.blocks.clone()
    }

    fn invariant_directions(&self) -> Vec<Vec<f64>> {
        self.invariant.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::proof::{Proof, Verdict};

    /// The identity, whose VJP forgets the last number and whose block may lie outside.
    struct Short {
        forgotten: usize,
        block: std::ops::Range<usize>,
        invariant: Vec<Vec<f64>>,
    }

    impl Claim for Short {
        type Error = Infallible;
        fn outputs(&self) -> usize {
            3
        }
        fn value(&self, x: &[f64]) -> Answer {
            Ok(x.to_vec())
        }
        fn jvp(&self, _x: &[f64], v: &[f64]) -> Answer {
            Ok(v.to_vec())
        }
        fn vjp(&self, _x: &[f64], u: &[f64]) -> Answer {
            Ok(u[..u.len() - self.forgotten].to_vec())
        }
        fn blocks(&self) -> Vec<Block> {
            vec![Block::new("all", self.block.clone())]
        }
        fn invariant_directions(&self) -> Vec<Vec<f64>> {
            self.invariant.clone()
        }
    }

    fn adjoint(claim: &Short) -> Verdict {
        Proof::Adjoint.run(claim, &Point::random(3, 1)).verdict
    }

    #[test]
    fn a_claim_with_vectors_of_a_wrong_length_is_invalid_and_says_which() {
        let right = || Short { forgotten: 0, block: 0..3, invariant: Vec::new() };
        assert_eq!(adjoint(&right()), Verdict::Passed);
        for (wrong, word) in [
            (Short { forgotten: 1, ..right() }, "the VJP has 2 numbers, not 3"),
            (Short { block: 1..4, ..right() }, "block all is 1..4 of 3 inputs"),
            (Short { invariant: vec![vec![1.0]], ..right() }, "an invariant direction has 1 numbers"),
        ] {
            assert!(matches!(adjoint(&wrong), Verdict::Invalid(reason) if reason.contains(word)), "{word}");
        }
    }
}
