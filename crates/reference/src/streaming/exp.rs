//! 2^x on vectors, the one transcendental function of the inner loops.
//!
//! x = n + f with n the nearest integer, 2^f by a polynomial on [-1/2, 1/2], 2^n by its exponent
//! bits. `x` below -126.5 (f32) or -1022.5 (f64) and `-inf` give exactly 0, from 127.5 (1023.5)
//! upwards infinity, NaN gives NaN; between, the error is below 1.1 units in the last place. (A
//! softmax asks for `x ≤ 0`; the upper end only has to be loud.)
//!
//! How 2^n is made: adding `1.5 · 2^23 + 127` leaves n + 127 in the low bits of the sum, and a shift
//! by 23 moves them to the exponent field and drops everything else. x is first held at -127, whose
//! biased exponent is 0: the float with these bits is +0, so underflow needs no comparison. pulp has
//! no 64-bit shift, so f64 shifts 32-bit halves by 20 and swaps them: the high half of the sum is
//! 0x43380000, which the shift turns into 0, so the swap leaves a clean exponent word.

use bytemuck::cast;
use pulp::Simd;

/// Chebyshev fit of (2^f - 1)/f on [-1/2, 1/2]; relative error 5e-9. The second coefficient is near
/// ln 2 and not ln 2.
#[allow(clippy::approx_constant, clippy::excessive_precision)]
const F32: [f32; 7] =
    [1.0, 0.693_147_2, 0.240_226_51, 0.055_503_57, 0.009_618_083, 0.001_339_086_3, 0.000_154_531_63];
/// The same in binary64; relative error 9e-18.
#[allow(clippy::approx_constant, clippy::excessive_precision)]
const F64: [f64; 12] = [
    1.0,
    0.693_147_180_559_945_3,
    0.240_226_506_959_100_98,
    0.055_504_108_664_821_594,
    0.009_618_129_107_606_888_5,
    0.001_333_355_814_641_693_5,
    0.000_154_035_304_417_360_15,
    0.000_015_252_733_829_836_118,
    1.321_544_258_792_169e-6,
    1.017_806_244_584_577_4e-7,
    7.072_585_949_269_224e-9,
    4.454_960_598_186_518e-10,
];

#[inline(always)]
pub(super) fn exp2_f32s<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    if S::IS_SCALAR {
        let x: f32 = cast(x);
        return cast(x.exp2());
    }
    let magic = simd.splat_f32s(12_582_912.0 + 127.0);
    // The operand order keeps a NaN: x86's max and min return their second operand then.
    let x = simd.min_f32s(simd.splat_f32s(128.0), x);
    let x = simd.max_f32s(simd.splat_f32s(-127.0), x);
    let z = simd.add_f32s(x, magic);
    let f = simd.sub_f32s(x, simd.sub_f32s(z, magic));
    let mut p = simd.splat_f32s(F32[6]);
    for i in (0..6).rev() {
        p = simd.mul_add_e_f32s(p, f, simd.splat_f32s(F32[i]));
    }
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(z), simd.splat_u32s(23));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(power))
}

#[inline(always)]
pub(super) fn exp2_f64s<S: Simd>(simd: S, x: S::f64s) -> S::f64s {
    if S::IS_SCALAR {
        let x: f64 = cast(x);
        return cast(x.exp2());
    }
    let magic = simd.splat_f64s(6_755_399_441_055_744.0 + 1023.0);
    let x = simd.min_f64s(simd.splat_f64s(1024.0), x);
    let x = simd.max_f64s(simd.splat_f64s(-1023.0), x);
    let z = simd.add_f64s(x, magic);
    let f = simd.sub_f64s(x, simd.sub_f64s(z, magic));
    let mut p = simd.splat_f64s(F64[11]);
    for i in (0..11).rev() {
        p = simd.mul_add_e_f64s(p, f, simd.splat_f64s(F64[i]));
    }
    let halves: S::u32s = cast(z);
    let shifted: S::c32s = cast(simd.wrapping_dyn_shl_u32s(halves, simd.splat_u32s(20)));
    let power: S::f64s = cast(simd.swap_re_im_c32s(shifted));
    simd.mul_f64s(p, power)
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Simd, WithSimd};

    use super::super::Vector;

    struct Exp2<'a, A>(&'a mut [A]);

    impl<A: Vector> WithSimd for Exp2<'_, A> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = A::split_mut::<S>(self.0);
            assert!(rest.is_empty(), "test data fill whole registers");
            for x in vectors {
                *x = A::exp2(simd, *x);
            }
        }
    }

    /// On the machine's best instruction set, and on the scalar fallback.
    fn both<A: Vector>(values: &[A]) -> [Vec<A>; 2] {
        [Arch::new(), Arch::Scalar].map(|arch| {
            let mut x = values.to_vec();
            x.resize(values.len().next_multiple_of(16), A::default());
            arch.dispatch(Exp2(&mut x));
            x.truncate(values.len());
            x
        })
    }

    #[test]
    fn exp2_of_f32_is_within_two_units_in_the_last_place() {
        let values: Vec<f32> = (0..200_000).map(|i| -126.0 + i as f32 * (253.4 / 200_000.0)).collect();
        for results in both(&values) {
            for (x, y) in values.iter().zip(results) {
                let exact = f64::from(*x).exp2();
                assert!((f64::from(y) - exact).abs() <= exact * f64::from(f32::EPSILON), "{x} {y}");
            }
        }
    }

    #[test]
    fn exp2_of_f64_is_within_two_units_in_the_last_place() {
        let values: Vec<f64> = (0..200_000).map(|i| -1022.0 + f64::from(i) * (2045.4 / 200_000.0)).collect();
        for results in both(&values) {
            for (x, y) in values.iter().zip(results) {
                assert!((y - x.exp2()).abs() <= 2.0 * x.exp2() * f64::EPSILON, "{x}: {y:e}");
            }
        }
    }

    #[test]
    fn the_edges_are_exact() {
        for results in both(&[f32::NEG_INFINITY, -1e30, -200.0, 0.0, 1.0, -3.0, 200.0, f32::INFINITY]) {
            assert_eq!(results, [0.0, 0.0, 0.0, 1.0, 2.0, 0.125, f32::INFINITY, f32::INFINITY]);
        }
        for results in both(&[f64::NEG_INFINITY, -1e300, -2000.0, 0.0, 1.0, -3.0, 2000.0, f64::INFINITY]) {
            assert_eq!(results, [0.0, 0.0, 0.0, 1.0, 2.0, 0.125, f64::INFINITY, f64::INFINITY]);
        }
        for results in both(&[f32::NAN]) {
            assert!(results[0].is_nan());
        }
        for results in both(&[f64::NAN]) {
            assert!(results[0].is_nan());
        }
    }
}
