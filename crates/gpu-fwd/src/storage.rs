//! Tensors on a device: the [`Storage`] of every CUDA backend.

use std::marker::PhantomData;

use cudarc::driver::sys::CUdeviceptr;
use theria_contract::{Element, Error, Host, Layout, Result, Scalar, Storage, Tensor, TensorView};

use crate::Device;
use crate::buffer::{self, Buffer};

/// The memory of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Cuda {
    device: Device,
}

impl Cuda {
    /// The memory of this device.
    pub fn new(device: Device) -> Self {
        Self { device }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Refuses memory of any other device, given by its number.
    pub fn own(&self, what: &'static str, device: u64) -> crate::Result<()> {
        if device == self.device.id() { Ok(()) } else { Err(crate::Error::OtherDevice { what }) }
    }
}

/// A tensor on a device.
#[derive(Debug)]
pub struct CudaTensor<T> {
    memory: Buffer,
    layout: Layout,
    element: PhantomData<T>,
}

impl<T> CudaTensor<T> {
    /// Where it begins, and the number of its device.
    fn place(&self) -> (CUdeviceptr, u64) {
        (self.memory.pointer(), self.memory.device().id())
    }
}

/// A view of a tensor on a device.
#[derive(Clone, Copy, Debug)]
pub struct CudaView<'a, T> {
    pointer: CUdeviceptr,
    device: u64,
    layout: Layout,
    memory: PhantomData<&'a T>,
}

/// A view of a tensor on a device that may be written.
#[derive(Debug)]
pub struct CudaViewMut<'a, T> {
    pointer: CUdeviceptr,
    device: u64,
    layout: Layout,
    memory: PhantomData<&'a mut T>,
}

/// Refuses a layout that addresses some memory twice: outputs have every element for themselves.
pub(crate) fn require_disjoint(layout: Layout) -> Result<()> {
    if layout.is_disjoint() {
        return Ok(());
    }
    Err(Error::Overlapping { shape: layout.shape(), strides: layout.strides() })
}

/// Where a view lies: what a kernel is told of it.
pub trait Address: sealed::Sealed {
    /// Its first element, in the memory of its device.
    fn address(&self) -> CUdeviceptr;
    /// The number of the device.
    fn device(&self) -> u64;
    /// How its elements lie.
    fn layout(&self) -> Layout;
}

mod sealed {
    /// Views of this crate alone say where memory is.
    pub trait Sealed {}
    impl<T> Sealed for super::CudaView<'_, T> {}
    impl<T> Sealed for super::CudaViewMut<'_, T> {}
}

impl<T> Address for CudaView<'_, T> {
    fn address(&self) -> CUdeviceptr {
        self.pointer
    }
    fn device(&self) -> u64 {
        self.device
    }
    fn layout(&self) -> Layout {
        self.layout
    }
}

impl<T> Address for CudaViewMut<'_, T> {
    fn address(&self) -> CUdeviceptr {
        self.pointer
    }
    fn device(&self) -> u64 {
        self.device
    }
    fn layout(&self) -> Layout {
        self.layout
    }
}

/// Scratch on a device.
#[derive(Debug)]
pub struct CudaWorkspace {
    memory: Buffer,
}

impl CudaWorkspace {
    /// Where it begins.
    pub fn address(&self) -> CUdeviceptr {
        self.memory.pointer()
    }

    /// The number of its device.
    pub fn device(&self) -> u64 {
        self.memory.device().id()
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }
}

impl Storage for Cuda {
    type Tensor<T: Scalar> = CudaTensor<T>;
    type View<'a, T: Scalar> = CudaView<'a, T>;
    type ViewMut<'a, T: Scalar> = CudaViewMut<'a, T>;
    type Workspace = CudaWorkspace;

    fn allocate<T: Scalar>(&self, layout: Layout) -> Result<CudaTensor<T>> {
        require_disjoint(layout)?;
        let mut memory = Buffer::new(&self.device, layout.span() * size_of::<T>())?;
        memory.fill(0)?;
        Ok(CudaTensor { memory, layout, element: PhantomData })
    }

    fn workspace(&self, bytes: usize) -> Result<CudaWorkspace> {
        Ok(CudaWorkspace { memory: Buffer::new(&self.device, bytes)? })
    }

    fn fill_workspace(&self, workspace: &mut CudaWorkspace, byte: u8) -> Result<()> {
        Ok(workspace.memory.fill(byte)?)
    }

    fn workspace_bytes(workspace: &CudaWorkspace) -> usize {
        workspace.bytes()
    }

    fn upload<T: Scalar>(&self, tensor: &Tensor<T>) -> Result<CudaTensor<T>> {
        let mut memory = Buffer::new(&self.device, size_of_val(tensor.data()))?;
        memory.write(bytemuck::cast_slice(tensor.data()))?;
        Ok(CudaTensor { memory, layout: tensor.layout(), element: PhantomData })
    }

    fn download<T: Scalar>(&self, view: CudaView<'_, T>) -> Result<Tensor<T>> {
        self.own("the view", view.device)?;
        let mut data = vec![T::default(); view.layout.span()];
        // SAFETY: a view is made of a live tensor of this device that has the span of its layout.
        #[allow(unsafe_code)]
        let outcome =
            unsafe { buffer::read(&self.device, view.pointer, bytemuck::cast_slice_mut(&mut data)) };
        outcome?;
        Ok(TensorView::new(&data, view.layout)?.to_tensor())
    }

    fn view<T: Scalar>(tensor: &CudaTensor<T>) -> CudaView<'_, T> {
        let (pointer, device) = tensor.place();
        CudaView { pointer, device, layout: tensor.layout, memory: PhantomData }
    }

    fn view_mut<T: Scalar>(tensor: &mut CudaTensor<T>) -> CudaViewMut<'_, T> {
        let (pointer, device) = tensor.place();
        CudaViewMut { pointer, device, layout: tensor.layout, memory: PhantomData }
    }

    fn reborrow<'a, T: Scalar>(view: &'a CudaViewMut<'_, T>) -> CudaView<'a, T> {
        CudaView { pointer: view.pointer, device: view.device, layout: view.layout, memory: PhantomData }
    }

    fn reborrow_mut<'a, T: Scalar>(view: &'a mut CudaViewMut<'_, T>) -> CudaViewMut<'a, T> {
        CudaViewMut { pointer: view.pointer, device: view.device, layout: view.layout, memory: PhantomData }
    }

    fn layout<T: Scalar>(view: &CudaView<'_, T>) -> Layout {
        view.layout
    }

    fn layout_mut<T: Scalar>(view: &CudaViewMut<'_, T>) -> Layout {
        view.layout
    }

    /// Counts on the host: a check is asked for by those who look for a mistake.
    fn count_non_finite<E: Element>(
        &self,
        view: CudaView<'_, E>,
        row_limits: Option<CudaView<'_, i32>>,
        allow_neg_infinity: bool,
    ) -> Result<usize> {
        let tensor = self.download(view)?;
        let limits = row_limits.map(|limits| self.download(limits)).transpose()?;
        Host.count_non_finite(tensor.view(), limits.as_ref().map(Tensor::view), allow_neg_infinity)
    }
}
