//! A backend of a device as one of the host.

use theria_contract::{
    Attention, Cotangent, Directions, Element, Host, Inputs, Layout, Primal, Problem, Qkv, Result, Rule,
    Saved, SavedTensor, SavedView, SavedViewMut, Scalar, SecondOrder, Storage, Support, Tangent, TensorView,
    TensorViewMut, Workspace, saved_mut, saved_view,
};

/// Operands go to the device, results come back. So a device can judge what would take the host too long.
#[derive(Debug)]
pub struct ByHost<B>(pub B);

fn upload<S: Storage, T: Scalar>(storage: &S, view: TensorView<'_, T>) -> Result<S::Tensor<T>> {
    storage.upload(&view.to_tensor())
}

/// Operands in the memory of a device.
struct There<S: Storage, E: Element> {
    qkv: [S::Tensor<E>; 3],
    bias: Option<S::Tensor<E>>,
    mask: Option<S::Tensor<u8>>,
    lengths: Option<S::Tensor<i32>>,
}

impl<S: Storage, E: Element> There<S, E> {
    fn new(storage: &S, inputs: &Inputs<'_, Host, E>) -> Result<Self> {
        Ok(Self {
            qkv: [upload(storage, inputs.q)?, upload(storage, inputs.k)?, upload(storage, inputs.v)?],
            bias: inputs.bias.map(|bias| upload(storage, bias)).transpose()?,
            mask: inputs.mask.map(|mask| upload(storage, mask)).transpose()?,
            lengths: inputs.key_lengths.map(|lengths| upload(storage, lengths)).transpose()?,
        })
    }

    fn inputs(&self) -> Inputs<'_, S, E> {
        let [q, k, v] = &self.qkv;
        Inputs {
            bias: self.bias.as_ref().map(S::view),
            mask: self.mask.as_ref().map(S::view),
            key_lengths: self.lengths.as_ref().map(S::view),
            ..Inputs::new(S::view(q), S::view(k), S::view(v))
        }
    }
}

fn saved_there<S: Storage, E: Element>(
    storage: &S,
    saved: &SavedView<'_, Host, E>,
) -> Result<SavedTensor<S, E>> {
    let rest = saved.rest.map(|rest| upload(storage, rest)).transpose()?;
    Ok(Saved { output: upload(storage, saved.output)?, lse: upload(storage, saved.lse)?, rest })
}

fn saved_back<S: Storage, E: Element>(
    storage: &S,
    made: &SavedTensor<S, E>,
    mut to: SavedViewMut<'_, Host, E>,
) -> Result<()> {
    to.output.copy_from(storage.download(S::view(&made.output))?.view())?;
    if let (Some(mut to), Some(made)) = (to.rest, &made.rest) {
        to.copy_from(storage.download(S::view(made))?.view())?;
    }
    to.lse.copy_from(storage.download(S::view(&made.lse))?.view())
}

/// The four directions, where they are given.
struct DirectionsThere<S: Storage, E: Element>(Directions<S::Tensor<E>>);

impl<S: Storage, E: Element> DirectionsThere<S, E> {
    fn new(storage: &S, given: &Directions<TensorView<'_, E>>) -> Result<Self> {
        let one = |view: Option<TensorView<'_, E>>| view.map(|view| upload(storage, view)).transpose();
        Ok(Self(Directions { q: one(given.q)?, k: one(given.k)?, v: one(given.v)?, bias: one(given.bias)? }))
    }

    fn views(&self) -> Directions<S::View<'_, E>> {
        let Directions { q, k, v, bias } = &self.0;
        Directions {
            q: q.as_ref().map(S::view),
            k: k.as_ref().map(S::view),
            v: v.as_ref().map(S::view),
            bias: bias.as_ref().map(S::view),
        }
    }
}

fn gradients_back<S: Storage, E: Element>(
    storage: &S,
    made: &Qkv<S::Tensor<E>>,
    to: Qkv<TensorViewMut<'_, E>>,
) -> Result<()> {
    let one = |made: &S::Tensor<E>, mut to: TensorViewMut<'_, E>| {
        to.copy_from(storage.download(S::view(made))?.view())
    };
    one(&made.q, to.q)?;
    one(&made.k, to.k)?;
    one(&made.v, to.v)?;
    match (&made.bias, to.bias) {
        (Some(made), Some(to)) => one(made, to),
        _ => Ok(()),
    }
}

impl<B> ByHost<B> {
    /// Memory of the device for what is asked of it.
    fn room<E: Element>(
        &self,
        problem: &Problem,
        wanted: &SavedViewMut<'_, Host, E>,
    ) -> Result<SavedTensor<B::Storage, E>>
    where
        B: Attention<E>,
    {
        let allocate = || self.0.storage().allocate(Layout::contiguous(problem.shape().output())?);
        let rest = wanted.rest.as_ref().map(|_| allocate()).transpose()?;
        Ok(Saved { rest, ..self.0.allocate_saved(problem)? })
    }
}

impl<E: Element, B: Attention<E>> Attention<E> for ByHost<B> {
    type Storage = Host;

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        self.0.support(problem, rule)
    }

    fn keeps_rest(&self, problem: &Problem) -> bool {
        self.0.keeps_rest(problem)
    }

    fn workspace_bytes(&self, _: &Problem, _: Rule) -> usize {
        0
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedViewMut<'_, Host, E>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let there = There::new(self.0.storage(), inputs)?;
        let mut made = self.room(problem, &saved)?;
        let mut workspace = self.0.storage().workspace(self.0.workspace_bytes(problem, Rule::Forward))?;
        let lent = Primal(saved_mut::<B::Storage, E>(&mut made));
        self.0.forward_into(problem, Primal(&there.inputs()), lent, &mut workspace)?;
        saved_back(self.0.storage(), &made, saved)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedView<'_, Host, E>>,
        Cotangent(g): Cotangent<TensorView<'_, E>>,
        Cotangent(gradients): Cotangent<Qkv<TensorViewMut<'_, E>>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let storage = self.0.storage();
        let (there, saved, g) =
            (There::new(storage, inputs)?, saved_there(storage, &saved)?, upload(storage, g)?);
        let g = Cotangent(B::Storage::view(&g));
        let Cotangent(made) = self.0.backward(problem, Primal(&there.inputs()), Primal(&saved), g)?;
        gradients_back(storage, &made, gradients)
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedView<'_, Host, E>>,
        Tangent(directions): Tangent<Directions<TensorView<'_, E>>>,
        Tangent(saved_tangent): Tangent<SavedViewMut<'_, Host, E>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let storage = self.0.storage();
        let (there, saved) = (There::new(storage, inputs)?, saved_there(storage, &saved)?);
        let directions = DirectionsThere::new(storage, &directions)?;
        let mut made = self.room(problem, &saved_tangent)?;
        self.0.jvp_into(
            problem,
            Primal(&there.inputs()),
            Primal(saved_view::<B::Storage, E>(&saved)),
            Tangent(directions.views()),
            Tangent(saved_mut::<B::Storage, E>(&mut made)),
            &mut storage.workspace(self.0.workspace_bytes(problem, Rule::Jvp))?,
        )?;
        saved_back(storage, &made, saved_tangent)
    }

    fn second_order_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, E>>,
        Primal(saved): Primal<SavedView<'_, Host, E>>,
        Tangent(directions): Tangent<Directions<TensorView<'_, E>>>,
        Tangent(saved_tangent): Tangent<SavedView<'_, Host, E>>,
        Cotangent(g): Cotangent<TensorView<'_, E>>,
        g_tangent: Option<Tangent<Cotangent<TensorView<'_, E>>>>,
        outputs: SecondOrder<TensorViewMut<'_, E>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let storage = self.0.storage();
        let (there, saved) = (There::new(storage, inputs)?, saved_there(storage, &saved)?);
        let saved_tangent = saved_there(storage, &saved_tangent)?;
        let directions = DirectionsThere::new(storage, &directions)?;
        let g = upload(storage, g)?;
        let g_tangent = g_tangent.map(|Tangent(Cotangent(view))| upload(storage, view)).transpose()?;
        let made = self.0.second_order(
            problem,
            Primal(&there.inputs()),
            Primal(&saved),
            Tangent(directions.views()),
            Tangent(&saved_tangent),
            Cotangent(B::Storage::view(&g)),
            g_tangent.as_ref().map(|tangent| Tangent(Cotangent(B::Storage::view(tangent)))),
            outputs.first.is_some(),
        )?;
        gradients_back(storage, &made.tangent.0.0, outputs.tangent.0.0)?;
        match (made.first, outputs.first) {
            (Some(Cotangent(made)), Some(Cotangent(to))) => gradients_back(storage, &made, to),
            _ => Ok(()),
        }
    }
}
