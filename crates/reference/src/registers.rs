//! What a product leaves behind in the vector registers.

use std::hint::black_box;

use pulp::{Arch, Simd, WithSimd};

/// Gives back the upper parts of the vector registers. To be called between a product of faer's and scalar code.
///
/// The kernels of private-gemm-x86 0.1.22, which faer multiplies with, return without `vzeroupper`. Code that was
/// compiled for SSE and calls into code for AVX, as every `exp` of a C library is, then pays for each change between the
/// two: on some Xeons `Dense` takes five times as long. A function compiled for AVX ends with the instruction, and this
/// is the smallest one.
#[inline]
pub fn give_back_registers() {
    struct Least;
    impl WithSimd for Least {
        type Output = ();
        #[allow(clippy::inline_always)] // out of line it would not be compiled for vectors
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            black_box(simd.splat_f64s(0.0));
        }
    }
    Arch::new().dispatch(Least);
}
