//! The vector operations of the inner loops, named once for both types.
//!
//! pulp names its methods by type (`add_f32s`, `add_f64s`); this trait joins them so that every pass
//! is written once. All methods are `inline(always)`: they must melt into a function that pulp has
//! compiled for the chosen instruction set, or each becomes a call that passes vectors through memory.

use pulp::Simd;

use crate::Real;

/// A type that the streaming backend computes in.
pub trait Vector: Real {
    /// A register of this type under the instruction set `S`.
    type Lanes<S: Simd>: bytemuck::Pod + Send + Sync;

    /// log2(e).
    const LOG2_E: Self;

    /// Elements of a register.
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Lanes<S>>() / size_of::<Self>()
    }
    /// Whole registers, and what is left.
    fn split<S: Simd>(x: &[Self]) -> (&[Self::Lanes<S>], &[Self]);
    /// Whole registers, and what is left.
    fn split_mut<S: Simd>(x: &mut [Self]) -> (&mut [Self::Lanes<S>], &mut [Self]);
    /// One value in every lane.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Lanes<S>;
    /// a + b
    fn v_add<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    /// a - b
    fn v_sub<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    /// a · b
    fn v_mul<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    /// a · b + c, fused where the machine can.
    fn v_mul_add<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>, c: Self::Lanes<S>)
    -> Self::Lanes<S>;
    /// The larger of the two; a NaN in `b` is kept.
    fn v_max<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;
    /// The sum of the lanes.
    fn reduce_sum<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self;
    /// The largest lane.
    fn reduce_max<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self;
    /// 2^x in every lane.
    fn exp2<S: Simd>(simd: S, x: Self::Lanes<S>) -> Self::Lanes<S>;

    /// exp(x - origin). The difference is taken before it is multiplied by log2(e), so large scores lose
    /// nothing to that product.
    #[inline(always)]
    fn exp_from<S: Simd>(simd: S, x: Self::Lanes<S>, origin: Self::Lanes<S>) -> Self::Lanes<S> {
        let difference = Self::v_sub(simd, x, origin);
        Self::exp2(simd, Self::v_mul(simd, difference, Self::splat(simd, Self::LOG2_E)))
    }
}

macro_rules! vector {
    ($t:ident, $lanes:ident, $as:ident, $as_mut:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident,
     $mul_add:ident, $max:ident, $sum:ident, $top:ident, $exp2:path) => {
        impl Vector for $t {
            type Lanes<S: Simd> = S::$lanes;
            const LOG2_E: Self = std::$t::consts::LOG2_E;

            #[inline(always)]
            fn split<S: Simd>(x: &[Self]) -> (&[S::$lanes], &[Self]) {
                S::$as(x)
            }
            #[inline(always)]
            fn split_mut<S: Simd>(x: &mut [Self]) -> (&mut [S::$lanes], &mut [Self]) {
                S::$as_mut(x)
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$lanes {
                simd.$splat(x)
            }
            #[inline(always)]
            fn v_add<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn v_sub<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn v_mul<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn v_mul_add<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes, c: S::$lanes) -> S::$lanes {
                // The scalar fallback has no fused instruction to count on and would call a library.
                if S::IS_SCALAR { simd.$add(simd.$mul(a, b), c) } else { simd.$mul_add(a, b, c) }
            }
            #[inline(always)]
            fn v_max<S: Simd>(simd: S, a: S::$lanes, b: S::$lanes) -> S::$lanes {
                simd.$max(a, b)
            }
            #[inline(always)]
            fn reduce_sum<S: Simd>(simd: S, a: S::$lanes) -> Self {
                simd.$sum(a)
            }
            #[inline(always)]
            fn reduce_max<S: Simd>(simd: S, a: S::$lanes) -> Self {
                simd.$top(a)
            }
            #[inline(always)]
            fn exp2<S: Simd>(simd: S, x: S::$lanes) -> S::$lanes {
                $exp2(simd, x)
            }
        }
    };
}

vector!(
    f32,
    f32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    splat_f32s,
    add_f32s,
    sub_f32s,
    mul_f32s,
    mul_add_e_f32s,
    max_f32s,
    reduce_sum_f32s,
    reduce_max_f32s,
    super::exp::exp2_f32s
);
vector!(
    f64,
    f64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    splat_f64s,
    add_f64s,
    sub_f64s,
    mul_f64s,
    mul_add_e_f64s,
    max_f64s,
    reduce_sum_f64s,
    reduce_max_f64s,
    super::exp::exp2_f64s
);
