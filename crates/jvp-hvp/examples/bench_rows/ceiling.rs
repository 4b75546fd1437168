//! What the machine could do: a large product by the library that multiplies the tiles, and a copy.

use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use rayon::prelude::*;
use serde_json::{Value, json};

const PRODUCT: usize = 2048;
/// 256 MiB, beyond any cache.
const COPY: usize = 1 << 28;
/// What a thread copies at a time.
const PIECE: usize = 1 << 20;

/// f32 product and copy (bytes read plus bytes written) on the threads of the current pool.
pub(crate) fn measure(seconds: f64) -> Value {
    let threads = rayon::current_num_threads();
    let parallelism = if threads == 1 { Par::Seq } else { Par::rayon(threads) };
    let a = Mat::<f32>::from_fn(PRODUCT, PRODUCT, |i, j| ((i * 31 + j * 7919) % 1000) as f32 * 1e-3 - 0.5);
    let mut c = Mat::<f32>::zeros(PRODUCT, PRODUCT);
    let product = median(seconds, || {
        matmul(c.as_mut(), Accum::Replace, a.as_ref(), a.as_ref(), 1.0, parallelism);
    });
    let source = vec![1_u8; COPY];
    let mut target = vec![0_u8; COPY];
    let copy = median(seconds, || {
        let pieces = target.par_chunks_mut(PIECE).zip(source.par_chunks(PIECE));
        pieces.for_each(|(target, source)| target.copy_from_slice(source));
    });
    json!({
        "matmul_tflops": 2.0 * (PRODUCT as f64).powi(3) / product * 1e-12,
        "copy_gbps": 2.0 * COPY as f64 / copy * 1e-9,
    })
}

/// Median time in seconds, after a warm-up.
fn median(seconds: f64, mut work: impl FnMut()) -> f64 {
    work();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
