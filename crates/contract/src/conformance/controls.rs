//! Backends that are broken on purpose.
//!
//! A check that cannot fail is no check. Each [`Fault`] is a mistake that real kernels have made;
//! the suite must fail every one of them on some case.

use std::cell::Cell;

use crate::{
    Attention, Causal, Cotangent, Element, Host, Inputs, Primal, Problem, Qkv, Refusal, Result, Rule,
    SavedView, SavedViewMut, Support, Tensor, TensorView, TensorViewMut, Workspace,
};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No mistake: the wrapper itself must pass.
    None,
    /// dQ is too large by one part in a thousand.
    ScaledQueryGradient,
    /// dV is that of the keys' first row everywhere.
    RepeatedValueGradient,
    /// The output of the last query is not written.
    LastRowUnwritten,
    /// lse is in base 2.
    BinaryLse,
    /// A row that sees nothing gives NaN.
    NanInEmptyRows,
    /// The two causal masks are mixed up.
    WrongCausalCorner,
    /// The window is one key too wide.
    WindowTooWide,
    /// The bias is ignored.
    BiasIgnored,
    /// The boolean mask is ignored.
    MaskIgnored,
    /// Key lengths are ignored, and the padding is read.
    LengthsIgnored,
    /// Dropout draws from another seed.
    WrongDropoutSeed,
    /// Dropout does not scale what it keeps.
    DropoutUnscaled,
    /// The sign of the scale is lost.
    ScaleMadePositive,
    /// Strides of the query are taken for packed ones.
    StridesIgnored,
    /// The gradient of the bias is not written.
    BiasGradientUnwritten,
    /// The first output depends on what was in the workspace.
    ReadsWorkspace,
    /// Results change from call to call.
    NotRepeatable,
    /// Says that it supports what it refuses.
    ClaimsTooMuch,
    /// Says that it refuses what it computes.
    ClaimsTooLittle,
}

impl Fault {
    /// All mistakes.
    pub const ALL: [Self; 19] = [
        Self::ScaledQueryGradient,
        Self::RepeatedValueGradient,
        Self::LastRowUnwritten,
        Self::BinaryLse,
        Self::NanInEmptyRows,
        Self::WrongCausalCorner,
        Self::WindowTooWide,
        Self::BiasIgnored,
        Self::MaskIgnored,
        Self::LengthsIgnored,
        Self::WrongDropoutSeed,
        Self::DropoutUnscaled,
        Self::ScaleMadePositive,
        Self::StridesIgnored,
        Self::BiasGradientUnwritten,
        Self::ReadsWorkspace,
        Self::NotRepeatable,
        Self::ClaimsTooMuch,
        Self::ClaimsTooLittle,
    ];

    /// Whether a problem can show this mistake. A case that fails without showing it fails for
    /// another reason, and then the control controls nothing.
    pub fn can_show(self, problem: &Problem) -> bool {
        match self {
            Self::None => false,
            Self::NanInEmptyRows => {
                problem.shape().m == 0
                    || problem.causal() == Causal::BottomRight
                    || problem.mask().is_some()
                    || problem.bias().is_some()
                    || problem.key_lengths()
                    || !problem.window().is_unbounded()
            }
            Self::WrongCausalCorner => problem.causal() != Causal::None,
            Self::WindowTooWide => problem.window().left.is_some(),
            Self::BiasIgnored | Self::BiasGradientUnwritten => problem.bias().is_some(),
            Self::MaskIgnored => problem.mask().is_some(),
            Self::LengthsIgnored => problem.key_lengths(),
            Self::WrongDropoutSeed | Self::DropoutUnscaled => problem.dropout().is_some(),
            Self::ScaleMadePositive => problem.scale() < 0.0,
            _ => true,
        }
    }
}

/// A backend on the host with a mistake in it.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    fault: Fault,
    calls: Cell<u32>,
}

impl<B> Faulty<B> {
    /// Puts a mistake into a backend that has none.
    pub fn new(inner: B, fault: Fault) -> Self {
        Self { inner, fault, calls: Cell::new(0) }
    }

    /// The problem that a mistaken backend believes it was given.
    fn believed(&self, problem: &Problem) -> Problem {
        let builder = problem.to_builder();
        let builder = match (self.fault, problem.causal(), problem.dropout()) {
            (Fault::WrongCausalCorner, Causal::TopLeft, _) => builder.causal(Causal::BottomRight),
            (Fault::WrongCausalCorner, Causal::BottomRight, _) => builder.causal(Causal::TopLeft),
            (Fault::WindowTooWide, ..) => {
                let mut window = problem.window();
                window.left = window.left.map(|left| left + 1);
                builder.window(window)
            }
            (Fault::WrongDropoutSeed, _, Some(dropout)) => {
                builder.dropout(dropout.p(), dropout.seed() ^ 1 << 40)
            }
            (Fault::ScaleMadePositive, ..) => builder.scale(problem.scale().abs()),
            _ => builder,
        };
        let builder =
            if self.fault == Fault::LengthsIgnored { builder.without_key_lengths() } else { builder };
        let builder = if self.fault == Fault::BiasIgnored { builder.without_bias() } else { builder };
        let builder = if self.fault == Fault::MaskIgnored { builder.without_mask() } else { builder };
        builder.build().expect("a valid problem with one thing changed")
    }

    /// The inputs that it looks at.
    fn seen<'a, E: Element>(&self, inputs: &Inputs<'a, Host, E>) -> Inputs<'a, Host, E> {
        let mut seen = *inputs;
        match self.fault {
            Fault::LengthsIgnored => seen.key_lengths = None,
            Fault::BiasIgnored => seen.bias = None,
            Fault::MaskIgnored => seen.mask = None,
            Fault::StridesIgnored => {
                seen.q = TensorView::contiguous(inputs.q.data(), inputs.q.shape())
                    .expect("packed strides reach no further");
            }
            _ => {}
        }
        seen
    }
}

impl<E: Element, B: Attention<E, Storage = Host>> Attention<E> for Faulty<B> {
    type Storage = Host;

    fn name(&self) -> &'static str {
        "faulty"
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        match (self.fault, rule) {
            (Fault::ClaimsTooMuch, _) => Support::Exact,
            (Fault::ClaimsTooLittle, Rule::Backward) => Support::Refused(Refusal::Opaque),
            _ => self.inner.support(problem, rule),
        }
    }

    fn require(&self, problem: &Problem, rule: Rule) -> Result<()> {
        if self.fault == Fault::ClaimsTooLittle { Ok(()) } else { self.inner.require(problem, rule) }
    }

    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
        self.inner.workspace_bytes(problem, rule)
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        Primal(mut saved): Primal<SavedViewMut<'_, Host, E>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.calls.set(self.calls.get() + 1);
        let found = (workspace.bytes() > 0).then(|| workspace.arena().take::<u8>(1)[0]);
        let (believed, seen) = (self.believed(problem), inputs.map(|inputs| self.seen(inputs)));
        let untouched = saved.output.view().to_tensor();
        let lent = crate::Saved { output: saved.output.reborrow(), lse: saved.lse.reborrow() };
        self.inner.forward_kernel(&believed, seen.as_ref(), Primal(lent), workspace)?;
        let [batch, heads, rows, columns] = saved.output.shape();
        for b in 0..batch {
            for h in 0..heads {
                for i in 0..rows {
                    let lse = saved.lse.at([b, h, i, 0]);
                    match self.fault {
                        Fault::LastRowUnwritten if i + 1 == rows => {
                            saved.output.row_mut(b, h, i).copy_from_slice(untouched.view().row(b, h, i));
                        }
                        Fault::BinaryLse => {
                            let binary = lse.to_f64() * std::f64::consts::LOG2_E;
                            saved.lse.set([b, h, i, 0], Element::from_f64(binary));
                        }
                        Fault::ReadsWorkspace if columns > 0 && found == Some(0x3F) => {
                            saved.output.row_mut(b, h, i)[0] = E::default();
                        }
                        Fault::NanInEmptyRows if lse.to_f64() == f64::NEG_INFINITY => {
                            saved.output.row_mut(b, h, i).fill(E::from_f64(f64::NAN));
                        }
                        Fault::DropoutUnscaled => {
                            let kept = problem.dropout().map_or(1.0, |dropout| dropout.kept_weight());
                            for x in saved.output.row_mut(b, h, i) {
                                *x = E::from_f64(x.to_f64() / kept);
                            }
                        }
                        Fault::NotRepeatable if columns > 0 => {
                            // The smallest change that the type can show.
                            let row = saved.output.row_mut(b, h, i);
                            let grain = if self.calls.get().is_multiple_of(2) { 1.0 } else { -1.0 };
                            row[0] = E::from_f64(row[0].to_f64() * (1.0 + grain * f64::from(f32::EPSILON)));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, E>>,
        saved: Primal<SavedView<'_, Host, E>>,
        cotangent: Cotangent<TensorView<'_, E>>,
        Cotangent(mut gradients): Cotangent<Qkv<TensorViewMut<'_, E>>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let (believed, seen) = (self.believed(problem), inputs.map(|inputs| self.seen(inputs)));
        let mut lent = gradients.as_mut().map(TensorViewMut::reborrow);
        if believed.bias().is_none()
            && let Some(mut dbias) = lent.bias.take()
        {
            dbias.fill(E::default());
        }
        self.inner.backward_kernel(&believed, seen.as_ref(), saved, cotangent, Cotangent(lent), workspace)?;
        match self.fault {
            Fault::BiasGradientUnwritten => {
                if let Some(dbias) = &mut gradients.bias {
                    dbias.fill(E::from_f64(f64::NAN));
                }
                Ok(())
            }
            Fault::ScaledQueryGradient => {
                let scaled: Tensor<E> = {
                    let packed = gradients.q.view().to_tensor();
                    Tensor::from_fn(packed.shape(), |at| E::from_f64(packed.at(at).to_f64() * 1.001))?
                };
                gradients.q.copy_from(scaled.view())
            }
            Fault::RepeatedValueGradient => {
                let packed = gradients.v.view().to_tensor();
                let repeated = Tensor::from_fn(packed.shape(), |[b, h, _, c]| packed.at([b, h, 0, c]))?;
                gradients.v.copy_from(repeated.view())
            }
            _ => Ok(()),
        }
    }
}
