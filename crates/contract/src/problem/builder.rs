//! Describes a problem and validates it, once.

use super::{Problem, Shape};
use crate::{Causal, DType, Dropout, Error, Layout, Result, Window, broadcasts_to};

/// Describes a problem; [`build`](Self::build) validates it once.
#[derive(Debug)]
pub struct ProblemBuilder {
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    pub(super) scale: Option<f64>,
    pub(super) causal: Causal,
    pub(super) window: Window,
    pub(super) bias: Option<[usize; 4]>,
    pub(super) mask: Option<[usize; 4]>,
    pub(super) key_lengths: bool,
    pub(super) dropout: Option<(f64, u64)>,
    pub(super) conflict: Option<Error>,
}

impl ProblemBuilder {
    /// B.
    #[must_use]
    pub fn batch(mut self, batch: usize) -> Self {
        self.shape.batch = batch;
        self
    }

    /// Hq and Hkv.
    #[must_use]
    pub fn heads(mut self, heads_q: usize, heads_kv: usize) -> Self {
        self.shape.heads_q = heads_q;
        self.shape.heads_kv = heads_kv;
        self
    }

    /// T and M.
    #[must_use]
    pub fn lengths(mut self, t: usize, m: usize) -> Self {
        self.shape.t = t;
        self.shape.m = m;
        self
    }

    /// D and Dv.
    #[must_use]
    pub fn head_dims(mut self, d: usize, dv: usize) -> Self {
        self.shape.d = d;
        self.shape.dv = dv;
        self
    }

    /// The scale; `1 / sqrt(D)` unless said. Negative and zero are legal.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// A causal mask.
    #[must_use]
    pub fn causal(mut self, causal: Causal) -> Self {
        self.causal = causal;
        self
    }

    /// A window.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// An additive bias of this shape, broadcast over axes of length 1.
    #[must_use]
    pub fn bias(mut self, shape: [usize; 4]) -> Self {
        self.bias = Some(shape);
        self
    }

    /// A boolean mask of this shape (nonzero = visible), broadcast over axes of length 1.
    #[must_use]
    pub fn mask(mut self, shape: [usize; 4]) -> Self {
        self.mask = Some(shape);
        self
    }

    /// Each batch entry has its own number of keys.
    #[must_use]
    pub fn key_lengths(mut self) -> Self {
        self.key_lengths = true;
        self
    }

    /// No bias.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    /// No boolean mask.
    #[must_use]
    pub fn without_mask(mut self) -> Self {
        self.mask = None;
        self
    }

    /// All batch entries have M keys.
    #[must_use]
    pub fn without_key_lengths(mut self) -> Self {
        self.key_lengths = false;
        self
    }

    /// Dropout with probability `p`.
    #[must_use]
    pub fn dropout(mut self, p: f64, seed: u64) -> Self {
        self.dropout = Some((p, seed));
        self
    }

    /// Validates everything.
    pub fn build(self) -> Result<Problem> {
        if let Some(conflict) = self.conflict {
            return Err(conflict);
        }
        let shape = self.shape;
        for (name, n) in
            [("heads_q", shape.heads_q), ("heads_kv", shape.heads_kv), ("D", shape.d), ("Dv", shape.dv)]
        {
            if n == 0 {
                return Err(Error::ZeroDimension { name });
            }
        }
        if !shape.heads_q.is_multiple_of(shape.heads_kv) {
            return Err(Error::UnevenGroups { heads_q: shape.heads_q, heads_kv: shape.heads_kv });
        }
        let tensors = [
            ("q", shape.q()),
            ("k", shape.k()),
            ("v", shape.v()),
            ("the output", shape.output()),
            ("bias", self.bias.unwrap_or([1; 4])),
            ("mask", self.mask.unwrap_or([1; 4])),
        ];
        for (name, shape) in tensors {
            // Each axis alone, too: an empty batch makes any tensor small, but a mask is computed
            // in signed 64-bit positions.
            let axes_fit = shape.iter().all(|n| *n <= isize::MAX as usize / 8);
            if !axes_fit || Layout::contiguous(shape).is_err() {
                return Err(Error::TooLarge { name, shape });
            }
        }
        for (name, given) in [("bias", self.bias), ("mask", self.mask)] {
            if let Some(given) = given.filter(|given| !broadcasts_to(*given, shape.scores())) {
                return Err(Error::NotBroadcastable { name, given, target: shape.scores() });
            }
        }
        let scale = self.scale.unwrap_or_else(|| 1.0 / (shape.d as f64).sqrt());
        if !scale.is_finite() {
            return Err(Error::NonFiniteScale { scale });
        }
        let dropout = match self.dropout {
            None => None,
            Some((p, seed)) => Some(Dropout::new(p, seed)?).filter(|dropout| dropout.p() > 0.0),
        };
        if dropout.is_some() {
            for (name, given) in
                [("B", shape.batch), ("Hq", shape.heads_q), ("T", shape.t), ("M / 4", shape.m / 4)]
            {
                if u32::try_from(given).is_err() {
                    return Err(Error::DropoutIndex { name, given });
                }
            }
        }
        // Sides beyond every position are the same as none, and keep positions far from overflow.
        let side = |side: Option<usize>| side.filter(|n| *n < shape.t.saturating_add(shape.m));
        let window = Window { left: side(self.window.left), right: side(self.window.right) };
        Ok(Problem {
            dtype: self.dtype,
            shape,
            scale,
            causal: self.causal,
            window,
            bias: self.bias,
            mask: self.mask,
            key_lengths: self.key_lengths,
            dropout,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn builder() -> ProblemBuilder {
        Problem::builder(DType::F32).batch(2).heads(4, 2).lengths(8, 6).head_dims(16, 4)
    }

    #[test]
    fn a_plain_problem_has_the_textbook_scale() {
        let problem = builder().build().unwrap();
        assert_eq!(problem.scale(), 0.25);
        assert!(problem.is_plain());
        assert_eq!(problem.shape().head_kv(3), 1);
    }

    #[test]
    fn every_wrong_description_is_refused_with_its_own_error() {
        let refused = |builder: ProblemBuilder| builder.build().unwrap_err();
        assert!(matches!(refused(builder().heads(0, 1)), Error::ZeroDimension { name: "heads_q" }));
        assert!(matches!(refused(builder().heads(4, 0)), Error::ZeroDimension { name: "heads_kv" }));
        assert!(matches!(refused(builder().heads(4, 3)), Error::UnevenGroups { heads_q: 4, heads_kv: 3 }));
        assert!(matches!(refused(builder().head_dims(0, 4)), Error::ZeroDimension { name: "D" }));
        assert!(matches!(refused(builder().head_dims(4, 0)), Error::ZeroDimension { name: "Dv" }));
        assert!(matches!(refused(builder().scale(f64::NAN)), Error::NonFiniteScale { .. }));
        assert!(matches!(refused(builder().scale(f64::INFINITY)), Error::NonFiniteScale { .. }));
        assert!(matches!(refused(builder().dropout(1.0, 0)), Error::DropoutProbability { .. }));
        assert!(matches!(
            refused(builder().bias([2, 3, 1, 1])),
            Error::NotBroadcastable { name: "bias", .. }
        ));
        assert!(matches!(
            refused(builder().mask([1, 1, 8, 7])),
            Error::NotBroadcastable { name: "mask", .. }
        ));
        assert!(matches!(refused(builder().lengths(usize::MAX, 6)), Error::TooLarge { name: "q", .. }));
        assert!(matches!(refused(builder().batch(0).lengths(usize::MAX, 6)), Error::TooLarge { .. }));
        assert!(matches!(
            refused(builder().batch(0).lengths(1 << 33, 6).dropout(0.5, 0)),
            Error::DropoutIndex { name: "T", .. }
        ));
    }

    #[test]
    fn contradicting_tensor_shapes_are_refused_by_name() {
        let error =
            Problem::for_qkv(DType::F32, [2, 4, 8, 16], [2, 2, 6, 16], [2, 2, 5, 4]).build().unwrap_err();
        assert!(matches!(error, Error::Inconsistent { name: "length M of v", given: 5, expected: 6 }));
        assert!(Problem::for_qkv(DType::F32, [2, 4, 8, 16], [2, 2, 6, 16], [2, 2, 6, 4]).build().is_ok());
    }

    #[test]
    fn empty_batches_and_lengths_are_legal() {
        for builder in [builder().batch(0), builder().lengths(0, 6), builder().lengths(8, 0)] {
            builder.build().unwrap();
        }
    }

    #[test]
    fn dropout_with_nothing_to_drop_is_no_dropout() {
        assert!(builder().dropout(0.0, 9).build().unwrap().dropout().is_none());
        assert!(builder().dropout(0.1, 9).build().unwrap().dropout().is_some());
    }

    fn any_size() -> impl Strategy<Value = usize> {
        prop_oneof![0_usize..5, Just(1 << 31), Just(1 << 40), Just(usize::MAX / 2), Just(usize::MAX)]
    }

    proptest! {
        // Hostile sizes in every combination: a typed error or a usable problem, never a panic.
        #![proptest_config(ProptestConfig::with_cases(30_000))]
        #[test]
        fn building_never_panics_and_what_it_accepts_is_consistent(
            sizes in prop::array::uniform7(any_size()),
            bias in prop::option::of(prop::array::uniform4(any_size())),
            mask in prop::option::of(prop::array::uniform4(any_size())),
            scale in prop::option::of(any::<f64>()), p in any::<f64>(), small_p in prop::bool::ANY,
            causal in prop::sample::select(vec![Causal::None, Causal::TopLeft, Causal::BottomRight]),
            left in prop::option::of(any_size()), right in prop::option::of(any_size()),
        ) {
            let [batch, heads_q, heads_kv, t, m, d, dv] = sizes;
            let mut builder = Problem::builder(DType::F64).batch(batch).heads(heads_q, heads_kv)
                .lengths(t, m).head_dims(d, dv).causal(causal).window(Window { left, right })
                .dropout(if small_p { 0.1 } else { p }, 3);
            if let Some(scale) = scale { builder = builder.scale(scale); }
            if let Some(shape) = bias { builder = builder.bias(shape); }
            if let Some(shape) = mask { builder = builder.mask(shape); }
            if let Ok(problem) = builder.build() {
                let shape = problem.shape();
                prop_assert_eq!(shape.heads_q % shape.heads_kv, 0);
                prop_assert!(problem.scale().is_finite());
                let visibility = crate::Visibility::of(&problem);
                for row in [0, shape.t / 2, shape.t.saturating_sub(1)] {
                    let keys = visibility.keys(row, shape.m);
                    prop_assert!(keys.start <= keys.end && keys.end <= shape.m);
                }
            }
        }
    }
}
