//! The score policy: what masks, bias and dropout do to a tile. Both rules ask here and nowhere else.

use std::ops::Range;

use pulp::Arch;
use theria_contract::{Dropout, Element, Host, Inputs, Problem, Result, TensorView, Visibility, any_visible};

use super::Vector;

/// What a tile needs between its product and the softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    /// No query of the tile sees a key of it: no work at all.
    Hidden,
    /// Every query sees every key and nothing is added.
    Plain,
    /// [`Policy::edit`] must see it.
    Edited,
}

/// Masks, bias and dropout of one call.
pub(super) struct Policy<'a, E: Element> {
    visibility: Visibility,
    key_lengths: Vec<usize>,
    bias: Option<TensorView<'a, E>>,
    mask: Option<TensorView<'a, u8>>,
    dropout: Option<Dropout>,
    arch: Arch,
}

impl<'a, E> Policy<'a, E>
where
    E: Element,
    E::Acc: Vector,
{
    pub(super) fn new(problem: &Problem, inputs: &Inputs<'a, Host, E>, arch: Arch) -> Result<Self> {
        let key_lengths = (0..problem.shape().batch).map(|b| inputs.key_length(problem, b));
        Ok(Self {
            visibility: Visibility::of(problem),
            key_lengths: key_lengths.collect::<Result<_>>()?,
            bias: inputs.bias,
            mask: inputs.mask,
            dropout: problem.dropout(),
            arch,
        })
    }

    /// The keys that some of `rows` may see. Keys outside are never read.
    pub(super) fn keys(&self, batch: usize, rows: Range<usize>) -> Range<usize> {
        self.visibility.keys_of_rows(rows, self.key_lengths[batch])
    }

    /// Real keys of a batch entry.
    pub(super) fn key_length(&self, batch: usize) -> usize {
        self.key_lengths[batch]
    }

    pub(super) fn tile(&self, batch: usize, rows: Range<usize>, keys: Range<usize>) -> Tile {
        let seen = self.keys(batch, rows.clone());
        if keys.is_empty() || seen.end <= keys.start || keys.end <= seen.start {
            return Tile::Hidden;
        }
        if self.bias.is_some() || self.mask.is_some() {
            return Tile::Edited;
        }
        // Both ends of a row's interval move forward with the row.
        let length = self.key_lengths[batch];
        let (first, last) =
            (self.visibility.keys(rows.start, length), self.visibility.keys(rows.end - 1, length));
        if last.start <= keys.start && keys.end <= first.end { Tile::Plain } else { Tile::Edited }
    }

    /// Adds the bias and writes `-inf` over hidden scores.
    pub(super) fn edit(
        &self,
        [batch, head]: [usize; 2],
        rows: Range<usize>,
        keys: Range<usize>,
        scores: &mut [E::Acc],
        stride: usize,
    ) {
        // Dispatched so that the plain loops below are compiled for the machine's registers.
        self.arch.dispatch(|| {
            let unseen = E::Acc::from_f64(f64::NEG_INFINITY);
            for (i, row) in rows.zip(scores.chunks_mut(stride)) {
                let row = &mut row[..keys.len()];
                let seen = self.visibility.keys(i, self.key_lengths[batch]);
                let start = seen.start.clamp(keys.start, keys.end) - keys.start;
                let end = seen.end.clamp(keys.start, keys.end) - keys.start;
                row[..start].fill(unseen);
                row[end.max(start)..].fill(unseen);
                if let Some(bias) = self.bias {
                    match broadcast_row(bias, [batch, head, i]) {
                        [one] => {
                            let bias = one.to_acc();
                            for s in row.iter_mut() {
                                *s += bias;
                            }
                        }
                        bias => {
                            for (s, bias) in row.iter_mut().zip(&bias[keys.clone()]) {
                                *s += bias.to_acc();
                            }
                        }
                    }
                }
                if let Some(mask) = self.mask {
                    match broadcast_row(mask, [batch, head, i]) {
                        [0] => row.fill(unseen),
                        [_] => {}
                        mask => {
                            for (s, mask) in row.iter_mut().zip(&mask[keys.clone()]) {
                                *s = if *mask == 0 { unseen } else { *s };
                            }
                        }
                    }
                }
            }
        });
    }

    /// Whether a row whose scores are all `-inf` sees a key none the less: then they overflowed.
    pub(super) fn overflowed(&self, [batch, head]: [usize; 2], row: usize) -> bool {
        let keys = self.visibility.keys(row, self.key_lengths[batch]);
        any_visible(keys, [batch, head, row], self.mask, self.bias)
    }

    /// Whether probabilities are dropped.
    pub(super) fn drops(&self) -> bool {
        self.dropout.is_some()
    }

    /// Writes the dropout weights Z of a tile.
    pub(super) fn dropout_weights(
        &self,
        [batch, head]: [usize; 2],
        rows: Range<usize>,
        keys: Range<usize>,
        weights: &mut [E::Acc],
        stride: usize,
    ) {
        let Some(dropout) = self.dropout else { return };
        let kept = E::Acc::from_f64(dropout.kept_weight());
        self.arch.dispatch(|| {
            for (i, row) in rows.zip(weights.chunks_mut(stride)) {
                let generator = dropout.row(batch, head, i);
                // The generator gives four keys at a time; the tile need not start on a multiple.
                for block in keys.start / 4..keys.end.div_ceil(4) {
                    for (lane, keep) in generator.keeps_four(block).into_iter().enumerate() {
                        let key = 4 * block + lane;
                        if keys.contains(&key) {
                            row[key - keys.start] = if keep { kept } else { E::Acc::default() };
                        }
                    }
                }
            }
        });
    }
}

/// The row of a tensor whose axes of length 1 stand for any index.
fn broadcast_row<T: Copy>(view: TensorView<'_, T>, [batch, head, row]: [usize; 3]) -> &[T] {
    let [batches, heads, rows, _] = view.shape();
    let at = |index, length| if length == 1 { 0 } else { index };
    view.row(at(batch, batches), at(head, heads), at(row, rows))
}
