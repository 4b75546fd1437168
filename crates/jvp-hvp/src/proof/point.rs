//! Where a claim is examined, and which random vectors the proofs use there.

use super::Samples;

/// Streams of a seed, one for each part that a random vector plays.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Base,
    Direction,
    OtherDirection,
    Cotangent,
    OtherCotangent,
    CotangentTangent,
    Combination,
}

/// A base point x, and the seed of every random vector of a proof.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// x.
    pub x: Vec<f64>,
    /// The seed of directions and cotangents.
    pub seed: u64,
    /// The root mean square of a direction: a length over which f varies noticeably and smoothly.
    /// The steps of the Taylor proofs are fractions of it. 1 unless said.
    pub reach: f64,
}

impl Point {
    /// A given base point.
    pub fn new(x: Vec<f64>, seed: u64) -> Self {
        Self { x, seed, reach: 1.0 }
    }

    /// A base point of `n` random numbers of mean 0 and variance 1.
    pub fn random(n: usize, seed: u64) -> Self {
        Self::new(draw(seed, Part::Base, 0, n), seed)
    }

    /// The same with directions of another size.
    #[must_use]
    pub fn with_reach(self, reach: f64) -> Self {
        Self { reach, ..self }
    }

    /// v, signed in every entry, of the size of the reach.
    pub(super) fn direction(&self, index: u32) -> Vec<f64> {
        self.scaled(Part::Direction, index)
    }

    /// w, another direction.
    pub(super) fn other_direction(&self, index: u32) -> Vec<f64> {
        self.scaled(Part::OtherDirection, index)
    }

    /// u, u′ and what else has unit variance.
    pub(super) fn draw(&self, part: Part, index: u32, n: usize) -> Vec<f64> {
        draw(self.seed, part, index, n)
    }

    fn scaled(&self, part: Part, index: u32) -> Vec<f64> {
        let direction = draw(self.seed, part, index, self.x.len());
        direction.into_iter().map(|entry| self.reach * entry).collect()
    }
}

fn draw(seed: u64, part: Part, index: u32, n: usize) -> Vec<f64> {
    // Far from the small stream numbers that other code of the same seed uses.
    let stream = 0x8000_0000 | (part as u32) << 16 | index;
    Samples::new(seed, stream).vector(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_different_parts_and_indices_differ_and_a_seed_repeats_them() {
        let point = Point::random(8, 1);
        assert_eq!(point.direction(0), Point::random(8, 1).direction(0));
        assert_ne!(point.direction(0), point.direction(1));
        assert_ne!(point.direction(0), point.other_direction(0));
        assert_ne!(point.direction(0), Point::random(8, 2).direction(0));
        assert_ne!(point.draw(Part::Cotangent, 0, 8), point.draw(Part::CotangentTangent, 0, 8));
    }

    #[test]
    fn the_reach_scales_directions_and_nothing_else() {
        let (near, far) = (Point::random(8, 1).with_reach(0.5), Point::random(8, 1));
        assert_eq!(near.x, far.x);
        assert_eq!(near.direction(0)[3], far.direction(0)[3] / 2.0);
        assert_eq!(near.draw(Part::Cotangent, 0, 4), far.draw(Part::Cotangent, 0, 4));
    }
}
