//! A CUDA device, in f32 or f64, with attention in the same or in 16 bits.
//!
//! | primitive | by |
//! |---|---|
//! | products of matrices | cuBLAS; with what they are added to, cuBLASLt |
//! | functions of rows | `kernels/rows.cuh`: a team of threads for each row, sums over rows in one order |
//! | updates of elements | `kernels/elements.cuh` |
//! | sums and inner products | `kernels/dot.cu`, in f64 |
//!
//! Nothing waits for the device but what is read by the host, and sums have one order: every call gives the same bits.
#![allow(unsafe_code)] // kernels are launched; each block says why it is sound

mod attended;
mod division;
mod dot;
mod elements;
mod factors;
mod lookup;
mod rows;
mod tensor;
mod wrong;

use std::fmt;
use std::sync::Arc;

use half::bf16;
use theria_contract::{Attention, Checks, DType, Layout, Scalar, Storage};
use theria_gpu_fwd::{
    Address, Blas, Cuda, CudaTensor, CudaView, CudaViewMut, Edit, Graph, KernelSpec, Library, Spec,
};
use theria_reference::Real;

use super::{Change, Machine, Onto, Picks, Place, Places, Product, Rowwise, Sweep, Update, Width, expect};
use crate::number::Number;
use crate::{Error, Result};
use dot::DotKernel;
use elements::{CastKernel, ElementKernel};
use factors::{Factor, Prepared, RoundKernel, Spare};
use lookup::LookupKernel;
use rows::{RowKernel, Rule};

pub use attended::Attended;
pub use factors::{Factors, HeldFactors};
pub use tensor::GpuTensor;
#[doc(hidden)]
pub use wrong::WRONG;

/// Every kernel that machines on a device launch.
pub fn kernels() -> Vec<KernelSpec> {
    let rows = rows::all().map(|spec| spec.kernel());
    let elements =
        elements::all().map(|spec| spec.kernel()).chain(elements::all_casts().map(|spec| spec.kernel()));
    let rounds = factors::all().map(|spec| spec.kernel()).chain(lookup::all().map(|spec| spec.kernel()));
    rows.chain(elements).chain(rounds).chain(dot::all().map(|spec| spec.kernel())).collect()
}

/// What f32 factors are rounded to before they are multiplied. Sums are in f32 always, and f64 is never rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Nothing.
    #[default]
    F32,
    /// TF32: ten bits of the fraction.
    Tf32,
    /// bf16: seven, at twice the speed.
    Bf16,
}

/// A CUDA device with one of its attention backends. Attention computes in `E`, everything else in `R`.
#[derive(Clone)]
pub struct Gpu<A, R, E = R> {
    attention: A,
    cuda: Cuda,
    precision: Precision,
    shared: Arc<Shared<R>>,
    attended: std::marker::PhantomData<fn() -> E>,
}

/// What recordings need to be alive beside the tensors of a model.
struct Shared<R> {
    blas: Blas,
    rows: Library<RowKernel>,
    elements: Library<ElementKernel>,
    casts: Library<CastKernel>,
    rounds: Library<RoundKernel>,
    spare: Spare,
    prepared: Prepared,
    dots: Library<DotKernel>,
    lookups: Library<LookupKernel>,
    /// Sums of blocks, before they are added up. Work on a device is done in order, so one is enough.
    sums: CudaTensor<R>,
    /// Counters of blocks, all of them 0 between launches, which is 0 in f32, too.
    tickets: CudaTensor<f32>,
    /// Sums of blocks, and their sum.
    dot_parts: CudaTensor<f64>,
    dot_whole: CudaTensor<f64>,
}

impl<R: Real> Shared<R> {
    /// For machines on this device, with a change in the kernels or with none.
    fn new(cuda: &Cuda, edit: Option<Edit>) -> Result<Self> {
        let line = |count| Layout::contiguous([1, 1, 1, count]);
        Ok(Self {
            blas: Blas::open(cuda.device()).map_err(theria_contract::Error::from)?,
            rows: library(cuda, edit),
            elements: library(cuda, edit),
            casts: library(cuda, edit),
            rounds: library(cuda, edit),
            spare: Spare::default(),
            prepared: Prepared::default(),
            dots: library(cuda, edit),
            lookups: library(cuda, edit),
            sums: cuda.allocate(line(division::SUMS)?)?,
            tickets: cuda.allocate(line(division::TICKETS)?)?,
            dot_parts: cuda.allocate(line(dot::BLOCKS)?)?,
            dot_whole: cuda.allocate(line(1)?)?,
        })
    }
}

fn library<S: Spec>(cuda: &Cuda, edit: Option<Edit>) -> Library<S> {
    let device = cuda.device().clone();
    match edit {
        Some(edit) => Library::edited(device, edit),
        None => Library::new(device),
    }
}

/// Work of one machine that was recorded.
pub struct Recorded<R> {
    graph: Graph,
    precision: Precision,
    /// What the work uses of the machine.
    shared: Arc<Shared<R>>,
}

// SAFETY: a recording is the driver's name for something of a context, which every thread may use; what is shared with its
// machine is shared between threads anyway.
unsafe impl<R: Send + Sync> Send for Recorded<R> {}

impl<A: fmt::Debug, R, E> fmt::Debug for Gpu<A, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("attention", &self.attention)
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// With this attention, on its device.
    pub fn new(attention: A) -> Result<Self> {
        let cuda = attention.storage().clone();
        let shared = Arc::new(Shared::new(&cuda, None)?);
        let (precision, attended) = (Precision::F32, std::marker::PhantomData);
        Ok(Self { attention, cuda, precision, shared, attended })
    }

    /// With kernels that have a change in their sources, where there is what is changed. For tests, which see whether a
    /// wrong one is noticed. Attention and products stay as they are.
    #[doc(hidden)]
    pub fn with_edit(self, edit: Edit) -> Result<Self> {
        let shared = Arc::new(Shared::new(&self.cuda, Some(edit))?);
        Ok(Self { shared, ..self })
    }

    /// With factors of products rounded. Sums stay in f32.
    #[must_use]
    pub fn with_products(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Where a tensor lies that has as many elements, packed, and is of this device: what a launch may touch.
    fn address(&self, what: &'static str, at: &impl Address, elements: usize) -> Result<u64> {
        expect(what, at.layout().len(), elements)?;
        expect(what, at.layout().span(), elements)?;
        on_device(self.cuda.own(what, at.device()))?;
        Ok(at.address())
    }

    /// The same of a tensor of a model.
    fn address_of(&self, what: &'static str, tensor: &GpuTensor<R>, elements: usize) -> Result<u64> {
        match tensor {
            GpuTensor::Wide(tensor) => self.address(what, &view(tensor), elements),
            GpuTensor::Narrow(tensor) => self.address(what, &view(tensor), elements),
        }
    }

    /// The same of one that has to be wide.
    fn wide_address(&self, what: &'static str, tensor: &GpuTensor<R>, elements: usize) -> Result<u64> {
        match tensor {
            GpuTensor::Wide(tensor) => self.address(what, &view(tensor), elements),
            GpuTensor::Narrow(_) => Err(Error::Narrow { what }),
        }
    }
}

/// A view of a tensor that is read.
fn view<T: Scalar>(tensor: &CudaTensor<T>) -> CudaView<'_, T> {
    Cuda::view(tensor)
}

fn view_mut<T: Scalar>(tensor: &mut CudaTensor<T>) -> CudaViewMut<'_, T> {
    Cuda::view_mut(tensor)
}

/// Whether work was not recorded because it makes memory.
fn makes_memory(error: &crate::Error) -> bool {
    let crate::Error::Attention(theria_contract::Error::Backend { source, .. }) = error else { return false };
    matches!(source.downcast_ref(), Some(theria_gpu_fwd::Error::MemoryRecorded))
}

/// An error of the device layer.
fn on_device<T>(outcome: Result<T, theria_gpu_fwd::Error>) -> Result<T> {
    Ok(outcome.map_err(theria_contract::Error::from)?)
}

impl<A, R, E> Machine for Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    type Element = R;
    type Storage = Cuda;
    type Attended = E;
    type Attention = A;
    type Tensor = GpuTensor<R>;
    type Factors<'a> = Factors<'a, R>;
    type Held = HeldFactors<R>;
    type Recording = Recorded<R>;
    const RECORDS: bool = true;

    fn attention(&self) -> &A {
        &self.attention
    }

    fn between(&self) -> Width {
        let narrow = R::DTYPE == DType::F32 && E::DTYPE == DType::Bf16 && self.precision == Precision::Bf16;
        if narrow { Width::Narrow } else { Width::Wide }
    }

    fn allocate(&self, layout: Layout, width: Width) -> Result<GpuTensor<R>> {
        GpuTensor::allocate(&self.cuda, layout, width)
    }

    fn form(tensor: &GpuTensor<R>) -> (Layout, Width) {
        (tensor.layout(), if tensor.is_narrow() { Width::Narrow } else { Width::Wide })
    }

    fn wide(tensor: &GpuTensor<R>) -> Option<&CudaTensor<R>> {
        if let GpuTensor::Wide(tensor) = tensor { Some(tensor) } else { None }
    }

    fn wide_mut(tensor: &mut GpuTensor<R>) -> Option<&mut CudaTensor<R>> {
        if let GpuTensor::Wide(tensor) = tensor { Some(tensor) } else { None }
    }

    fn clear(&self, tensor: &mut GpuTensor<R>) -> Result<()> {
        match tensor {
            GpuTensor::Wide(tensor) => self.cast::<R, R>(None, 0.0, tensor),
            GpuTensor::Narrow(tensor) => self.cast::<bf16, bf16>(None, 0.0, tensor),
        }
    }

    fn count_non_finite(&self, tensor: &GpuTensor<R>) -> Result<usize> {
        Ok(match tensor {
            GpuTensor::Wide(tensor) => self.cuda.count_non_finite(view(tensor), None, false),
            GpuTensor::Narrow(tensor) => self.cuda.count_non_finite(view(tensor), None, false),
        }?)
    }

    fn hold(&self, all: &[&GpuTensor<R>]) -> Result<HeldFactors<R>> {
        self.hold_rounded(all)
    }

    fn factors<'a>(&self, all: &[&'a GpuTensor<R>]) -> Result<Factors<'a, R>> {
        self.prepared(all)
    }

    fn product(
        &self,
        product: Product,
        factors: &Factors<'_, R>,
        (a, b): (usize, usize),
        out: &mut Place<'_, GpuTensor<R>>,
    ) -> Result<()> {
        let add = std::mem::replace(&mut out.add, true);
        let (blas, tf32) = (&self.shared.blas, self.precision == Precision::Tf32);
        on_device(match (factors.get(a), factors.get(b), &mut *out.to) {
            (Factor::Wide(a), Factor::Wide(b), GpuTensor::Wide(to)) => {
                blas.multiply(product, tf32, (a, b), &mut view_mut(to), add)
            }
            (Factor::Narrow(a), Factor::Narrow(b), GpuTensor::Wide(to)) => {
                blas.multiply(product, tf32, (a, b), &mut view_mut(to), add)
            }
            (Factor::Narrow(a), Factor::Narrow(b), GpuTensor::Narrow(to)) => {
                blas.multiply(product, tf32, (a, b), &mut view_mut(to), add)
            }
            _ => return Err(Error::MixedWidths),
        })
    }

    fn product_onto(
        &self,
        product: Product,
        factors: &Factors<'_, R>,
        (a, b): (usize, usize),
        onto: Onto<'_, GpuTensor<R>>,
        out: &mut GpuTensor<R>,
    ) -> Result<bool> {
        let (blas, tf32) = (&self.shared.blas, self.precision == Precision::Tf32);
        // What is added is as wide as what comes out.
        on_device(match (factors.get(a), factors.get(b), out) {
            (Factor::Wide(a), Factor::Wide(b), GpuTensor::Wide(to)) => {
                let Some(onto) = factors.wide(&onto) else { return Ok(false) };
                blas.multiply_onto(product, tf32, (a, b), onto, &mut view_mut(to))
            }
            (Factor::Narrow(a), Factor::Narrow(b), GpuTensor::Wide(to)) => {
                let Some(onto) = factors.wide(&onto) else { return Ok(false) };
                blas.multiply_onto(product, tf32, (a, b), onto, &mut view_mut(to))
            }
            (Factor::Narrow(a), Factor::Narrow(b), GpuTensor::Narrow(to)) => {
                let Some(onto) = factors.narrow(&onto) else { return Ok(false) };
                blas.multiply_onto(product, tf32, (a, b), onto, &mut view_mut(to))
            }
            _ => return Err(Error::MixedWidths),
        })
    }

    fn value<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&GpuTensor<R>],
        y: &mut GpuTensor<R>,
    ) -> Result<()> {
        let mut call = self.call(&kernel, sweep, Rule::Value)?;
        call.read(x, &[])?;
        call.make(y)?;
        call.launch()
    }

    fn push<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&GpuTensor<R>],
        x_tangent: &[Option<&GpuTensor<R>>],
        y_tangent: &mut GpuTensor<R>,
    ) -> Result<()> {
        let mut call = self.call(&kernel, sweep, Rule::Push)?;
        call.read(x, x_tangent)?;
        call.make(y_tangent)?;
        call.launch()
    }

    fn pull<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&GpuTensor<R>],
        g: &GpuTensor<R>,
        into: &mut Places<'_, GpuTensor<R>>,
    ) -> Result<()> {
        let mut call = self.call(&kernel, sweep, Rule::Pull)?;
        call.read(x, &[])?;
        call.pull(g, None, into)?;
        call.launch()
    }

    fn pull_tangent<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&GpuTensor<R>],
        x_tangent: &[Option<&GpuTensor<R>>],
        g: &GpuTensor<R>,
        g_tangent: Option<&GpuTensor<R>>,
        into: &mut Places<'_, GpuTensor<R>>,
    ) -> Result<()> {
        let mut call = self.call(&kernel, sweep, Rule::PullTangent)?;
        call.read(x, x_tangent)?;
        call.pull(g, g_tangent, into)?;
        call.launch()
    }

    fn gather(
        &self,
        picks: Picks,
        table: &GpuTensor<R>,
        indices: &GpuTensor<R>,
        out: &mut GpuTensor<R>,
    ) -> Result<()> {
        self.look_up(picks, false, indices, table, out)
    }

    fn scatter_add(
        &self,
        picks: Picks,
        rows: &GpuTensor<R>,
        indices: &GpuTensor<R>,
        table: &mut Place<'_, GpuTensor<R>>,
    ) -> Result<()> {
        if !std::mem::replace(&mut table.add, true) {
            self.clear(table.to)?;
        }
        self.look_up(picks, true, indices, rows, table.to)
    }

    fn update_all<K: Update>(&self, mut changes: Vec<Change<'_, K, CudaTensor<R>>>) -> Result<()> {
        self.change(&mut changes)
    }

    fn fill(&self, tensor: &mut CudaTensor<R>, value: f64) -> Result<()> {
        self.cast::<R, R>(None, value, tensor)
    }

    fn copy(&self, from: &CudaTensor<R>, to: &mut CudaTensor<R>) -> Result<()> {
        self.cast(Some(from), 0.0, to)
    }

    fn sum(&self, x: &CudaTensor<R>) -> Result<f64> {
        self.sum_of_products(x, None)
    }

    fn dot(&self, x: &CudaTensor<R>, y: &CudaTensor<R>) -> Result<f64> {
        self.sum_of_products(x, Some(y))
    }

    fn attended<'a>(
        &self,
        x: &'a GpuTensor<R>,
        room: &'a mut Option<CudaTensor<E>>,
        already: bool,
    ) -> Result<CudaView<'a, E>> {
        if let Some(same) = E::as_it_is(x) {
            return Ok(same);
        }
        let made = self.room_for(x, room)?;
        match x {
            GpuTensor::Wide(x) if !already => self.cast(Some(x), 0.0, made)?,
            GpuTensor::Wide(_) => {}
            GpuTensor::Narrow(_) => return Err(Error::MixedWidths),
        }
        Ok(view(made))
    }

    fn attended_mut<'a>(
        &self,
        x: &'a mut GpuTensor<R>,
        room: &'a mut Option<CudaTensor<E>>,
    ) -> Result<CudaViewMut<'a, E>> {
        match E::as_it_is_mut(x) {
            Ok(same) => Ok(same),
            Err(x) => Ok(view_mut(self.room_for(x, room)?)),
        }
    }

    fn take_attended(&self, room: Option<&CudaTensor<E>>, x: &mut GpuTensor<R>) -> Result<()> {
        let itself = E::as_it_is(x).is_some();
        match (room, x) {
            (Some(made), GpuTensor::Wide(x)) if !itself => self.cast(Some(made), 0.0, x),
            _ => Ok(()),
        }
    }

    fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Option<Recorded<R>>> {
        // Checks wait for the device, which does nothing while work is recorded.
        if self.attention.checks() != Checks::None {
            return Ok(None);
        }
        let graph = match on_device(self.cuda.device().record(work))? {
            Ok(graph) => graph,
            Err(error) if makes_memory(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Recorded { graph, precision: self.precision, shared: Arc::clone(&self.shared) }))
    }

    fn made(&self, recording: &Recorded<R>) -> bool {
        Arc::ptr_eq(&recording.shared, &self.shared) && recording.precision == self.precision
    }

    unsafe fn replay(&self, recording: &Recorded<R>) -> Result<()> {
        // SAFETY: the caller vouches for tensors; what the machine gave to the work is kept by the recording, and is
        // used in the order of the device's work.
        on_device(unsafe { recording.graph.launch() })
    }
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// A tensor of the type that attention computes in, laid out like another.
    fn room_for<'a>(
        &self,
        x: &GpuTensor<R>,
        room: &'a mut Option<CudaTensor<E>>,
    ) -> Result<&'a mut CudaTensor<E>> {
        if room.is_none() {
            *room = Some(self.cuda.allocate(x.layout())?);
        }
        let Some(room) = room else { unreachable!("it was made") };
        Ok(room)
    }
}
