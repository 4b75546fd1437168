//! What attention computes in, beside what everything else does.

use half::{bf16, f16};
use theria_contract::{Element, Storage as _};
use theria_gpu_fwd::{Cuda, CudaTensor, CudaView, CudaViewMut};

/// An element type of attention for tensors of `R`: the same, or one that they are rounded to.
pub trait Attended<R: Element>: Element<Acc = R> {
    /// Whether it is the same.
    const IS_IT: bool;

    /// A tensor, if it is the same.
    fn as_it_is(x: &CudaTensor<R>) -> Option<CudaView<'_, Self>>;

    /// A tensor that is written, if it is the same.
    fn as_it_is_mut(x: &mut CudaTensor<R>) -> Result<CudaViewMut<'_, Self>, &mut CudaTensor<R>>;
}

macro_rules! same {
    ($($element:ty),*) => {$(
        impl Attended<$element> for $element {
            const IS_IT: bool = true;

            fn as_it_is(x: &CudaTensor<$element>) -> Option<CudaView<'_, Self>> {
                Some(Cuda::view(x))
            }

            fn as_it_is_mut(x: &mut CudaTensor<$element>) -> Result<CudaViewMut<'_, Self>, &mut CudaTensor<$element>> {
                Ok(Cuda::view_mut(x))
            }
        }
    )*};
}

macro_rules! rounded {
    ($($element:ty),*) => {$(
        impl Attended<f32> for $element {
            const IS_IT: bool = false;

            fn as_it_is(_: &CudaTensor<f32>) -> Option<CudaView<'_, Self>> {
                None
            }

            fn as_it_is_mut(x: &mut CudaTensor<f32>) -> Result<CudaViewMut<'_, Self>, &mut CudaTensor<f32>> {
                Err(x)
            }
        }
    )*};
}

same!(f32, f64);
rounded!(f16, bf16);
