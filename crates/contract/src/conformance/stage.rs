//! A backend with the operands of one case in its memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::data::{layout, poison_beyond};
use super::outputs::{Outputs, of_gradients, of_saved};
use super::{CaseData, Form, Memory, Optional};
use crate::judge::Output;
use crate::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Qkv, Result, Rule, Saved, SavedTensor,
    SecondOrder, Storage, Support, Tangent, Tensor, saved_mut, saved_view,
};

/// What stands for an operand that a form leaves out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Nothing: the backend under test has to know that it is zero.
    LeftOut,
    /// Zeros: the oracle need not know. What is not wanted it gives all the same.
    Zeros,
}

type StorageOf<B, E> = <B as Attention<E>>::Storage;
type TensorOf<B, E, T> = <StorageOf<B, E> as Storage>::Tensor<T>;
type ViewOf<'a, B, E, T> = <StorageOf<B, E> as Storage>::View<'a, T>;
type WorkspaceOf<B, E> = <StorageOf<B, E> as Storage>::Workspace;
/// What a rule made in each form, for the rules that start from it.
type Made<B, E> = RefCell<BTreeMap<&'static str, Rc<SavedTensor<StorageOf<B, E>, E>>>>;

pub(super) struct Stage<'a, E: Element, B: Attention<E>> {
    backend: &'a B,
    data: &'a CaseData<E>,
    absent: Absent,
    primal: Qkv<TensorOf<B, E, E>>,
    mask: Option<TensorOf<B, E, u8>>,
    key_lengths: Option<TensorOf<B, E, i32>>,
    cotangent: TensorOf<B, E, E>,
    tangents: Qkv<TensorOf<B, E, E>>,
    cotangent_tangent: TensorOf<B, E, E>,
    zero_tangents: Qkv<TensorOf<B, E, E>>,
    zero_cotangent: TensorOf<B, E, E>,
    saved: Made<B, E>,
    saved_tangents: Made<B, E>,
}

/// The rule whose results a rule starts from.
pub(super) fn starts_from(rule: Rule) -> Option<Rule> {
    match rule {
        Rule::Forward => None,
        Rule::Backward | Rule::Jvp => Some(Rule::Forward),
        Rule::SecondOrder => Some(Rule::Jvp),
    }
}

impl<'a, E: Element, B: Attention<E>> Stage<'a, E, B> {
    pub(super) fn new(backend: &'a B, data: &'a CaseData<E>, absent: Absent) -> Result<Self> {
        let storage = backend.storage();
        let upload = |tensor: &Tensor<E>| storage.upload(tensor);
        let all = |operands: &Qkv<Tensor<E>>| {
            Ok(Qkv {
                q: upload(&operands.q)?,
                k: upload(&operands.k)?,
                v: upload(&operands.v)?,
                bias: operands.bias.as_ref().map(upload).transpose()?,
            })
        };
        let zeros = |tensor: &Tensor<E>| Tensor::zeros_in(tensor.layout());
        let mut tangents = data.tangents.clone();
        if let Some(lengths) = &data.key_lengths {
            // Directions of the padding, which nobody may read either.
            for direction in [&mut tangents.k, &mut tangents.v] {
                poison_beyond(direction, lengths.data());
            }
        }
        Ok(Self {
            backend,
            data,
            absent,
            primal: all(&data.primal)?,
            mask: data.mask.as_ref().map(|mask| storage.upload(mask)).transpose()?,
            key_lengths: data.key_lengths.as_ref().map(|lengths| storage.upload(lengths)).transpose()?,
            cotangent: upload(&data.cotangent)?,
            tangents: all(&tangents)?,
            cotangent_tangent: upload(&data.cotangent_tangent)?,
            zero_tangents: all(&data.tangents.as_ref().map(zeros))?,
            zero_cotangent: upload(&zeros(&data.cotangent))?,
            saved: RefCell::default(),
            saved_tangents: RefCell::default(),
        })
    }

    /// Runs a rule, in scratch full of `garbage`, and brings its outputs to the host.
    pub(super) fn run(&self, rule: Rule, form: &Form, garbage: u8) -> Result<Outputs<E>> {
        match rule {
            Rule::Forward => {
                let saved = Rc::new(self.forward(form, garbage)?);
                self.saved.borrow_mut().entry(form.name).or_insert_with(|| Rc::clone(&saved));
                of_saved(self.backend, [Output::Out, Output::Lse], &saved)
            }
            Rule::Backward => self.backward(form, garbage),
            Rule::Jvp => {
                let saved_tangent = Rc::new(self.jvp(form, garbage)?);
                let kept = Rc::clone(&saved_tangent);
                self.saved_tangents.borrow_mut().entry(form.name).or_insert(kept);
                of_saved(self.backend, [Output::OutTangent, Output::LseTangent], &saved_tangent)
            }
            Rule::SecondOrder => self.second_order(form, garbage),
        }
    }

    fn forward(&self, form: &Form, garbage: u8) -> Result<SavedTensor<B::Storage, E>> {
        let mut saved = self.poisoned_saved(form)?;
        let lent = Primal(saved_mut::<B::Storage, E>(&mut saved));
        let workspace = &mut self.workspace(Rule::Forward, garbage)?;
        self.backend.forward_into(&self.data.problem, Primal(&self.inputs()), lent, workspace)?;
        Ok(saved)
    }

    fn backward(&self, form: &Form, garbage: u8) -> Result<Outputs<E>> {
        let saved = self.saved(form)?;
        let mut gradients = self.poisoned_gradients(form)?;
        self.backend.backward_into(
            &self.data.problem,
            Primal(&self.inputs()),
            Primal(saved_view::<B::Storage, E>(&saved)),
            Cotangent(B::Storage::view(&self.cotangent)),
            Cotangent(gradients.as_mut().map(B::Storage::view_mut)),
            &mut self.workspace(Rule::Backward, garbage)?,
        )?;
        of_gradients(self.backend, [Output::Dq, Output::Dk, Output::Dv, Output::Dbias], &gradients)
    }

    fn jvp(&self, form: &Form, garbage: u8) -> Result<SavedTensor<B::Storage, E>> {
        let saved = self.saved(form)?;
        let mut saved_tangent = self.poisoned_saved(form)?;
        self.backend.jvp_into(
            &self.data.problem,
            Primal(&self.inputs()),
            Primal(saved_view::<B::Storage, E>(&saved)),
            Tangent(self.directions(form)),
            Tangent(saved_mut::<B::Storage, E>(&mut saved_tangent)),
            &mut self.workspace(Rule::Jvp, garbage)?,
        )?;
        Ok(saved_tangent)
    }

    fn second_order(&self, form: &Form, garbage: u8) -> Result<Outputs<E>> {
        let (saved, saved_tangent) = (self.saved(form)?, self.saved_tangent(form)?);
        let mut tangent = self.poisoned_gradients(form)?;
        let mut first =
            self.wants(form, Optional::FirstOrder).then(|| self.poisoned_gradients(form)).transpose()?;
        let lent = SecondOrder {
            tangent: Tangent(Cotangent(tangent.as_mut().map(B::Storage::view_mut))),
            first: first.as_mut().map(|first| Cotangent(first.as_mut().map(B::Storage::view_mut))),
        };
        let cotangent_tangent =
            self.operand(form, Optional::CotangentTangent, &self.cotangent_tangent, &self.zero_cotangent);
        self.backend.second_order_into(
            &self.data.problem,
            Primal(&self.inputs()),
            Primal(saved_view::<B::Storage, E>(&saved)),
            Tangent(self.directions(form)),
            Tangent(saved_view::<B::Storage, E>(&saved_tangent)),
            Cotangent(B::Storage::view(&self.cotangent)),
            cotangent_tangent.map(|view| Tangent(Cotangent(view))),
            lent,
            &mut self.workspace(Rule::SecondOrder, garbage)?,
        )?;
        let names = [Output::DqTangent, Output::DkTangent, Output::DvTangent, Output::DbiasTangent];
        let mut outputs = of_gradients(self.backend, names, &tangent)?;
        if let Some(first) = &first {
            let names = [Output::Dq, Output::Dk, Output::Dv, Output::Dbias];
            outputs.tensors.extend(of_gradients(self.backend, names, first)?.tensors);
        }
        Ok(outputs)
    }

    fn saved(&self, form: &Form) -> Result<Rc<SavedTensor<B::Storage, E>>> {
        self.made(&self.saved, Rule::Forward, form, Self::forward)
    }

    fn saved_tangent(&self, form: &Form) -> Result<Rc<SavedTensor<B::Storage, E>>> {
        self.made(&self.saved_tangents, Rule::Jvp, form, Self::jvp)
    }

    /// What an earlier rule made, once for all forms that are the same to it. A backend may refuse
    /// that rule, and must then be asked for the later one itself: on tensors full of NaN, which it
    /// will refuse before it sees them.
    fn made(
        &self,
        made: &Made<B, E>,
        rule: Rule,
        form: &Form,
        make: impl FnOnce(&Self, &Form, u8) -> Result<SavedTensor<B::Storage, E>>,
    ) -> Result<Rc<SavedTensor<B::Storage, E>>> {
        let form = form.as_seen_by(rule, &self.data.problem);
        if let Some(found) = made.borrow().get(form.name) {
            return Ok(Rc::clone(found));
        }
        let new = match self.backend.support(&self.data.problem, rule) {
            Support::Refused(_) => self.poisoned_saved(&form)?,
            _ => make(self, &form, 0xFF)?,
        };
        let new = Rc::new(new);
        made.borrow_mut().insert(form.name, Rc::clone(&new));
        Ok(new)
    }

    fn inputs(&self) -> Inputs<'_, B::Storage, E> {
        Inputs {
            q: B::Storage::view(&self.primal.q),
            k: B::Storage::view(&self.primal.k),
            v: B::Storage::view(&self.primal.v),
            bias: self.primal.bias.as_ref().map(B::Storage::view),
            mask: self.mask.as_ref().map(B::Storage::view),
            key_lengths: self.key_lengths.as_ref().map(B::Storage::view),
        }
    }

    fn directions<'s>(&'s self, form: &Form) -> Directions<ViewOf<'s, B, E, E>> {
        let (given, zero) = (&self.tangents, &self.zero_tangents);
        let bias = given.bias.as_ref().zip(zero.bias.as_ref());
        Directions {
            q: self.operand(form, Optional::QueryTangent, &given.q, &zero.q),
            k: self.operand(form, Optional::KeyTangent, &given.k, &zero.k),
            v: self.operand(form, Optional::ValueTangent, &given.v, &zero.v),
            bias: bias.and_then(|(given, zero)| self.operand(form, Optional::BiasTangent, given, zero)),
        }
    }

    fn operand<'s>(
        &self,
        form: &Form,
        part: Optional,
        given: &'s TensorOf<B, E, E>,
        zero: &'s TensorOf<B, E, E>,
    ) -> Option<ViewOf<'s, B, E, E>> {
        match self.absent {
            _ if !form.leaves_out(part) => Some(B::Storage::view(given)),
            Absent::Zeros => Some(B::Storage::view(zero)),
            Absent::LeftOut => None,
        }
    }

    fn wants(&self, form: &Form, part: Optional) -> bool {
        self.absent == Absent::Zeros || !form.leaves_out(part)
    }

    fn workspace(&self, rule: Rule, garbage: u8) -> Result<WorkspaceOf<B, E>> {
        let storage = self.backend.storage();
        let mut workspace = storage.workspace(self.backend.workspace_bytes(&self.data.problem, rule))?;
        storage.fill_workspace(&mut workspace, garbage)?;
        Ok(workspace)
    }

    fn poisoned_saved(&self, form: &Form) -> Result<SavedTensor<B::Storage, E>> {
        let (storage, shape) = (self.backend.storage(), self.data.problem.shape());
        let [output, lse] =
            if form.strided { [Memory::Padded; 2] } else { [self.data.memory, Memory::Contiguous] };
        Ok(Saved {
            output: poisoned(storage, output, shape.output())?,
            lse: poisoned(storage, lse, shape.rows())?,
            rest: if form.leaves_out(Optional::Rest) {
                None
            } else {
                Some(poisoned(storage, output, shape.output())?)
            },
        })
    }

    fn poisoned_gradients(&self, form: &Form) -> Result<Qkv<TensorOf<B, E, E>>> {
        let shape = self.data.problem.shape();
        let make = |shape| poisoned(self.backend.storage(), self.data.memory, shape);
        let bias = self.data.problem.bias().filter(|_| self.wants(form, Optional::BiasGradient));
        Ok(Qkv {
            q: make(shape.q())?,
            k: make(shape.k())?,
            v: make(shape.v())?,
            bias: bias.map(make).transpose()?,
        })
    }
}

/// A tensor full of NaN on the backend's side: whatever is not written shows.
fn poisoned<T: Element, S: Storage>(storage: &S, memory: Memory, shape: [usize; 4]) -> Result<S::Tensor<T>> {
    let layout = layout(memory, shape)?;
    storage.upload(&Tensor::from_parts(vec![T::from_f64(f64::NAN); layout.span()], layout)?)
}
