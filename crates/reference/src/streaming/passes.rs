//! Element-wise passes and row sums that every rule needs. Tiles are row-major, rows padded to whole
//! registers.

use pulp::{Simd, WithSimd};

use super::Vector;

/// `a ← a ∘ b` on the rows of two tiles of one stride.
#[derive(Debug)]
pub struct MultiplyRows<'a, A> {
    /// Changed.
    pub a: &'a mut [A],
    /// Read.
    pub b: &'a [A],
    /// From row to row, in both.
    pub stride: usize,
    /// Elements of a row that count.
    pub columns: usize,
}

impl<A: Vector> WithSimd for MultiplyRows<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (a, b) in self.a.chunks_mut(self.stride).zip(self.b.chunks(self.stride)) {
            let (a, a_tail) = A::split_mut::<S>(&mut a[..self.columns]);
            let (b, b_tail) = A::split::<S>(&b[..self.columns]);
            for (a, b) in a.iter_mut().zip(b) {
                *a = A::v_mul(simd, *a, *b);
            }
            for (a, b) in a_tail.iter_mut().zip(b_tail) {
                *a *= *b;
            }
        }
    }
}

/// `Σ a ∘ b` of one row: δ from G and O.
#[derive(Debug)]
pub struct Dot<'a, A> {
    /// One row.
    pub a: &'a [A],
    /// The other.
    pub b: &'a [A],
}

impl<A: Vector> WithSimd for Dot<'_, A> {
    type Output = A;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> A {
        let (a, a_tail) = A::split::<S>(self.a);
        let (b, b_tail) = A::split::<S>(self.b);
        let mut total = A::splat(simd, A::default());
        for (a, b) in a.iter().zip(b) {
            total = A::v_mul_add(simd, *a, *b, total);
        }
        let tail: A = a_tail.iter().zip(b_tail).map(|(a, b)| *a * *b).sum();
        A::reduce_sum(simd, total) + tail
    }
}

/// `Σ a` of one row.
#[derive(Debug)]
pub struct Sum<'a, A>(pub &'a [A]);

impl<A: Vector> WithSimd for Sum<'_, A> {
    type Output = A;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> A {
        let (head, tail) = A::split::<S>(self.0);
        let total = head.iter().fold(A::splat(simd, A::default()), |total, x| A::v_add(simd, total, *x));
        A::reduce_sum(simd, total) + tail.iter().copied().sum::<A>()
    }
}
