//! The default backend, whole: one sweep over tiles for each rule.

/// Attention by tiles, on all threads of the current rayon pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streaming {}
