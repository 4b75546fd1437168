//! What attention computes in, beside what everything else does.

use half::{bf16, f16};
use theria_contract::{Element, Storage as _};
use theria_gpu_fwd::{Cuda, CudaView, CudaViewMut};

use super::GpuTensor;

/// An element type of attention for tensors of `R`: the same, or one that they are rounded to.
pub trait Attended<R: Element>: Element<Acc = R> {
    /// A tensor, if it is of this type.
    fn as_it_is(x: &GpuTensor<R>) -> Option<CudaView<'_, Self>>;

    /// A tensor that is written, if it is of this type.
    fn as_it_is_mut(x: &mut GpuTensor<R>) -> Result<CudaViewMut<'_, Self>, &mut GpuTensor<R>>;
}

/// Elements of tensors of one of both kinds, or of none.
macro_rules! attended {
    ($($element:ty, of $real:ty $(, as $kind:ident)?;)*) => {$(
        impl Attended<$real> for $element {
            fn as_it_is(x: &GpuTensor<$real>) -> Option<CudaView<'_, Self>> {
                match x {
                    $(GpuTensor::$kind(x) => Some(Cuda::view(x)),)?
                    _ => None,
                }
            }

            fn as_it_is_mut(x: &mut GpuTensor<$real>) -> Result<CudaViewMut<'_, Self>, &mut GpuTensor<$real>> {
                match x {
                    $(GpuTensor::$kind(x) => Ok(Cuda::view_mut(x)),)?
                    x => Err(x),
                }
            }
        }
    )*};
}

attended! {
    f64, of f64, as Wide;
    f32, of f32, as Wide;
    bf16, of f32, as Narrow;
    f16, of f32;
}
