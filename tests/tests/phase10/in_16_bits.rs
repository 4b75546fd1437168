//! Attention of the host in 16 bits beneath tensors in f32, and a machine of the host that is in bf16 wherever one on a
//! device is. So bounds of 16 bits are held against something where there is no device.

use std::convert::Infallible;
use std::marker::PhantomData;

use half::bf16;
use theria_contract::{
    Attention, Cotangent, Directions, Element, Host, Inputs, Layout, Primal, Problem, Qkv, Result, Rule,
    Saved, SavedTensor, SavedView, SavedViewMut, SecondOrder, Support, Tangent, Tensor, TensorView,
    TensorViewMut, Workspace,
};
use theria_jvp_hvp::Dense;
use theria_maml::machine::{Change, Picks, Place, Places, Product, Rowwise, Sweep, Update, Width};
use theria_maml::{Machine, Result as Done};

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

/// The host in f32, with attention and factors of products in bf16, and so what lies between operations.
#[derive(Debug)]
pub(crate) struct InBf16(theria_maml::Host<Rounded<Dense, bf16>, f32>);

impl InBf16 {
    pub(crate) fn new() -> Self {
        Self(theria_maml::Host::new(Rounded(Dense::new(), PhantomData)))
    }
}

/// A tensor in f32, whose numbers are in bf16 if it is narrow.
#[derive(Debug)]
pub(crate) struct Held {
    tensor: Tensor<f32>,
    width: Width,
}

/// To the nearest number in bf16.
fn round(tensor: &mut Tensor<f32>) {
    tensor.data_mut().iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
}

impl Held {
    /// Rounds what was written.
    fn settle(&mut self) {
        if self.width == Width::Narrow {
            round(&mut self.tensor);
        }
    }
}

fn tensors<'a>(all: &[&'a Held]) -> Vec<&'a Tensor<f32>> {
    all.iter().map(|held| &held.tensor).collect()
}

fn some<'a>(all: &[Option<&'a Held>]) -> Vec<Option<&'a Tensor<f32>>> {
    all.iter().map(|held| held.map(|held| &held.tensor)).collect()
}

/// Lends tensors as places, and settles what was written to them.
fn into_places(
    into: &mut Places<'_, Held>,
    rule: impl FnOnce(&mut Places<'_, Tensor<f32>>) -> Done<()>,
) -> Done<()> {
    let lend = |place: &'_ mut Place<'_, Held>| place.add;
    let added: Vec<_> = into.iter_mut().map(|place| place.as_mut().map(lend)).collect();
    let each = into.iter_mut().zip(&added);
    let mut places: Vec<_> = each
        .map(|(place, add)| {
            place.as_mut().map(|place| Place { to: &mut place.to.tensor, add: *add == Some(true) })
        })
        .collect();
    rule(&mut places)?;
    let written: Vec<_> = places.iter().map(|place| place.as_ref().map(|place| place.add)).collect();
    for (place, add) in into.iter_mut().zip(written) {
        if let (Some(place), Some(add)) = (place, add) {
            place.add = add;
            place.to.settle();
        }
    }
    Ok(())
}

impl Machine for InBf16 {
    type Element = f32;
    type Storage = Host;
    type Attended = f32;
    type Attention = Rounded<Dense, bf16>;
    type Tensor = Held;
    type Factors<'a> = Vec<Tensor<f32>>;
    type Held = ();
    type Recording = Infallible;
    const RECORDS: bool = false;

    fn attention(&self) -> &Self::Attention {
        self.0.attention()
    }

    fn between(&self) -> Width {
        Width::Narrow
    }

    fn allocate(&self, layout: Layout, width: Width) -> Done<Held> {
        Ok(Held { tensor: self.0.allocate(layout, width)?, width })
    }

    fn form(held: &Held) -> (Layout, Width) {
        (held.tensor.view().layout(), held.width)
    }

    fn wide(held: &Held) -> Option<&Tensor<f32>> {
        (held.width == Width::Wide).then_some(&held.tensor)
    }

    fn wide_mut(held: &mut Held) -> Option<&mut Tensor<f32>> {
        (held.width == Width::Wide).then_some(&mut held.tensor)
    }

    fn clear(&self, held: &mut Held) -> Done<()> {
        self.0.fill(&mut held.tensor, 0.0)
    }

    fn count_non_finite(&self, held: &Held) -> Done<usize> {
        self.0.count_non_finite(&held.tensor)
    }

    fn hold(&self, _all: &[&Held]) -> Done<()> {
        Ok(())
    }

    fn factors(&self, all: &[&Held]) -> Done<Vec<Tensor<f32>>> {
        // Number by number as they lie in memory, whatever they are to attention.
        let one = |held: &&Held| -> Done<Tensor<f32>> {
            let numbers = held.tensor.data().to_vec();
            let shape = [1, 1, 1, numbers.len()];
            let mut copy = Tensor::from_vec(numbers, shape)?;
            round(&mut copy);
            Ok(copy)
        };
        all.iter().map(one).collect()
    }

    fn product(
        &self,
        product: Product,
        factors: &Vec<Tensor<f32>>,
        which: (usize, usize),
        out: &mut Place<'_, Held>,
    ) -> Done<()> {
        let factors: Vec<_> = factors.iter().collect();
        let mut place = Place { to: &mut out.to.tensor, add: out.add };
        self.0.product(product, &factors, which, &mut place)?;
        out.add = place.add;
        out.to.settle();
        Ok(())
    }

    fn value<K: Rowwise>(&self, kernel: K, sweep: &Sweep, x: &[&Held], y: &mut Held) -> Done<()> {
        self.0.value(kernel, sweep, &tensors(x), &mut y.tensor)?;
        y.settle();
        Ok(())
    }

    fn push<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Held],
        x_tangent: &[Option<&Held>],
        y_tangent: &mut Held,
    ) -> Done<()> {
        self.0.push(kernel, sweep, &tensors(x), &some(x_tangent), &mut y_tangent.tensor)?;
        y_tangent.settle();
        Ok(())
    }

    fn pull<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Held],
        g: &Held,
        into: &mut Places<'_, Held>,
    ) -> Done<()> {
        into_places(into, |places| self.0.pull(kernel, sweep, &tensors(x), &g.tensor, places))
    }

    fn pull_tangent<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Held],
        x_tangent: &[Option<&Held>],
        g: &Held,
        g_tangent: Option<&Held>,
        into: &mut Places<'_, Held>,
    ) -> Done<()> {
        let (x, x_tangent, g_tangent) = (tensors(x), some(x_tangent), g_tangent.map(|g| &g.tensor));
        into_places(into, |places| {
            self.0.pull_tangent(kernel, sweep, &x, &x_tangent, &g.tensor, g_tangent, places)
        })
    }

    fn gather(&self, picks: Picks, table: &Held, indices: &Held, out: &mut Held) -> Done<()> {
        self.0.gather(picks, &table.tensor, &indices.tensor, &mut out.tensor)?;
        out.settle();
        Ok(())
    }

    fn scatter_add(
        &self,
        picks: Picks,
        rows: &Held,
        indices: &Held,
        table: &mut Place<'_, Held>,
    ) -> Done<()> {
        let mut place = Place { to: &mut table.to.tensor, add: table.add };
        self.0.scatter_add(picks, &rows.tensor, &indices.tensor, &mut place)?;
        table.add = place.add;
        table.to.settle();
        Ok(())
    }

    fn update_all<K: Update>(&self, changes: Vec<Change<'_, K, Tensor<f32>>>) -> Done<()> {
        self.0.update_all(changes)
    }

    fn fill(&self, tensor: &mut Tensor<f32>, value: f64) -> Done<()> {
        self.0.fill(tensor, value)
    }

    fn copy(&self, from: &Tensor<f32>, to: &mut Tensor<f32>) -> Done<()> {
        self.0.copy(from, to)
    }

    fn sum(&self, x: &Tensor<f32>) -> Done<f64> {
        self.0.sum(x)
    }

    fn dot(&self, x: &Tensor<f32>, y: &Tensor<f32>) -> Done<f64> {
        self.0.dot(x, y)
    }

    fn attended<'a>(
        &self,
        x: &'a Held,
        room: &'a mut Option<Tensor<f32>>,
        already: bool,
    ) -> Done<TensorView<'a, f32>> {
        self.0.attended(&x.tensor, room, already)
    }

    fn attended_mut<'a>(
        &self,
        x: &'a mut Held,
        room: &'a mut Option<Tensor<f32>>,
    ) -> Done<TensorViewMut<'a, f32>> {
        // What attention writes is in bf16 whatever it is written to.
        self.0.attended_mut(&mut x.tensor, room)
    }

    fn take_attended(&self, room: Option<&Tensor<f32>>, x: &mut Held) -> Done<()> {
        self.0.take_attended(room, &mut x.tensor)
    }

    fn record(&self, _work: impl FnOnce() -> Done<()>) -> Done<Option<Infallible>> {
        Ok(None)
    }

    fn made(&self, recording: &Infallible) -> bool {
        match *recording {}
    }
}
