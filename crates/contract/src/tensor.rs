//! Tensors in the memory of the host: owned, and strided views of anybody's memory.

use crate::{Element, Error, Layout, Result, Scalar};

/// A strided read-only view.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a, T> {
    data: &'a [T],
    layout: Layout,
}

impl<'a, T: Copy> TensorView<'a, T> {
    /// A view of `data` through `layout`.
    pub fn new(data: &'a [T], layout: Layout) -> Result<Self> {
        fits(layout, data.len())?;
        Ok(Self { data, layout })
    }

    /// A view of packed row-major data.
    pub fn contiguous(data: &'a [T], shape: [usize; 4]) -> Result<Self> {
        Self::new(data, Layout::contiguous(shape)?)
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape()
    }

    /// Shape and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory behind the view; element `[b, h, i, c]` lies at `layout().offset(..)`.
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// One element.
    #[inline]
    pub fn at(&self, index: [usize; 4]) -> T {
        self.data[self.layout.offset(index)]
    }

    /// One element of a tensor whose axes of length 1 stand for any index.
    #[inline]
    pub fn at_broadcast(&self, index: [usize; 4]) -> T {
        let shape = self.layout.shape();
        self.at(std::array::from_fn(|axis| if shape[axis] == 1 { 0 } else { index[axis] }))
    }

    /// One row, contiguous.
    #[inline]
    pub fn row(&self, batch: usize, head: usize, row: usize) -> &'a [T] {
        let columns = self.layout.shape()[3];
        if columns == 0 {
            return &[];
        }
        let start = self.layout.offset([batch, head, row, 0]);
        &self.data[start..start + columns]
    }

    /// A packed copy.
    pub fn to_tensor(&self) -> Tensor<T>
    where
        T: Scalar,
    {
        let shape = self.layout.shape();
        let mut data = Vec::with_capacity(self.layout.len());
        let batches = if self.layout.is_empty() { 0 } else { shape[0] };
        for batch in 0..batches {
            for head in 0..shape[1] {
                for row in 0..shape[2] {
                    data.extend_from_slice(self.row(batch, head, row));
                }
            }
        }
        let layout = Layout::contiguous(shape).unwrap_or_else(|_| unreachable!("no larger than the view"));
        Tensor { data, layout }
    }
}

/// A strided view that may be written. No two of its elements share memory.
#[derive(Debug)]
pub struct TensorViewMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

impl<'a, T: Copy> TensorViewMut<'a, T> {
    /// A view of `data` through `layout`, which must not overlap itself.
    pub fn new(data: &'a mut [T], layout: Layout) -> Result<Self> {
        fits(layout, data.len())?;
        if !layout.is_disjoint() {
            return Err(Error::Overlapping { shape: layout.shape(), strides: layout.strides() });
        }
        Ok(Self { data, layout })
    }

    /// A view of packed row-major data.
    pub fn contiguous(data: &'a mut [T], shape: [usize; 4]) -> Result<Self> {
        Self::new(data, Layout::contiguous(shape)?)
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape()
    }

    /// Shape and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut { data: self.data, layout: self.layout }
    }

    /// The same elements, read-only.
    pub fn view(&self) -> TensorView<'_, T> {
        TensorView { data: self.data, layout: self.layout }
    }

    /// The memory behind the view.
    pub fn into_data(self) -> &'a mut [T] {
        self.data
    }

    /// One element.
    #[inline]
    pub fn at(&self, index: [usize; 4]) -> T {
        self.data[self.layout.offset(index)]
    }

    /// Writes one element.
    #[inline]
    pub fn set(&mut self, index: [usize; 4], value: T) {
        self.data[self.layout.offset(index)] = value;
    }

    /// One row, contiguous.
    #[inline]
    pub fn row_mut(&mut self, batch: usize, head: usize, row: usize) -> &mut [T] {
        let columns = self.layout.shape()[3];
        if columns == 0 {
            return &mut [];
        }
        let start = self.layout.offset([batch, head, row, 0]);
        &mut self.data[start..start + columns]
    }

    /// Writes `value` everywhere, and nowhere between the rows.
    pub fn fill(&mut self, value: T) {
        let shape = self.layout.shape();
        if self.layout.is_empty() {
            return;
        }
        for batch in 0..shape[0] {
            for head in 0..shape[1] {
                for row in 0..shape[2] {
                    self.row_mut(batch, head, row).fill(value);
                }
            }
        }
    }

    /// Copies the elements of a view of the same shape.
    pub fn copy_from(&mut self, source: TensorView<'_, T>) -> Result<()> {
        let shape = self.shape();
        if source.shape() != shape {
            return Err(Error::Shape { name: "source of a copy", given: source.shape(), expected: shape });
        }
        if self.layout.is_empty() {
            return Ok(());
        }
        for batch in 0..shape[0] {
            for head in 0..shape[1] {
                for row in 0..shape[2] {
                    self.row_mut(batch, head, row).copy_from_slice(source.row(batch, head, row));
                }
            }
        }
        Ok(())
    }
}

fn fits(layout: Layout, available: usize) -> Result<()> {
    let needed = layout.span();
    if needed > available {
        return Err(Error::OutOfBounds {
            shape: layout.shape(),
            strides: layout.strides(),
            needed,
            available,
        });
    }
    Ok(())
}

/// An owned tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    data: Vec<T>,
    layout: Layout,
}

impl<T: Scalar> Tensor<T> {
    /// Zeros, packed.
    pub fn zeros(shape: [usize; 4]) -> Result<Self> {
        Ok(Self::zeros_in(Layout::contiguous(shape)?))
    }

    /// Zeros, laid out as asked.
    pub fn zeros_in(layout: Layout) -> Self {
        Self { data: vec![T::default(); layout.span()], layout }
    }

    /// Takes packed row-major data.
    pub fn from_vec(data: Vec<T>, shape: [usize; 4]) -> Result<Self> {
        let layout = Layout::contiguous(shape)?;
        if data.len() != layout.len() {
            return Err(Error::OutOfBounds {
                shape,
                strides: layout.strides(),
                needed: layout.len(),
                available: data.len(),
            });
        }
        Ok(Self { data, layout })
    }

    /// Takes data laid out as said.
    pub fn from_parts(data: Vec<T>, layout: Layout) -> Result<Self> {
        TensorView::new(&data, layout)?;
        Ok(Self { data, layout })
    }

    /// Computes every element from its index, packed.
    pub fn from_fn(shape: [usize; 4], mut element: impl FnMut([usize; 4]) -> T) -> Result<Self> {
        let layout = Layout::contiguous(shape)?;
        let mut data = Vec::with_capacity(layout.len());
        let batches = if layout.is_empty() { 0 } else { shape[0] };
        for batch in 0..batches {
            for head in 0..shape[1] {
                for row in 0..shape[2] {
                    data.extend((0..shape[3]).map(|column| element([batch, head, row, column])));
                }
            }
        }
        Ok(Self { data, layout })
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape()
    }

    /// Shape and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory, in the order of the layout.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The memory, bit by bit: what a comparison of bits compares.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.data)
    }

    /// The memory, to be written.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// Gives the memory back.
    pub fn into_vec(self) -> Vec<T> {
        self.data
    }

    /// A read-only view of the whole.
    pub fn view(&self) -> TensorView<'_, T> {
        TensorView { data: &self.data, layout: self.layout }
    }

    /// A writable view of the whole.
    ///
    /// # Panics
    /// If the tensor was built from parts whose layout overlaps itself.
    pub fn view_mut(&mut self) -> TensorViewMut<'_, T> {
        assert!(self.layout.is_disjoint(), "a tensor that overlaps itself cannot be written");
        TensorViewMut { data: &mut self.data, layout: self.layout }
    }

    /// One element.
    #[inline]
    pub fn at(&self, index: [usize; 4]) -> T {
        self.data[self.layout.offset(index)]
    }
}

impl<T: Element> Tensor<T> {
    /// The nearest values of another element type, packed.
    pub fn cast<U: Element>(&self) -> Tensor<U> {
        let packed = self.view().to_tensor();
        Tensor { data: packed.data.iter().map(|x| U::from_f64(x.to_f64())).collect(), layout: packed.layout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_reads_through_its_strides() {
        let data: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let shape = [1, 2, 3, 4];
        let by_head = TensorView::contiguous(&data, shape).unwrap();
        let by_row = TensorView::new(&data, Layout::heads_inside(shape).unwrap()).unwrap();
        assert_eq!(by_head.row(0, 1, 2), &[20.0, 21.0, 22.0, 23.0]);
        assert_eq!(by_row.row(0, 1, 2), &[20.0, 21.0, 22.0, 23.0]);
        assert_eq!(by_row.row(0, 1, 0), &[4.0, 5.0, 6.0, 7.0]);
        assert_eq!(by_row.to_tensor().row_of(0, 1, 0), by_row.row(0, 1, 0));
    }

    impl<T: Scalar> Tensor<T> {
        fn row_of(&self, b: usize, h: usize, i: usize) -> &[T] {
            let start = self.layout.offset([b, h, i, 0]);
            &self.data[start..start + self.layout.shape()[3]]
        }
    }

    #[test]
    fn memory_that_is_too_short_is_refused() {
        let error = TensorView::contiguous(&[0.0_f64; 5], [1, 1, 2, 3]).unwrap_err();
        assert!(matches!(error, Error::OutOfBounds { needed: 6, available: 5, .. }));
        assert!(Tensor::from_vec(vec![0.0_f32; 7], [1, 1, 2, 3]).is_err());
    }

    #[test]
    fn filling_a_padded_view_leaves_the_padding_alone() {
        let mut data = vec![7.0_f32; 10];
        let layout = Layout::strided([1, 1, 2, 3], [10, 10, 5, 1]).unwrap();
        TensorViewMut::new(&mut data, layout).unwrap().fill(0.0);
        assert_eq!(data, [0.0, 0.0, 0.0, 7.0, 7.0, 0.0, 0.0, 0.0, 7.0, 7.0]);
    }

    #[test]
    fn a_writable_view_may_not_overlap_itself() {
        let mut data = vec![0.0_f32; 10];
        let layout = Layout::strided([1, 2, 2, 3], [10, 0, 5, 1]).unwrap();
        assert!(matches!(TensorViewMut::new(&mut data, layout), Err(Error::Overlapping { .. })));
    }

    #[test]
    fn a_broadcast_axis_stands_for_any_index() {
        let bias = Tensor::from_fn([1, 1, 2, 1], |[_, _, i, _]| i as f64).unwrap();
        assert_eq!(bias.view().at_broadcast([3, 4, 1, 9]), 1.0);
    }
}
