//! Factors of products: tensors themselves, or rounded copies of those that are wide, each made once for all products of a
//! rule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use theria_contract::{Attention, DType, Layout, Storage as _};
use theria_gpu_fwd::forward::element_name;
use theria_gpu_fwd::{Address as _, Cuda, CudaTensor, CudaView, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::rows::instance_name;
use super::{Attended, Gpu, GpuTensor, Precision, Shared, on_device, view};
use crate::Result;
use crate::machine::{Machine as _, Onto, kernel_source};
use crate::number::Number;

const SOURCE: Source = kernel_source!("round.cu");
const THREADS: usize = 256;
/// Elements of a thread, as in `round.cu`.
const EACH: usize = 8;
/// Tensors of a launch, as in `round.cu`.
pub(super) const MOST: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RoundKernel {
    to: DType,
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = RoundKernel> {
    [RoundKernel { to: DType::Bf16 }].into_iter()
}

/// `Round` of `round.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters {
    from: [u64; MOST],
    to: [u64; MOST],
    count: [i64; MOST],
    first: [i32; MOST],
    tensors: i32,
}

const _: () = assert!(size_of::<Parameters>() == 1800);

// SAFETY: `Parameters` is the struct `Round` of round.cu, which touches what it names, after it waited for the launches
// ahead.
unsafe impl Spec for RoundKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        KernelSpec {
            name: instance_name(SOURCE, "", self.to),
            source: SOURCE,
            defines: vec![("THERIA_TO", element_name(self.to).into())],
            threads: THREADS as u32,
            shared: 0,
        }
    }
}

/// Rounded copies that nobody has now, by their number of elements. None is ever released: recordings name them.
#[derive(Default)]
pub(super) struct Spare(Mutex<HashMap<usize, Vec<CudaTensor<bf16>>>>);

impl Spare {
    fn take(&self, count: usize) -> Option<CudaTensor<bf16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&count)?.pop()
    }

    fn give(&self, tensor: CudaTensor<bf16>) {
        let count = view(&tensor).layout().len();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(count).or_default().push(tensor);
    }
}

/// Rounded copies of tensors that are factors again and again, by where these lie.
#[derive(Default)]
pub(super) struct Prepared(Mutex<HashMap<u64, Arc<CudaTensor<bf16>>>>);

impl Prepared {
    fn get(&self, address: u64) -> Option<Arc<CudaTensor<bf16>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    fn insert(&self, address: u64, copy: Arc<CudaTensor<bf16>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address, copy);
    }

    fn remove(&self, address: u64) -> Option<Arc<CudaTensor<bf16>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&address)
    }
}

/// Tensors that have rounded copies as long as it is there.
pub struct HeldFactors<R> {
    addresses: Vec<u64>,
    shared: Arc<Shared<R>>,
}

impl<R> Drop for HeldFactors<R> {
    fn drop(&mut self) {
        // The last first, as below.
        for address in self.addresses.drain(..).rev() {
            let copy = self.shared.prepared.remove(address).and_then(Arc::into_inner);
            if let Some(copy) = copy {
                self.shared.spare.give(copy);
            }
        }
    }
}

/// A rounded copy of a factor.
enum Copy {
    /// Made for this rule: its number among those.
    Own(usize),
    /// Made for more.
    Held(Arc<CudaTensor<bf16>>),
}

/// A factor as a product takes it.
pub(super) enum Factor<'a, R> {
    Wide(CudaView<'a, R>),
    Narrow(CudaView<'a, bf16>),
}

/// Factors of products.
pub struct Factors<'a, R> {
    given: Vec<&'a GpuTensor<R>>,
    /// The rounded copy of each of them, if it has one.
    copies: Vec<Option<Copy>>,
    /// Copies that were made for this rule. They go back when this does.
    rounded: Vec<CudaTensor<bf16>>,
    shared: Arc<Shared<R>>,
}

impl<R: Real> Factors<'_, R> {
    /// The factor of this number.
    pub(super) fn get(&self, n: usize) -> Factor<'_, R> {
        match (self.given[n], &self.copies[n]) {
            (_, Some(Copy::Own(copy))) => Factor::Narrow(view(&self.rounded[*copy])),
            (_, Some(Copy::Held(copy))) => Factor::Narrow(view(copy)),
            (GpuTensor::Narrow(tensor), None) => Factor::Narrow(view(tensor)),
            (GpuTensor::Wide(tensor), None) => Factor::Wide(view(tensor)),
        }
    }

    /// What a wide product is added to, if all of it is.
    pub(super) fn wide<'b>(&'b self, onto: &Onto<'b, GpuTensor<R>>) -> Option<theria_gpu_fwd::Onto<'b, R>> {
        let matrix = match onto.matrix {
            Some(GpuTensor::Wide(matrix)) => Some(view(matrix)),
            Some(GpuTensor::Narrow(_)) => return None,
            None => None,
        };
        let GpuTensor::Wide(row) = self.given[onto.row] else { return None };
        Some(theria_gpu_fwd::Onto { row: view(row), matrix })
    }

    /// What a narrow product is added to, if all of it is.
    pub(super) fn narrow<'b>(
        &'b self,
        onto: &Onto<'b, GpuTensor<R>>,
    ) -> Option<theria_gpu_fwd::Onto<'b, bf16>> {
        let matrix = match onto.matrix {
            Some(GpuTensor::Narrow(matrix)) => Some(view(matrix)),
            Some(GpuTensor::Wide(_)) => return None,
            None => None,
        };
        let Factor::Narrow(row) = self.get(onto.row) else { return None };
        Some(theria_gpu_fwd::Onto { row, matrix })
    }
}

impl<R> Drop for Factors<'_, R> {
    fn drop(&mut self) {
        // The last first: who takes them next, in the same order, finds the same.
        while let Some(tensor) = self.rounded.pop() {
            self.shared.spare.give(tensor);
        }
    }
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// Tensors as products take them.
    pub(super) fn prepared<'a>(&self, all: &[&'a GpuTensor<R>]) -> Result<Factors<'a, R>> {
        let shared = Arc::clone(&self.shared);
        let copies = all.iter().map(|_| None).collect();
        let mut factors = Factors { given: all.to_vec(), copies, rounded: Vec::new(), shared };
        // Both factors of a product are of one type: what another machine left narrow asks for others that are.
        let narrow = self.precision == Precision::Bf16 || all.iter().any(|tensor| tensor.is_narrow());
        if !narrow || R::DTYPE != DType::F32 {
            return Ok(factors);
        }
        let mut wide = Vec::with_capacity(all.len());
        for (copy, tensor) in factors.copies.iter_mut().zip(all) {
            let GpuTensor::Wide(tensor) = tensor else { continue };
            let held = self.shared.prepared.get(view(tensor).address());
            *copy = Some(held.map_or_else(
                || {
                    wide.push(tensor);
                    Copy::Own(wide.len() - 1)
                },
                Copy::Held,
            ));
        }
        for some in wide.chunks(MOST) {
            self.round(some, &mut factors.rounded)?;
        }
        Ok(factors)
    }

    /// Rounds tensors that are factors again and again: where products take rounded ones, and none of those without
    /// elements, which may lie where others do.
    pub(super) fn hold_rounded(&self, all: &[&GpuTensor<R>]) -> Result<HeldFactors<R>> {
        let mut held = HeldFactors { addresses: Vec::new(), shared: Arc::clone(&self.shared) };
        if self.precision != Precision::Bf16 || R::DTYPE != DType::F32 {
            return Ok(held);
        }
        let wide =
            |tensor: &&'_ GpuTensor<R>| matches!(tensor, GpuTensor::Wide(_)) && !tensor.layout().is_empty();
        let wide: Vec<_> = all.iter().copied().filter(wide).filter_map(Self::wide).collect();
        for some in wide.chunks(MOST) {
            let mut copies = Vec::with_capacity(some.len());
            let done = self.round(some, &mut copies);
            for (tensor, copy) in some.iter().zip(copies) {
                let address = view(tensor).address();
                self.shared.prepared.insert(address, Arc::new(copy));
                held.addresses.push(address);
            }
            done?;
        }
        Ok(held)
    }

    /// Makes rounded copies, as many as a launch takes.
    fn round(&self, some: &[&CudaTensor<R>], rounded: &mut Vec<CudaTensor<bf16>>) -> Result<()> {
        let mut parameters = Parameters {
            from: [0; MOST],
            to: [0; MOST],
            count: [0; MOST],
            first: [0; MOST],
            tensors: some.len() as i32,
        };
        let mut blocks = 0;
        for (n, tensor) in some.iter().enumerate() {
            let count = view(tensor).layout().len();
            let to = match self.shared.spare.take(count) {
                Some(spare) => spare,
                None => self.cuda.allocate(Layout::contiguous([1, 1, 1, count])?)?,
            };
            parameters.to[n] = view(&to).address();
            rounded.push(to);
            parameters.from[n] = self.address("a factor", &view(tensor), count)?;
            parameters.count[n] = count as i64;
            parameters.first[n] = blocks as i32;
            blocks += count.div_ceil(THREADS * EACH);
        }
        let spec = RoundKernel { to: DType::Bf16 };
        // SAFETY: `address` held every tensor against its length and the device, and its copy is as long and nobody
        // else's; they are alive while the launch is asked for, and whatever is asked of the device later comes after it.
        on_device(unsafe { self.shared.rounds.launch(spec, blocks, &parameters) })
    }
}
