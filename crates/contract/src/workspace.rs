//! Scratch memory that a caller owns, so that a hot loop need not allocate it.

use crate::Scalar;

/// Bytes between the starts of two pieces: a cache line, and the widest SIMD register.
const ALIGNMENT: usize = 64;

/// Scratch memory of the host. Rules take what they need from it and leave garbage behind.
#[derive(Debug, Default)]
pub struct Workspace {
    words: Vec<u64>,
}

impl Workspace {
    /// A workspace of at least `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        // The allocator aligns to a word; the slack lets the first piece start on a cache line.
        let words = if bytes == 0 { 0 } else { (bytes + ALIGNMENT).div_ceil(size_of::<u64>()) };
        Self { words: vec![0; words] }
    }

    /// Bytes it can serve.
    pub fn bytes(&self) -> usize {
        (self.words.len() * size_of::<u64>()).saturating_sub(ALIGNMENT)
    }

    /// Fills it with a byte.
    pub fn fill(&mut self, byte: u8) {
        self.words.fill(u64::from_ne_bytes([byte; 8]));
    }

    /// Starts handing out pieces, from the beginning.
    pub fn arena(&mut self) -> Arena<'_> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        let skip = bytes.as_ptr().align_offset(ALIGNMENT).min(bytes.len());
        Arena { free: &mut bytes[skip..] }
    }

    /// Bytes that a piece of `count` elements takes: what `workspace_bytes` sums up.
    pub fn bytes_for<T: Scalar>(count: usize) -> usize {
        // No memory has so much; held far enough below the end that a sum of pieces does not wrap.
        let most = usize::MAX >> 8;
        count.saturating_mul(size_of::<T>()).min(most).next_multiple_of(ALIGNMENT)
    }
}

/// Hands out disjoint, aligned pieces of a [`Workspace`].
#[derive(Debug)]
pub struct Arena<'a> {
    free: &'a mut [u8],
}

impl<'a> Arena<'a> {
    /// The next `count` elements. Their values are whatever was there.
    ///
    /// # Panics
    /// If the workspace is exhausted: the rule asked for less in its `workspace_bytes`.
    pub fn take<T: Scalar>(&mut self, count: usize) -> &'a mut [T] {
        let bytes = Workspace::bytes_for::<T>(count);
        let free = std::mem::take(&mut self.free);
        assert!(bytes <= free.len(), "workspace exhausted: {bytes} bytes wanted, {} left", free.len());
        let (piece, rest) = free.split_at_mut(bytes);
        self.free = rest;
        &mut bytemuck::cast_slice_mut(piece)[..count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_disjoint_and_of_the_size_asked() {
        let bytes = Workspace::bytes_for::<f32>(3) + Workspace::bytes_for::<f64>(5);
        let mut workspace = Workspace::new(bytes);
        assert!(workspace.bytes() >= bytes);
        let mut arena = workspace.arena();
        let first = arena.take::<f32>(3);
        let second = arena.take::<f64>(5);
        first.fill(1.0);
        second.fill(2.0);
        assert_eq!(first, [1.0; 3]);
        assert_eq!(second.as_ptr().align_offset(ALIGNMENT), 0);
    }

    #[test]
    fn absurd_sizes_ask_for_absurd_memory_and_do_not_wrap() {
        let absurd = Workspace::bytes_for::<f64>(usize::MAX / 4);
        assert!(absurd > 1 << 55 && (0..100).try_fold(0_usize, |sum, _| sum.checked_add(absurd)).is_some());
    }

    #[test]
    #[should_panic(expected = "workspace exhausted")]
    fn taking_more_than_there_is_panics_rather_than_aliasing() {
        Workspace::new(64).arena().take::<f64>(17);
    }
}
