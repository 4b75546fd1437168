//! Attention of the host in 16 bits beneath tensors in f32, as machines on a device have it. So bounds of 16 bits are held
//! against something where there is no device.

use std::marker::PhantomData;

use theria_contract::{
    Attention, Cotangent, Directions, Element, Host, Inputs, Primal, Problem, Qkv, Result, Rule, Saved,
    SavedTensor, SavedView, SavedViewMut, SecondOrder, Support, Tangent, Tensor, TensorView, TensorViewMut,
    Workspace,
};

/// A backend that is given operands rounded to `T`.
#[derive(Debug)]
pub(crate) struct Rounded<B, T>(pub(crate) B, pub(crate) PhantomData<fn() -> T>);

fn rounded<T: Element>(view: TensorView<'_, f32>) -> Result<Tensor<T>> {
    let tensor = view.to_tensor();
    Tensor::from_fn(tensor.shape(), |at| T::from_f64(f64::from(tensor.at(at))))
}

fn back<T: Element>(made: &Tensor<T>, mut to: TensorViewMut<'_, f32>) -> Result<()> {
    let widened = Tensor::from_fn(made.shape(), |at| made.at(at).to_f64() as f32)?;
    to.copy_from(widened.view())
}

fn operands<T: Element>(inputs: &Inputs<'_, Host, f32>) -> Result<[Tensor<T>; 3]> {
    Ok([rounded(inputs.q)?, rounded(inputs.k)?, rounded(inputs.v)?])
}

fn views<T: Element>([q, k, v]: &[Tensor<T>; 3]) -> Inputs<'_, Host, T> {
    Inputs::new(q.view(), k.view(), v.view())
}

fn saved_of<T: Element<Acc = f32>>(saved: &SavedView<'_, Host, f32>) -> Result<SavedTensor<Host, T>> {
    Ok(Saved { output: rounded(saved.output)?, lse: saved.lse.to_tensor(), rest: None })
}

fn saved_back<T: Element<Acc = f32>>(
    made: &SavedTensor<Host, T>,
    mut to: SavedViewMut<'_, Host, f32>,
) -> Result<()> {
    back(&made.output, to.output)?;
    // What comes back of 16 bits is not rounded to f32.
    if let Some(mut rest) = to.rest {
        rest.fill(0.0);
    }
    to.lse.copy_from(made.lse.view())
}

type Along<T> = Directions<Tensor<T>>;

fn directions<T: Element>(given: &Directions<TensorView<'_, f32>>) -> Result<Along<T>> {
    let one = |view: Option<TensorView<'_, f32>>| view.map(rounded).transpose();
    Ok(Directions { q: one(given.q)?, k: one(given.k)?, v: one(given.v)?, bias: None })
}

fn along<T: Element>(all: &Along<T>) -> Tangent<Directions<TensorView<'_, T>>> {
    let [q, k, v] = [&all.q, &all.k, &all.v].map(|one| one.as_ref().map(Tensor::view));
    Tangent(Directions { q, k, v, bias: None })
}

fn gradients_back<T: Element>(made: &Qkv<Tensor<T>>, to: Qkv<TensorViewMut<'_, f32>>) -> Result<()> {
    back(&made.q, to.q)?;
    back(&made.k, to.k)?;
    back(&made.v, to.v)
}

impl<T, B> Attention<f32> for Rounded<B, T>
where
    T: Element<Acc = f32>,
    B: Attention<T, Storage = Host>,
{
    type Storage = Host;

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn support(&self, problem: &Problem, rule: Rule) -> Support {
        self.0.support(&problem.with_dtype(T::DTYPE), rule)
    }

    fn workspace_bytes(&self, _: &Problem, _: Rule) -> usize {
        0
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, f32>>,
        Primal(saved): Primal<SavedViewMut<'_, Host, f32>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let there = operands::<T>(inputs)?;
        let Primal(made) = self.0.forward(&problem.with_dtype(T::DTYPE), Primal(&views(&there)))?;
        saved_back(&made, saved)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, f32>>,
        Primal(saved): Primal<SavedView<'_, Host, f32>>,
        Cotangent(g): Cotangent<TensorView<'_, f32>>,
        Cotangent(gradients): Cotangent<Qkv<TensorViewMut<'_, f32>>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let (there, saved, g) = (operands::<T>(inputs)?, saved_of::<T>(&saved)?, rounded::<T>(g)?);
        let problem = problem.with_dtype(T::DTYPE);
        let made = self.0.backward(&problem, Primal(&views(&there)), Primal(&saved), Cotangent(g.view()))?;
        gradients_back(&made.0, gradients)
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, f32>>,
        Primal(saved): Primal<SavedView<'_, Host, f32>>,
        Tangent(given): Tangent<Directions<TensorView<'_, f32>>>,
        Tangent(saved_tangent): Tangent<SavedViewMut<'_, Host, f32>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let (there, saved) = (operands::<T>(inputs)?, saved_of::<T>(&saved)?);
        let given = directions::<T>(&given)?;
        let problem = problem.with_dtype(T::DTYPE);
        let Tangent(made) = self.0.jvp(&problem, Primal(&views(&there)), Primal(&saved), along(&given))?;
        saved_back(&made, saved_tangent)
    }

    fn second_order_kernel(
        &self,
        problem: &Problem,
        Primal(inputs): Primal<&Inputs<'_, Host, f32>>,
        Primal(saved): Primal<SavedView<'_, Host, f32>>,
        Tangent(given): Tangent<Directions<TensorView<'_, f32>>>,
        Tangent(saved_tangent): Tangent<SavedView<'_, Host, f32>>,
        Cotangent(g): Cotangent<TensorView<'_, f32>>,
        g_tangent: Option<Tangent<Cotangent<TensorView<'_, f32>>>>,
        outputs: SecondOrder<TensorViewMut<'_, f32>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let (there, saved) = (operands::<T>(inputs)?, saved_of::<T>(&saved)?);
        let (given, saved_tangent) = (directions::<T>(&given)?, saved_of::<T>(&saved_tangent)?);
        let g = rounded::<T>(g)?;
        let g_tangent = g_tangent.map(|Tangent(Cotangent(view))| rounded::<T>(view)).transpose()?;
        let made = self.0.second_order(
            &problem.with_dtype(T::DTYPE),
            Primal(&views(&there)),
            Primal(&saved),
            along(&given),
            Tangent(&saved_tangent),
            Cotangent(g.view()),
            g_tangent.as_ref().map(|tangent| Tangent(Cotangent(tangent.view()))),
            outputs.first.is_some(),
        )?;
        gradients_back(&made.tangent.0.0, outputs.tangent.0.0)?;
        match (made.first, outputs.first) {
            (Some(Cotangent(made)), Some(Cotangent(to))) => gradients_back(&made, to),
            _ => Ok(()),
        }
    }
}
