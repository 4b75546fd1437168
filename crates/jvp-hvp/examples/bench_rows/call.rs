//! One measured call: its operands, its outputs, and the rules run on them.

use theria_contract::{
    Attention, Causal, Cotangent, Directions, Element, Host, Inputs, Primal, Problem, Qkv, Result, Rule,
    SavedTensor, SecondOrder, Tangent, Tensor, TensorView, Workspace, saved_mut, saved_view,
};

/// What is done to the scores beside the softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScorePolicy {
    Plain,
    Causal,
    /// A bias `[1, H, T, T]`, whose gradient is left out.
    Bias,
    /// A mask `[1, 1, T, T]` that hides every seventh key, each row another.
    Mask,
    /// Drops a tenth of the probabilities.
    Dropout,
}

impl ScorePolicy {
    pub(crate) const NAMES: [(&'static str, Self); 5] = [
        ("none", Self::Plain),
        ("causal", Self::Causal),
        ("bias", Self::Bias),
        ("mask", Self::Mask),
        ("dropout", Self::Dropout),
    ];

    /// Share of the scores that a call must compute.
    pub(crate) fn share(self) -> f64 {
        if self == Self::Causal { 0.5 } else { 1.0 }
    }

    /// `[B, H, T, D]` of self-attention under this policy.
    pub(crate) fn problem<E: Element>(self, [batch, heads, t, d]: [usize; 4]) -> Result<Problem> {
        let builder =
            Problem::builder(E::DTYPE).batch(batch).heads(heads, heads).lengths(t, t).head_dims(d, d);
        match self {
            Self::Plain => builder,
            Self::Causal => builder.causal(Causal::TopLeft),
            Self::Bias => builder.bias([1, heads, t, t]),
            Self::Mask => builder.mask([1, 1, t, t]),
            Self::Dropout => builder.dropout(0.1, 7),
        }
        .build()
    }
}

/// Numbers close to normal: sums of uniform ones.
pub(crate) fn random<E: Element>(shape: [usize; 4], seed: u64) -> Result<Tensor<E>> {
    let mut state = seed;
    Tensor::from_fn(shape, |_| {
        let sum: f64 = (0..4)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
            })
            .sum();
        E::from_f64(sum * 3_f64.sqrt())
    })
}

/// What a call reads.
pub(crate) struct Operands<E: Element> {
    pub(crate) problem: Problem,
    /// Q, K, V and the cotangent G; Q′, K′, V′ and G′.
    pub(crate) tensors: [Tensor<E>; 8],
    bias: Option<Tensor<E>>,
    mask: Option<Tensor<u8>>,
}

impl<E: Element> Operands<E> {
    pub(crate) fn random(problem: Problem) -> Result<Self> {
        let shape = problem.shape();
        let mask = |[_, _, i, j]: [usize; 4]| u8::from((i + j) % 7 != 0);
        let four = |seed| -> Result<[Tensor<E>; 4]> {
            Ok([
                random(shape.q(), seed)?,
                random(shape.k(), seed + 1)?,
                random(shape.v(), seed + 2)?,
                random(shape.output(), seed + 3)?,
            ])
        };
        let ([q, k, v, g], [q_tangent, k_tangent, v_tangent, g_tangent]) = (four(1)?, four(6)?);
        Ok(Self {
            tensors: [q, k, v, g, q_tangent, k_tangent, v_tangent, g_tangent],
            bias: problem.bias().map(|shape| random(shape, 5)).transpose()?,
            mask: problem.mask().map(|shape| Tensor::from_fn(shape, mask)).transpose()?,
            problem,
        })
    }

    fn inputs(&self) -> Inputs<'_, Host, E> {
        let [q, k, v, ..] = &self.tensors;
        Inputs {
            bias: self.bias.as_ref().map(Tensor::view),
            mask: self.mask.as_ref().map(Tensor::view),
            ..Inputs::new(q.view(), k.view(), v.view())
        }
    }

    fn cotangent(&self) -> Cotangent<TensorView<'_, E>> {
        Cotangent(self.tensors[3].view())
    }

    fn directions(&self) -> Tangent<Directions<TensorView<'_, E>>> {
        let [.., q, k, v, _] = &self.tensors;
        Tangent(Directions { q: Some(q.view()), k: Some(k.view()), v: Some(v.view()), bias: None })
    }

    fn cotangent_tangent(&self) -> Tangent<Cotangent<TensorView<'_, E>>> {
        Tangent(Cotangent(self.tensors[7].view()))
    }
}

/// Scratch of every rule.
fn scratch<E: Element, B: Attention<E, Storage = Host>>(backend: &B, problem: &Problem) -> [Workspace; 4] {
    Rule::ALL.map(|rule| Workspace::new(backend.workspace_bytes(problem, rule)))
}

/// What a call writes.
pub(crate) struct Results<E: Element> {
    pub(crate) saved: SavedTensor<Host, E>,
    pub(crate) gradients: Qkv<Tensor<E>>,
    pub(crate) saved_tangent: SavedTensor<Host, E>,
    pub(crate) gradient_tangents: Qkv<Tensor<E>>,
    workspaces: [Workspace; 4],
}

impl<E: Element> Results<E> {
    /// Zeros, and the scratch that the backend asks for in the current thread pool. A gradient of a
    /// bias is not wanted.
    pub(crate) fn new<B: Attention<E, Storage = Host>>(backend: &B, problem: &Problem) -> Result<Self> {
        let gradients = || -> Result<_> {
            let mut gradients = backend.allocate_gradients(problem)?;
            gradients.bias = None;
            Ok(gradients)
        };
        Ok(Self {
            saved: backend.allocate_saved(problem)?,
            gradients: gradients()?,
            saved_tangent: backend.allocate_saved(problem)?,
            gradient_tangents: gradients()?,
            workspaces: scratch(backend, problem),
        })
    }

    /// Scratch that no memory backs yet.
    pub(crate) fn forget_scratch<B: Attention<E, Storage = Host>>(&mut self, backend: &B, problem: &Problem) {
        self.workspaces = scratch(backend, problem);
    }

    /// O and lse into memory that exists.
    pub(crate) fn forward_into<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
    ) -> Result<()> {
        let saved = Primal(saved_mut::<Host, E>(&mut self.saved));
        backend.forward_into(&operands.problem, Primal(&operands.inputs()), saved, &mut self.workspaces[0])
    }

    /// dQ, dK and dV into memory that exists.
    pub(crate) fn backward_into<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
    ) -> Result<()> {
        let saved = Primal(saved_view::<Host, E>(&self.saved));
        let gradients = Cotangent(self.gradients.as_mut().map(Tensor::view_mut));
        let (inputs, g) = (operands.inputs(), operands.cotangent());
        let workspace = &mut self.workspaces[1];
        backend.backward_into(&operands.problem, Primal(&inputs), saved, g, gradients, workspace)
    }

    /// O′ and μ into memory that exists.
    pub(crate) fn jvp_into<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
    ) -> Result<()> {
        let saved = Primal(saved_view::<Host, E>(&self.saved));
        let saved_tangent = Tangent(saved_mut::<Host, E>(&mut self.saved_tangent));
        let (inputs, directions) = (operands.inputs(), operands.directions());
        let workspace = &mut self.workspaces[2];
        backend.jvp_into(&operands.problem, Primal(&inputs), saved, directions, saved_tangent, workspace)
    }

    /// dQ′, dK′ and dV′ into memory that exists, and the gradients from the same sweep if wanted.
    pub(crate) fn second_order_into<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
        with_g_tangent: bool,
        with_first: bool,
    ) -> Result<()> {
        let inputs = operands.inputs();
        let first = with_first.then(|| Cotangent(self.gradients.as_mut().map(Tensor::view_mut)));
        let tangent = Tangent(Cotangent(self.gradient_tangents.as_mut().map(Tensor::view_mut)));
        backend.second_order_into(
            &operands.problem,
            Primal(&inputs),
            Primal(saved_view::<Host, E>(&self.saved)),
            operands.directions(),
            Tangent(saved_view::<Host, E>(&self.saved_tangent)),
            operands.cotangent(),
            with_g_tangent.then(|| operands.cotangent_tangent()),
            SecondOrder { tangent, first },
            &mut self.workspaces[3],
        )
    }

    /// O and lse into new memory, which replaces the old.
    pub(crate) fn forward<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
    ) -> Result<()> {
        self.saved = backend.forward(&operands.problem, Primal(&operands.inputs()))?.into_inner();
        Ok(())
    }

    /// dQ, dK and dV (and the gradient of a bias) into new memory, which replaces the old.
    pub(crate) fn backward<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
    ) -> Result<()> {
        let (inputs, saved, g) = (operands.inputs(), Primal(&self.saved), operands.cotangent());
        self.gradients = backend.backward(&operands.problem, Primal(&inputs), saved, g)?.into_inner();
        Ok(())
    }

    /// O′ and μ into new memory, which replaces the old.
    pub(crate) fn jvp<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
    ) -> Result<()> {
        let (inputs, saved, directions) = (operands.inputs(), Primal(&self.saved), operands.directions());
        self.saved_tangent = backend.jvp(&operands.problem, Primal(&inputs), saved, directions)?.into_inner();
        Ok(())
    }

    /// dQ′, dK′ and dV′ (and that of a bias) into new memory, which replaces the old; the gradients from
    /// the same sweep if wanted.
    pub(crate) fn second_order<B: Attention<E, Storage = Host>>(
        &mut self,
        backend: &B,
        operands: &Operands<E>,
        with_g_tangent: bool,
        with_first: bool,
    ) -> Result<()> {
        let made = backend.second_order(
            &operands.problem,
            Primal(&operands.inputs()),
            Primal(&self.saved),
            operands.directions(),
            Tangent(&self.saved_tangent),
            operands.cotangent(),
            with_g_tangent.then(|| operands.cotangent_tangent()),
            with_first,
        )?;
        self.gradient_tangents = made.tangent.0.0;
        if let Some(Cotangent(first)) = made.first {
            self.gradients = first;
        }
        Ok(())
    }
}
