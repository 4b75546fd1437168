//! Where a backend's tensors live.
//!
//! The compositions above the operator (Hessian-vector products, double backward) and the
//! conformance suite are written once for host and device memory; this trait is all they need to
//! know about it.

use crate::{Element, Layout, Result, Scalar, Tensor, TensorView, TensorViewMut, Workspace};

/// A kind of memory: its tensors, views and scratch. What is owned may go to other threads.
pub trait Storage {
    /// An owned tensor.
    type Tensor<T: Scalar>: Send + Sync;
    /// A strided read-only view.
    type View<'a, T: Scalar>: Copy;
    /// A strided view that may be written; no two of its elements share memory.
    type ViewMut<'a, T: Scalar>;
    /// Scratch memory of a rule.
    type Workspace: Send + Sync;

    /// One element, where reading it costs nothing: in the memory of the host. Checks on a few values
    /// are made there and nowhere else.
    fn peek<T: Scalar>(_view: &Self::View<'_, T>, _index: [usize; 4]) -> Option<T> {
        None
    }

    /// A zeroed tensor.
    fn allocate<T: Scalar>(&self, layout: Layout) -> Result<Self::Tensor<T>>;

    /// Scratch of at least `bytes` bytes.
    fn workspace(&self, bytes: usize) -> Result<Self::Workspace>;

    /// Fills scratch with a byte: a rule must not care what it finds there.
    fn fill_workspace(&self, workspace: &mut Self::Workspace, byte: u8) -> Result<()>;

    /// Bytes that a workspace can serve.
    fn workspace_bytes(workspace: &Self::Workspace) -> usize;

    /// Copies from the host, strides included.
    fn upload<T: Scalar>(&self, tensor: &Tensor<T>) -> Result<Self::Tensor<T>>;

    /// Copies to the host, packed.
    fn download<T: Scalar>(&self, view: Self::View<'_, T>) -> Result<Tensor<T>>;

    /// A view of a whole tensor.
    fn view<T: Scalar>(tensor: &Self::Tensor<T>) -> Self::View<'_, T>;

    /// A writable view of a whole tensor.
    fn view_mut<T: Scalar>(tensor: &mut Self::Tensor<T>) -> Self::ViewMut<'_, T>;

    /// A writable view, read.
    fn reborrow<'a, T: Scalar>(view: &'a Self::ViewMut<'_, T>) -> Self::View<'a, T>;

    /// A writable view, for a shorter time.
    fn reborrow_mut<'a, T: Scalar>(view: &'a mut Self::ViewMut<'_, T>) -> Self::ViewMut<'a, T>;

    /// Shape and strides of a view.
    fn layout<T: Scalar>(view: &Self::View<'_, T>) -> Layout;

    /// Shape and strides of a writable view.
    fn layout_mut<T: Scalar>(view: &Self::ViewMut<'_, T>) -> Layout;

    /// Elements that are NaN or infinite, not counting `-inf` when that is allowed (a bias may hide
    /// a key with it, and it is the `lse` of a row that sees nothing). `row_limits`, of the shape of
    /// key lengths, says how many rows of each batch entry count; the others are padding.
    fn count_non_finite<E: Element>(
        &self,
        view: Self::View<'_, E>,
        row_limits: Option<Self::View<'_, i32>>,
        allow_neg_infinity: bool,
    ) -> Result<usize>;
}

/// The memory of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host;

impl Storage for Host {
    type Tensor<T: Scalar> = Tensor<T>;
    type View<'a, T: Scalar> = TensorView<'a, T>;
    type ViewMut<'a, T: Scalar> = TensorViewMut<'a, T>;
    type Workspace = Workspace;

    fn peek<T: Scalar>(view: &TensorView<'_, T>, index: [usize; 4]) -> Option<T> {
        Some(view.at(index))
    }

    fn allocate<T: Scalar>(&self, layout: Layout) -> Result<Tensor<T>> {
        Ok(Tensor::zeros_in(layout))
    }

    fn workspace(&self, bytes: usize) -> Result<Workspace> {
        Ok(Workspace::new(bytes))
    }

    fn fill_workspace(&self, workspace: &mut Workspace, byte: u8) -> Result<()> {
        workspace.fill(byte);
        Ok(())
    }

    fn workspace_bytes(workspace: &Workspace) -> usize {
        workspace.bytes()
    }

    fn upload<T: Scalar>(&self, tensor: &Tensor<T>) -> Result<Tensor<T>> {
        Ok(tensor.clone())
    }

    fn download<T: Scalar>(&self, view: TensorView<'_, T>) -> Result<Tensor<T>> {
        Ok(view.to_tensor())
    }

    fn view<T: Scalar>(tensor: &Tensor<T>) -> TensorView<'_, T> {
        tensor.view()
    }

    fn view_mut<T: Scalar>(tensor: &mut Tensor<T>) -> TensorViewMut<'_, T> {
        tensor.view_mut()
    }

    fn reborrow<'a, T: Scalar>(view: &'a TensorViewMut<'_, T>) -> TensorView<'a, T> {
        view.view()
    }

    fn reborrow_mut<'a, T: Scalar>(view: &'a mut TensorViewMut<'_, T>) -> TensorViewMut<'a, T> {
        view.reborrow()
    }

    fn layout<T: Scalar>(view: &TensorView<'_, T>) -> Layout {
        view.layout()
    }

    fn layout_mut<T: Scalar>(view: &TensorViewMut<'_, T>) -> Layout {
        view.layout()
    }

    fn count_non_finite<E: Element>(
        &self,
        view: TensorView<'_, E>,
        row_limits: Option<TensorView<'_, i32>>,
        allow_neg_infinity: bool,
    ) -> Result<usize> {
        let [batch, heads, rows, _] = view.shape();
        let odd = |x: &&E| !x.is_finite() && (!allow_neg_infinity || x.to_f64() != f64::NEG_INFINITY);
        let mut count = 0;
        let batch = if view.layout().is_empty() { 0 } else { batch };
        for b in 0..batch {
            let limit = row_limits.map_or(rows, |limits| rows.min(limits.at([0, 0, 0, b]).max(0) as usize));
            for h in 0..heads {
                for i in 0..limit {
                    count += view.row(b, h, i).iter().filter(odd).count();
                }
            }
        }
        Ok(count)
    }
}
