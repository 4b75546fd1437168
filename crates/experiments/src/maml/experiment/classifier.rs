//! A small transformer that classifies sequences.
//!
//! ```text
//! x = tokens E + b + positions
//! x = x + attention(norm x) W_o
//! x = x + gelu(norm x · U + b) D + b
//! logits = (mean of norm x over the sequence) H + b
//! ```

use theria_maml::operation::Heads;
use theria_maml::{Machine, Result, ValueId};

use super::{Draft, Places};

/// A small transformer: one block, mean pooling, cross-entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// Tokens of a sequence.
    pub length: usize,
    /// Numbers of a token.
    pub columns: usize,
    /// Numbers of a token inside.
    pub width: usize,
    /// Heads, which divide the width.
    pub heads: usize,
    /// Classes.
    pub classes: usize,
}

impl Classifier {
    /// Drafts it for so many sequences.
    pub fn draft<M: Machine + 'static>(&self, draft: &mut Draft<M>, count: usize) -> Result<Places> {
        let Self { length, columns, classes, .. } = *self;
        let tokens = draft.graph.input(count * length, columns);
        let targets = draft.graph.input(count, 1);
        let x = self.embed(draft, tokens)?;
        let x = self.attend(draft, x, count)?;
        let x = self.transform(draft, x)?;
        let x = draft.normalise(x, ["last gain", "last shift"])?;
        let pooled = draft.graph.mean(x, length)?;
        let outputs = draft.linear(pooled, ["head", "head bias"], classes)?;
        let loss = draft.graph.cross_entropy(outputs, targets, 1.0 / count as f64)?;
        Ok(Places { data: vec![tokens, targets], outputs, loss })
    }

    fn embed<M: Machine>(&self, draft: &mut Draft<M>, tokens: ValueId) -> Result<ValueId> {
        let x = draft.linear(tokens, ["embedding", "embedding bias"], self.width)?;
        let positions = draft.normal("positions", (self.length, self.width), 0.1);
        draft.graph.sum(x, positions)
    }

    fn attend<M: Machine + 'static>(
        &self,
        draft: &mut Draft<M>,
        x: ValueId,
        count: usize,
    ) -> Result<ValueId> {
        let normal = draft.normalise(x, ["attention gain", "attention shift"])?;
        let q = draft.project(normal, "wq", self.width)?;
        let k = draft.project(normal, "wk", self.width)?;
        let v = draft.project(normal, "wv", self.width)?;
        let heads = Heads { queries: self.heads, keys: self.heads, batch: count, causal: false };
        let read = draft.graph.attention(q, k, v, heads)?;
        let read = draft.project(read, "wo", self.width)?;
        draft.graph.sum(x, read)
    }

    fn transform<M: Machine>(&self, draft: &mut Draft<M>, x: ValueId) -> Result<ValueId> {
        let normal = draft.normalise(x, ["unit gain", "unit shift"])?;
        let up = draft.linear(normal, ["up", "up bias"], 2 * self.width)?;
        let unit = draft.graph.gelu(up);
        let down = draft.linear(unit, ["down", "down bias"], self.width)?;
        draft.graph.sum(x, down)
    }
}
