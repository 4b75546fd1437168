//! The CPU, in f64 or f32.

use std::convert::Infallible;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use theria_contract::{Attention, Layout, Storage as _, Tensor, TensorView, TensorViewMut};
use theria_reference::{Real, give_back_registers};

use super::{Change, Machine, Picks, Place, Places, Product, Rows, Rowwise, Sweep, Update, Width, expect};
use crate::Result;
use crate::number::{Dual, Number, index};

/// The CPU with one of its attention backends. A call takes the thread that makes it: tasks are what threads share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host<A, R> {
    attention: A,
    element: std::marker::PhantomData<fn() -> R>,
}

impl<A, R> Host<A, R> {
    /// With this attention.
    pub fn new(attention: A) -> Self {
        Self { attention, element: std::marker::PhantomData }
    }
}

/// A matrix, and its transpose where it lies transposed.
fn matrix<R: Real>(data: &[R], rows: usize, columns: usize, transposed: bool) -> MatRef<'_, R> {
    if transposed {
        MatRef::from_row_major_slice(data, columns, rows).transpose()
    } else {
        MatRef::from_row_major_slice(data, rows, columns)
    }
}

/// The rows of an operand that belong to row `r`.
fn row<R>(data: &[R], rows: Rows, r: usize) -> &[R] {
    let at = rows.follow.row(r) * rows.width;
    &data[at..at + rows.width]
}

fn row_mut<R>(data: &mut [R], rows: Rows, r: usize) -> &mut [R] {
    let at = rows.follow.row(r) * rows.width;
    &mut data[at..at + rows.width]
}

/// Numbers with tangents, out of numbers and tangents.
fn zip<R: Number>(to: &mut [Dual<R>], values: &[R], tangents: Option<&[R]>) {
    for (n, to) in to.iter_mut().enumerate() {
        let tangent = tangents.map_or(R::constant(0.0), |tangents| tangents[n]);
        *to = Dual { value: values[n], tangent };
    }
}

/// Rows of dual numbers, one for each operand.
struct Duals<R> {
    rows: Vec<Vec<Dual<R>>>,
}

impl<R: Number> Duals<R> {
    fn of(sweep: &Sweep) -> Self {
        let zero = Dual::constant(0.0);
        Self { rows: sweep.inputs.iter().map(|rows| vec![zero; rows.width]).collect() }
    }

    fn take(&mut self, sweep: &Sweep, r: usize, x: &[&[R]], x_tangent: &[Option<&[R]>]) {
        for (n, to) in self.rows.iter_mut().enumerate() {
            let rows = sweep.inputs[n];
            zip(to, row(x[n], rows, r), x_tangent[n].map(|data| row(data, rows, r)));
        }
    }

    fn get(&self) -> Vec<&[Dual<R>]> {
        self.rows.iter().map(Vec::as_slice).collect()
    }
}

/// The memory of places, zero where nothing is to be added to.
fn open<'a, R: Real + Number>(into: &'a mut Places<'_, Tensor<R>>) -> Vec<Option<&'a mut [R]>> {
    let each = |place: &'a mut Place<'_, Tensor<R>>| {
        let data = place.to.data_mut();
        if !std::mem::replace(&mut place.add, true) {
            data.fill(Number::constant(0.0));
        }
        data
    };
    into.iter_mut().map(|place| place.as_mut().map(each)).collect()
}

impl<A, R> Machine for Host<A, R>
where
    A: Attention<R, Storage = theria_contract::Host> + Sync,
    R: Real + Number,
{
    type Element = R;
    type Storage = theria_contract::Host;
    type Attended = R;
    type Attention = A;
    type Tensor = Tensor<R>;
    type Factors<'a> = Vec<&'a Tensor<R>>;
    type Held = ();
    type Recording = Infallible;
    const RECORDS: bool = false;

    fn attention(&self) -> &A {
        &self.attention
    }

    fn allocate(&self, layout: Layout, _width: Width) -> Result<Tensor<R>> {
        Ok(self.storage().allocate(layout)?)
    }

    fn form(tensor: &Tensor<R>) -> (Layout, Width) {
        (tensor.view().layout(), Width::Wide)
    }

    fn wide(tensor: &Tensor<R>) -> Option<&Tensor<R>> {
        Some(tensor)
    }

    fn wide_mut(tensor: &mut Tensor<R>) -> Option<&mut Tensor<R>> {
        Some(tensor)
    }

    fn clear(&self, tensor: &mut Tensor<R>) -> Result<()> {
        self.fill(tensor, 0.0)
    }

    fn count_non_finite(&self, tensor: &Tensor<R>) -> Result<usize> {
        Ok(self.storage().count_non_finite(tensor.view(), None, false)?)
    }

    fn hold(&self, _all: &[&Tensor<R>]) -> Result<()> {
        Ok(())
    }

    fn factors<'a>(&self, all: &[&'a Tensor<R>]) -> Result<Vec<&'a Tensor<R>>> {
        Ok(all.to_vec())
    }

    fn product(
        &self,
        product: Product,
        factors: &Vec<&Tensor<R>>,
        (a, b): (usize, usize),
        out: &mut Place<'_, Tensor<R>>,
    ) -> Result<()> {
        let Product { rows, inner, columns, a_transposed, b_transposed } = product;
        let (a, b) = (factors[a], factors[b]);
        expect("the first factor", a.data().len(), rows * inner)?;
        expect("the second factor", b.data().len(), inner * columns)?;
        expect("the product", out.to.data().len(), rows * columns)?;
        matmul(
            MatMut::from_row_major_slice_mut(out.to.data_mut(), rows, columns),
            if std::mem::replace(&mut out.add, true) { Accum::Add } else { Accum::Replace },
            matrix(a.data(), rows, inner, a_transposed),
            matrix(b.data(), inner, columns, b_transposed),
            Number::constant(1.0),
            Par::Seq,
        );
        give_back_registers();
        Ok(())
    }

    fn value<K: Rowwise>(&self, kernel: K, sweep: &Sweep, x: &[&Tensor<R>], y: &mut Tensor<R>) -> Result<()> {
        let x: Vec<&[R]> = x.iter().map(|x| x.data()).collect();
        y.data_mut().fill(Number::constant(0.0));
        let mut rows = Vec::with_capacity(x.len());
        for r in 0..sweep.rows {
            rows.clear();
            rows.extend(x.iter().zip(&sweep.inputs).map(|(x, at)| row(x, *at, r)));
            kernel.value(&rows, row_mut(y.data_mut(), sweep.output, r));
        }
        Ok(())
    }

    fn push<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Tensor<R>],
        x_tangent: &[Option<&Tensor<R>>],
        y_tangent: &mut Tensor<R>,
    ) -> Result<()> {
        let x: Vec<&[R]> = x.iter().map(|x| x.data()).collect();
        let x_tangent: Vec<_> = x_tangent.iter().map(|x| x.map(Tensor::data)).collect();
        y_tangent.data_mut().fill(Number::constant(0.0));
        let mut duals = Duals::of(sweep);
        let mut made = vec![Dual::constant(0.0); sweep.output.width];
        for r in 0..sweep.rows {
            duals.take(sweep, r, &x, &x_tangent);
            made.fill(Dual::constant(0.0));
            kernel.value(&duals.get(), &mut made);
            for (to, made) in row_mut(y_tangent.data_mut(), sweep.output, r).iter_mut().zip(&made) {
                *to += made.tangent;
            }
        }
        Ok(())
    }

    fn pull<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Tensor<R>],
        g: &Tensor<R>,
        into: &mut Places<'_, Tensor<R>>,
    ) -> Result<()> {
        let x: Vec<&[R]> = x.iter().map(|x| x.data()).collect();
        let mut into = open(into);
        for r in 0..sweep.rows {
            let rows: Vec<&[R]> = x.iter().zip(&sweep.inputs).map(|(x, at)| row(x, *at, r)).collect();
            let mut into: Vec<Option<&mut [R]>> = into
                .iter_mut()
                .zip(&sweep.inputs)
                .map(|(into, at)| into.as_deref_mut().map(|into| row_mut(into, *at, r)))
                .collect();
            kernel.pull(&rows, row(g.data(), sweep.output, r), &mut into);
        }
        Ok(())
    }

    fn pull_tangent<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Tensor<R>],
        x_tangent: &[Option<&Tensor<R>>],
        g: &Tensor<R>,
        g_tangent: Option<&Tensor<R>>,
        into: &mut Places<'_, Tensor<R>>,
    ) -> Result<()> {
        let x: Vec<&[R]> = x.iter().map(|x| x.data()).collect();
        let x_tangent: Vec<_> = x_tangent.iter().map(|x| x.map(Tensor::data)).collect();
        let mut into = open(into);
        let zero = Dual::constant(0.0);
        let (mut duals, mut cotangent) = (Duals::of(sweep), vec![zero; sweep.output.width]);
        let mut made: Vec<Option<Vec<Dual<R>>>> = into
            .iter()
            .zip(&sweep.inputs)
            .map(|(into, at)| into.is_some().then(|| vec![zero; at.width]))
            .collect();
        for r in 0..sweep.rows {
            duals.take(sweep, r, &x, &x_tangent);
            let tangent = g_tangent.map(|g| row(g.data(), sweep.output, r));
            zip(&mut cotangent, row(g.data(), sweep.output, r), tangent);
            for made in made.iter_mut().flatten() {
                made.fill(zero);
            }
            let mut lent: Vec<_> = made.iter_mut().map(|made| made.as_deref_mut()).collect();
            kernel.pull(&duals.get(), &cotangent, &mut lent);
            for ((into, made), at) in into.iter_mut().zip(&made).zip(&sweep.inputs) {
                if let (Some(into), Some(made)) = (into, made) {
                    for (to, made) in row_mut(into, *at, r).iter_mut().zip(made) {
                        *to += made.tangent;
                    }
                }
            }
        }
        Ok(())
    }

    fn gather(
        &self,
        picks: Picks,
        table: &Tensor<R>,
        indices: &Tensor<R>,
        out: &mut Tensor<R>,
    ) -> Result<()> {
        let Picks { rows, columns, count } = picks;
        expect("a table", table.data().len(), rows * columns)?;
        expect("the indices", indices.data().len(), count)?;
        expect("what is picked", out.data().len(), count * columns)?;
        for (n, picked) in indices.data().iter().enumerate() {
            let to = &mut out.data_mut()[n * columns..(n + 1) * columns];
            match index(Number::value(*picked), rows) {
                Some(row) => to.copy_from_slice(&table.data()[row * columns..(row + 1) * columns]),
                None => to.fill(Number::constant(f64::NAN)),
            }
        }
        Ok(())
    }

    fn scatter_add(
        &self,
        picks: Picks,
        rows: &Tensor<R>,
        indices: &Tensor<R>,
        table: &mut Place<'_, Tensor<R>>,
    ) -> Result<()> {
        let Picks { rows: bound, columns, count } = picks;
        expect("a table", table.to.data().len(), bound * columns)?;
        expect("the indices", indices.data().len(), count)?;
        expect("what was picked", rows.data().len(), count * columns)?;
        if !std::mem::replace(&mut table.add, true) {
            table.to.data_mut().fill(Number::constant(0.0));
        }
        // One index after the other gives every row of the table the order that a stable sort by index would.
        for (n, picked) in indices.data().iter().enumerate() {
            let Some(row) = index(Number::value(*picked), bound) else { continue };
            let to = &mut table.to.data_mut()[row * columns..(row + 1) * columns];
            for (to, from) in to.iter_mut().zip(&rows.data()[n * columns..(n + 1) * columns]) {
                *to += *from;
            }
        }
        Ok(())
    }

    fn update_all<K: Update>(&self, changes: Vec<Change<'_, K, Tensor<R>>>) -> Result<()> {
        for Change { kernel, state, read } in changes {
            let count = state.first().map_or(0, |first| first.data().len());
            for given in state.iter().map(|x| x.data().len()).chain(read.iter().map(|x| x.data().len())) {
                expect("an operand of an update", given, count)?;
            }
            let mut state: Vec<&mut [R]> = state.into_iter().map(Tensor::data_mut).collect();
            let read: Vec<&[R]> = read.iter().map(|tensor| tensor.data()).collect();
            kernel.update(&mut state, &read);
        }
        Ok(())
    }

    fn fill(&self, tensor: &mut Tensor<R>, value: f64) -> Result<()> {
        tensor.data_mut().fill(<R as Number>::constant(value));
        Ok(())
    }

    fn copy(&self, from: &Tensor<R>, to: &mut Tensor<R>) -> Result<()> {
        expect("a copy", to.data().len(), from.data().len())?;
        to.data_mut().copy_from_slice(from.data());
        Ok(())
    }

    fn sum(&self, x: &Tensor<R>) -> Result<f64> {
        Ok(x.data().iter().map(|x| Number::value(*x)).sum())
    }

    fn dot(&self, x: &Tensor<R>, y: &Tensor<R>) -> Result<f64> {
        expect("the second factor", y.data().len(), x.data().len())?;
        Ok(x.data().iter().zip(y.data()).map(|(x, y)| Number::value(*x) * Number::value(*y)).sum())
    }

    fn attended<'a>(
        &self,
        x: &'a Tensor<R>,
        _room: &'a mut Option<Tensor<R>>,
        _already: bool,
    ) -> Result<TensorView<'a, R>> {
        Ok(x.view())
    }

    fn attended_mut<'a>(
        &self,
        x: &'a mut Tensor<R>,
        _room: &'a mut Option<Tensor<R>>,
    ) -> Result<TensorViewMut<'a, R>> {
        Ok(x.view_mut())
    }

    fn take_attended(&self, _room: Option<&Tensor<R>>, _x: &mut Tensor<R>) -> Result<()> {
        Ok(())
    }

    fn record(&self, _work: impl FnOnce() -> Result<()>) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn made(&self, recording: &Infallible) -> bool {
        match *recording {}
    }

    #[allow(unsafe_code)] // there is no recording that it could be given
    unsafe fn replay(&self, recording: &Infallible) -> Result<()> {
        match *recording {}
    }
}
