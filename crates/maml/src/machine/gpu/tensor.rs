//! Tensors of models: wide, or in bf16 where operations hand them to operations.

use half::bf16;
use theria_contract::{Layout, Storage as _};
use theria_gpu_fwd::{Address as _, Cuda, CudaTensor};
use theria_reference::Real;

use super::view;
use crate::Result;
use crate::machine::Width;

/// A tensor of a model on a device.
#[derive(Debug)]
pub enum GpuTensor<R> {
    /// As wide as what is computed in.
    Wide(CudaTensor<R>),
    /// As products and attention take it.
    Narrow(CudaTensor<bf16>),
}

impl<R: Real> GpuTensor<R> {
    pub(super) fn allocate(cuda: &Cuda, layout: Layout, width: Width) -> Result<Self> {
        Ok(match width {
            Width::Wide => Self::Wide(cuda.allocate(layout)?),
            Width::Narrow => Self::Narrow(cuda.allocate(layout)?),
        })
    }

    pub(super) fn layout(&self) -> Layout {
        match self {
            Self::Wide(tensor) => view(tensor).layout(),
            Self::Narrow(tensor) => view(tensor).layout(),
        }
    }

    pub(super) fn is_narrow(&self) -> bool {
        matches!(self, Self::Narrow(_))
    }
}
