//! Brings operands into the type of computation, and results back into theirs.
//!
//! f32 and f64 are computed in place, through whatever strides they have. f16 and bf16 operands are
//! widened once into packed scratch, and results are rounded once at the end.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use theria_contract::{Arena, Element, Tensor, TensorView, TensorViewMut, Workspace};

use super::Vector;

/// An element type of the streaming backend.
pub trait Operand: Element<Acc: Vector> {
    /// Whether this is the type of computation, so that operands and results are used where they lie.
    const IN_PLACE: bool;

    /// Scratch that an operand of this shape needs.
    fn widened_bytes(shape: [usize; 4]) -> usize;

    /// The operand in the type of computation: itself, or a packed copy.
    fn widen<'a, 'w: 'a>(view: TensorView<'a, Self>, arena: &mut Arena<'w>) -> TensorView<'a, Self::Acc>;

    /// Memory of this type as memory of the type of computation, if it is [`Self::IN_PLACE`].
    fn as_acc_mut(data: &mut [Self]) -> Option<&mut [Self::Acc]>;
}

macro_rules! computed_in_place {
    ($($t:ty),*) => {$(
        impl Operand for $t {
            const IN_PLACE: bool = true;
            fn widened_bytes(_shape: [usize; 4]) -> usize {
                0
            }
            fn widen<'a, 'w: 'a>(view: TensorView<'a, Self>, _arena: &mut Arena<'w>) -> TensorView<'a, Self> {
                view
            }
            fn as_acc_mut(data: &mut [Self]) -> Option<&mut [Self]> {
                Some(data)
            }
        }
    )*};
}

macro_rules! computed_in_f32 {
    ($($t:ty),*) => {$(
        impl Operand for $t {
            const IN_PLACE: bool = false;
            fn widened_bytes(shape: [usize; 4]) -> usize {
                Workspace::bytes_for::<f32>(shape.iter().product())
            }
            fn widen<'a, 'w: 'a>(view: TensorView<'a, Self>, arena: &mut Arena<'w>) -> TensorView<'a, f32> {
                let [batch, heads, rows, columns] = view.shape();
                let packed = arena.take::<f32>(view.layout().len());
                if view.layout().is_empty() {
                    return TensorView::contiguous(&*packed, view.shape()).expect("an empty view");
                }
                let mut targets = packed.chunks_mut(columns.max(1));
                for b in 0..batch {
                    for h in 0..heads {
                        for i in 0..rows {
                            let target = targets.next().expect("as many rows as the shape says");
                            view.row(b, h, i).convert_to_f32_slice(target);
                        }
                    }
                }
                TensorView::contiguous(packed, view.shape()).expect("the shape of a view that exists")
            }
            fn as_acc_mut(_data: &mut [Self]) -> Option<&mut [f32]> {
                None
            }
        }
    )*};
}

computed_in_place!(f32, f64);
computed_in_f32!(f16, bf16);

/// An operand whose rows are matrices that a product can read.
///
/// Rows that overlap (an axis repeated with stride 0, or interleaved) are copied apart. Nobody's hot
/// path, and the only thing of the size of data that is ever allocated.
#[derive(Debug)]
pub struct Apart<'a, E> {
    view: TensorView<'a, E>,
    copy: Option<Tensor<E>>,
}

impl<'a, E: Element> Apart<'a, E> {
    /// The operand, or its copy.
    pub fn new(view: TensorView<'a, E>) -> Self {
        let (shape, strides) = (view.shape(), view.layout().strides());
        let overlap = shape[2] > 1 && strides[2] < shape[3];
        Self { view, copy: overlap.then(|| view.to_tensor()) }
    }

    /// Where it can be read.
    pub fn view(&self) -> TensorView<'_, E> {
        self.copy.as_ref().map_or(self.view, Tensor::view)
    }
}

/// A row statistic as one slice.
pub fn packed_rows<'a, 'w: 'a, A: Vector>(view: TensorView<'a, A>, arena: &mut Arena<'w>) -> &'a [A] {
    let rows = view.layout().len();
    if view.layout().is_packed() {
        return &view.data()[..rows];
    }
    let packed = arena.take::<A>(rows);
    let [batch, heads, t, _] = view.shape();
    for (at, value) in packed.iter_mut().enumerate() {
        *value = view.at([at / (heads * t), at / t % heads, at % t, 0]);
    }
    debug_assert_eq!(rows, batch * heads * t);
    packed
}

/// A result under computation: packed memory of the type of computation.
#[derive(Debug)]
pub enum Target<'a, E: Operand> {
    /// The caller's own memory.
    Direct(&'a mut [E::Acc]),
    /// Scratch, and where its rounded values go.
    Scratch(&'a mut [E::Acc], TensorViewMut<'a, E>),
}

impl<'a, E: Operand> Target<'a, E> {
    /// Scratch that a result of this shape may need.
    pub fn bytes(shape: [usize; 4]) -> usize {
        Workspace::bytes_for::<E::Acc>(shape.iter().product())
    }

    /// The caller's memory if it is packed and of the right type, else scratch.
    #[allow(clippy::missing_panics_doc)] // IN_PLACE says that the types are one
    pub fn new<'w: 'a>(out: TensorViewMut<'a, E>, arena: &mut Arena<'w>) -> Self {
        let len = out.layout().len();
        if E::IN_PLACE && out.layout().is_packed() {
            let data = E::as_acc_mut(&mut out.into_data()[..len]).expect("one type");
            return Self::Direct(data);
        }
        Self::Scratch(arena.take(len), out)
    }

    /// The memory to compute into.
    pub fn data(&mut self) -> &mut [E::Acc] {
        match self {
            Self::Direct(data) | Self::Scratch(data, _) => data,
        }
    }

    /// Rounds into the caller's memory.
    pub fn finish(self) {
        if let Self::Scratch(data, out) = self {
            write(data, out, E::from_acc);
        }
    }

    /// The same, and what rounding takes into another place.
    pub fn finish_with_rest(mut self, rest: Option<TensorViewMut<'_, E>>) {
        if let Some(rest) = rest {
            write(self.data(), rest, E::rest_of);
        }
        self.finish();
    }
}

/// Packed memory into a tensor of as many elements, one by one.
fn write<E: Operand>(data: &[E::Acc], mut out: TensorViewMut<'_, E>, element: impl Fn(E::Acc) -> E) {
    if out.layout().is_empty() {
        return;
    }
    let [batch, heads, rows, columns] = out.shape();
    let mut sources = data.chunks(columns.max(1));
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..rows {
                let source = sources.next().expect("as many rows as the shape says");
                for (y, x) in out.row_mut(b, h, i).iter_mut().zip(source) {
                    *y = element(*x);
                }
            }
        }
    }
}
