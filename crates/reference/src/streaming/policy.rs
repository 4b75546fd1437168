//! The score policy: what masks, bias and dropout do to a tile. All rules ask here and nowhere else.

use std::ops::Range;

use pulp::Arch;
use theria_contract::{Dropout, Element, Host, Inputs, Problem, TensorView, Visibility, any_visible};

use super::Vector;

/// What a tile needs between its product and the softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// No query of the tile sees a key of it: no work at all.
    Hidden,
    /// Every query sees every key and nothing is added.
    Plain,
    /// [`Policy::edit`] must see it.
    Edited,
}

/// Masks, bias and dropout of one call.
#[derive(Debug)]
pub struct Policy<'a, E: Element> {
    visibility: Visibility,
    /// Validated at the operator's door.
    key_lengths: Option<TensorView<'a, i32>>,
    all_keys: usize,
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
    /// The policy of a problem.
    pub fn new(problem: &Problem, inputs: &Inputs<'a, Host, E>, arch: Arch) -> Self {
        Self {
            visibility: Visibility::of(problem),
            key_lengths: inputs.key_lengths,
            all_keys: problem.shape().m,
            bias: inputs.bias,
            mask: inputs.mask,
            dropout: problem.dropout(),
            arch,
        }
    }

    /// The keys that some of `rows` may see. Keys outside are never read.
    pub fn keys(&self, batch: usize, rows: Range<usize>) -> Range<usize> {
        self.visibility.keys_of_rows(rows, self.key_length(batch))
    }

    /// Real keys of a batch entry.
    pub fn key_length(&self, batch: usize) -> usize {
        self.key_lengths.map_or(self.all_keys, |lengths| lengths.at([0, 0, 0, batch]) as usize)
    }

    /// What a tile needs.
    pub fn tile(&self, batch: usize, rows: Range<usize>, keys: Range<usize>) -> Tile {
        let seen = self.keys(batch, rows.clone());
        if keys.is_empty() || seen.end <= keys.start || keys.end <= seen.start {
            return Tile::Hidden;
        }
        if self.bias.is_some() || self.mask.is_some() {
            return Tile::Edited;
        }
        // Both ends of a row's interval move forward with the row.
        let length = self.key_length(batch);
        let (first, last) =
            (self.visibility.keys(rows.start, length), self.visibility.keys(rows.end - 1, length));
        if last.start <= keys.start && keys.end <= first.end { Tile::Plain } else { Tile::Edited }
    }

    /// Adds the bias and writes `-inf` over hidden scores.
    pub fn edit(
        &self,
        head: [usize; 2],
        rows: Range<usize>,
        keys: Range<usize>,
        scores: &mut [E::Acc],
        stride: usize,
    ) {
        let hidden = E::Acc::from_f64(f64::NEG_INFINITY);
        self.edit_rows(head, rows, keys, scores, stride, self.bias, hidden);
    }

    /// The same for tangents of scores: adds that of the bias and writes zero where scores are hidden.
    pub fn edit_tangent(
        &self,
        head: [usize; 2],
        rows: Range<usize>,
        keys: Range<usize>,
        scores_tangent: &mut [E::Acc],
        stride: usize,
        bias_tangent: Option<TensorView<'_, E>>,
    ) {
        self.edit_rows(head, rows, keys, scores_tangent, stride, bias_tangent, E::Acc::default());
    }

    fn edit_rows(
        &self,
        [batch, head]: [usize; 2],
        rows: Range<usize>,
        keys: Range<usize>,
        tile: &mut [E::Acc],
        stride: usize,
        bias: Option<TensorView<'_, E>>,
        hidden: E::Acc,
    ) {
        // Dispatched so that the plain loops of `edit_row` are compiled for the machine's registers.
        self.arch.dispatch(
            #[inline(always)]
            || {
                for (i, row) in rows.zip(tile.chunks_mut(stride)) {
                    self.edit_row([batch, head, i], keys.clone(), &mut row[..keys.len()], bias, hidden);
                }
            },
        );
    }

    #[inline(always)]
    fn edit_row(
        &self,
        at: [usize; 3],
        keys: Range<usize>,
        row: &mut [E::Acc],
        bias: Option<TensorView<'_, E>>,
        hidden: E::Acc,
    ) {
        match bias.map(|bias| broadcast_row(bias, at)) {
            None => {}
            Some([one]) => {
                let bias = one.to_acc();
                for s in row.iter_mut() {
                    *s += bias;
                }
            }
            Some(bias) => {
                for (s, bias) in row.iter_mut().zip(&bias[keys.clone()]) {
                    *s += bias.to_acc();
                }
            }
        }
        match self.mask.map(|mask| broadcast_row(mask, at)) {
            None | Some([1..=u8::MAX]) => {}
            Some([0]) => row.fill(hidden),
            Some(mask) => {
                for (s, mask) in row.iter_mut().zip(&mask[keys.clone()]) {
                    *s = if *mask == 0 { hidden } else { *s };
                }
            }
        }
        // Last: whatever a bias is at a hidden key, the key stays hidden.
        let seen = self.visibility.keys(at[2], self.key_length(at[0]));
        let start = seen.start.clamp(keys.start, keys.end) - keys.start;
        let end = seen.end.clamp(keys.start, keys.end) - keys.start;
        row[..start].fill(hidden);
        row[end.max(start)..].fill(hidden);
    }

    /// Whether a row sees a key. If it does and its scores are all `-inf`, they overflowed.
    pub fn sees_a_key(&self, [batch, head]: [usize; 2], row: usize) -> bool {
        let keys = self.visibility.keys(row, self.key_length(batch));
        any_visible(keys, [batch, head, row], self.mask, self.bias)
    }

    /// Whether probabilities are dropped.
    pub fn drops(&self) -> bool {
        self.dropout.is_some()
    }

    /// Writes the dropout weights Z of a tile.
    pub fn dropout_weights(
        &self,
        [batch, head]: [usize; 2],
        rows: Range<usize>,
        keys: Range<usize>,
        weights: &mut [E::Acc],
        stride: usize,
    ) {
        let Some(dropout) = self.dropout else { return };
        let kept = E::Acc::from_f64(dropout.kept_weight());
        self.arch.dispatch(
            #[inline(always)]
            || {
                for (i, row) in rows.zip(weights.chunks_mut(stride)) {
                    let generator = dropout.row(batch, head, i);
                    // The generator gives 64 keys at a time; the tile need not start or end on a multiple.
                    let row = &mut row[..keys.len()];
                    for first in (keys.start / 4 * 4..keys.end).step_by(64) {
                        let weights = generator.choose_64(first / 4, kept, E::Acc::default());
                        let weights = weights.as_flattened();
                        let (from, to) = (first.max(keys.start), (first + weights.len()).min(keys.end));
                        let target = &mut row[from - keys.start..to - keys.start];
                        target.copy_from_slice(&weights[from - first..to - first]);
                    }
                }
            },
        );
    }
}

/// The row of a tensor whose axes of length 1 stand for any index.
fn broadcast_row<T: Copy>(view: TensorView<'_, T>, [batch, head, row]: [usize; 3]) -> &[T] {
    let [batches, heads, rows, _] = view.shape();
    let at = |index, length| if length == 1 { 0 } else { index };
    view.row(at(batch, batches), at(head, heads), at(row, rows))
}
