//! Bytes that are held now.

use std::hint::black_box;

use stats_alloc::INSTRUMENTED_SYSTEM;

use crate::cuda;

/// Bytes of the host that are held, if the program counts them: the `theria` command does.
fn on_host() -> Option<i64> {
    let held = || {
        let stats = INSTRUMENTED_SYSTEM.stats();
        stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
    };
    let before = held();
    let probe = black_box(vec![0_u8; 64]);
    let counted = held() != before;
    drop(probe);
    counted.then(held)
}

/// Bytes of the device that are taken.
fn on_device() -> Option<i64> {
    let (free, _) = cuda::device().ok()?.memory().ok()?;
    Some(-(free as i64))
}

/// Bytes that work goes on holding, beside what the work came to; none where nobody counts.
pub(super) fn held<T>(is_cuda: bool, work: impl FnOnce() -> T) -> (T, Option<i64>) {
    let now = || if is_cuda { on_device() } else { on_host() };
    let before = now();
    let done = work();
    let bytes = now().zip(before).map(|(after, before)| after - before);
    (done, bytes)
}
