//! Products of matrices by cuBLAS, on the stream of a device.
//!
//! The library is looked for when it is first asked for, as the driver is. It works in memory that is given to it, so
//! that a product may be recorded, and has the same bits every time.
#![allow(unsafe_code)] // cuBLAS is a C library; each block says why it is sound

mod onto;

use std::ffi::{c_int, c_void};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use cudarc::cublas::result::{self, CublasError};
use cudarc::cublas::sys::{
    self, cublasComputeType_t, cublasGemmAlgo_t, cublasHandle_t, cublasMath_t, cublasOperation_t,
    cudaDataType,
};
use theria_contract::{DType, Element};

use crate::buffer::Buffer;
use crate::device::Released;
use crate::{Address, CudaView, CudaViewMut, Device, Error, Result};
use onto::Plans;

pub use onto::Onto;

/// What the library asks for on Hopper; elsewhere it takes less.
const WORKSPACE: usize = 32 << 20;

/// A product of two matrices whose rows lie one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Multiplied {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the first factor and rows of the second one, as they are multiplied.
    pub inner: usize,
    /// Columns of the result.
    pub columns: usize,
    /// Whether the first factor lies transposed in memory.
    pub a_transposed: bool,
    /// Whether the second factor does.
    pub b_transposed: bool,
}

/// cuBLAS on a device.
pub struct Blas {
    device: Device,
    handle: Mutex<Handle>,
    // What the handle works in: outlives it, because a device releases in order.
    workspace: Buffer,
}

struct Handle {
    blas: cublasHandle_t,
    plans: Plans,
}

// SAFETY: a handle may go from thread to thread, and so may descriptions of products, which are memory of the host; one
// thread at a time uses them (`Mutex`).
unsafe impl Send for Handle {}

impl fmt::Debug for Blas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blas").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Turns the library's answer into an error that names the call.
fn check<T>(call: &'static str, outcome: Result<T, CublasError>) -> Result<T> {
    outcome.map_err(|error| Error::Blas { call, code: format!("{:?}", error.0) })
}

impl Blas {
    /// Finds the library, and starts it on this device.
    pub fn open(device: &Device) -> Result<Self> {
        // SAFETY: looks for the library and calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoBlas);
        }
        let workspace = Buffer::new(device, WORKSPACE)?;
        let turn = device.stream()?.waiting()?;
        let handle = check("cublasCreate", result::create_handle())?;
        let prepare = || {
            // SAFETY: the handle was just made in the context of the stream. The two libraries have a name each for one
            // type.
            check("cublasSetStream", unsafe { result::set_stream(handle, turn.cast()) })?;
            // After the stream, which would take it away.
            let at = workspace.pointer() as *mut c_void;
            // SAFETY: the memory is as large as is said, and lives as long as the handle.
            let outcome = unsafe { sys::cublasSetWorkspace_v2(handle, at, workspace.bytes()) };
            check("cublasSetWorkspace", outcome.result())?;
            // Parts of a sum are added up before they are rounded to the type of the result.
            let exact = cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            // SAFETY: nobody else has the handle yet.
            check("cublasSetMathMode", unsafe { sys::cublasSetMathMode(handle, exact) }.result())
        };
        let prepared = prepare();
        drop(turn);
        let handle = Mutex::new(Handle { blas: handle, plans: Plans::default() });
        let blas = Self { device: device.clone(), handle, workspace };
        prepared.map(|()| blas)
    }

    /// `out = a · b`, or `out += a · b`. The tensors are packed, in whatever order their axes are named. Sums are in the
    /// type of the factors, or in f32 for those in 16 bits, whose result is in f32 or in their type; factors in f32 are
    /// rounded to `tf32` if that is asked for.
    pub fn multiply<R: Element, F: Element>(
        &self,
        product: Multiplied,
        tf32: bool,
        (a, b): (CudaView<'_, F>, CudaView<'_, F>),
        out: &mut CudaViewMut<'_, R>,
        add: bool,
    ) -> Result<()> {
        self.own_all(product, (&a, &b), out)?;
        if product.rows * product.columns == 0 {
            return Ok(());
        }
        let call = Call::new(product, (F::DTYPE, R::DTYPE), tf32)?;
        let (one, beta) = (Scalars::new(1.0), Scalars::new(if add { 1.0 } else { 0.0 }));
        // In this order: who records has all turns, and may want the handle.
        let _turn = self.device.stream()?;
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the handle is this device's, whose context is current; the views name live memory of the device as
        // large as the product needs, borrowed while this is asked for, and whatever is asked of the device later
        // comes after it; the scalars are read by this call.
        let outcome = unsafe {
            result::gemm_ex(
                handle.blas,
                call.b,
                call.a,
                call.columns,
                call.rows,
                call.inner,
                one.of(R::DTYPE),
                b.address() as *const c_void,
                call.factor,
                call.b_stride,
                a.address() as *const c_void,
                call.factor,
                call.a_stride,
                beta.of(R::DTYPE),
                out.address() as *mut c_void,
                call.made,
                call.columns,
                call.arithmetic,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        check("cublasGemmEx", outcome)
    }

    /// Refuses memory of another device, or that is not packed elements, as many as are needed.
    fn own(&self, what: &'static str, view: &impl Address, needed: usize) -> Result<()> {
        if view.device() != self.device.id() {
            return Err(Error::OtherDevice { what });
        }
        let (given, span) = (view.layout().len(), view.layout().span());
        if given == needed && span == needed {
            Ok(())
        } else {
            Err(Error::NotPacked { what, given, span, needed })
        }
    }

    /// The same of both factors and of the product.
    fn own_all(
        &self,
        Multiplied { rows, inner, columns, .. }: Multiplied,
        (a, b): (&impl Address, &impl Address),
        out: &impl Address,
    ) -> Result<()> {
        self.own("the first factor", a, rows * inner)?;
        self.own("the second factor", b, inner * columns)?;
        self.own("the product", out, rows * columns)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.device.release(Released::Blas(handle.blas));
    }
}

/// A factor of the result, in the type of the sums.
struct Scalars {
    double: f64,
    single: f32,
}

impl Scalars {
    fn new(x: f64) -> Self {
        Self { double: x, single: x as f32 }
    }

    fn of(&self, dtype: DType) -> *const c_void {
        if dtype == DType::F64 { (&raw const self.double).cast() } else { (&raw const self.single).cast() }
    }
}

/// A product as the library is told of it. It takes columns for rows: what it computes is bᵀ aᵀ, column by column, which
/// is a b, row by row.
#[derive(Debug, PartialEq)]
struct Call {
    a: cublasOperation_t,
    b: cublasOperation_t,
    rows: c_int,
    inner: c_int,
    columns: c_int,
    a_stride: c_int,
    b_stride: c_int,
    factor: cudaDataType,
    made: cudaDataType,
    arithmetic: cublasComputeType_t,
}

impl Call {
    fn new(product: Multiplied, (factor, made): (DType, DType), tf32: bool) -> Result<Self> {
        let number = |n: usize| c_int::try_from(n).map_err(|_| Error::LargeProduct { product });
        let Multiplied { rows, inner, columns, a_transposed, b_transposed } = product;
        let operation = |transposed| {
            if transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }
        };
        let arithmetic = match (factor, made) {
            (DType::F64, DType::F64) => cublasComputeType_t::CUBLAS_COMPUTE_64F,
            (DType::F32, DType::F32) if tf32 => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            (DType::F32 | DType::F16 | DType::Bf16, DType::F32)
            | (DType::F16, DType::F16)
            | (DType::Bf16, DType::Bf16) => cublasComputeType_t::CUBLAS_COMPUTE_32F,
            _ => return Err(Error::ProductTypes { factor, made }),
        };
        // The library refuses a stride of zero, even where there is nothing to step over.
        let stride =
            |transposed, along: usize, across: usize| number(if transposed { across } else { along }.max(1));
        Ok(Self {
            a: operation(a_transposed),
            b: operation(b_transposed),
            rows: number(rows)?,
            inner: number(inner)?,
            columns: number(columns)?,
            a_stride: stride(a_transposed, inner, rows)?,
            b_stride: stride(b_transposed, columns, inner)?,
            factor: element(factor),
            made: element(made),
            arithmetic,
        })
    }
}

fn element(dtype: DType) -> cudaDataType {
    match dtype {
        DType::F64 => cudaDataType::CUDA_R_64F,
        DType::F32 => cudaDataType::CUDA_R_32F,
        DType::F16 => cudaDataType::CUDA_R_16F,
        DType::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library does, on the host: columns for rows, `c = op(x) op(y)`.
    fn by_columns(call: &Call, x: &[f64], y: &[f64]) -> Vec<f64> {
        let (m, n, k) = (call.columns as usize, call.rows as usize, call.inner as usize);
        let at = |data: &[f64], stride: c_int, transposed: bool, row: usize, column: usize| {
            let (row, column) = if transposed { (column, row) } else { (row, column) };
            data[row + column * stride as usize]
        };
        let transposed = |operation| operation == cublasOperation_t::CUBLAS_OP_T;
        let mut c = vec![0.0; m * n];
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            c[row + column * m] = (0..k)
                .map(|l| {
                    at(x, call.b_stride, transposed(call.b), row, l)
                        * at(y, call.a_stride, transposed(call.a), l, column)
                })
                .sum();
        }
        c
    }

    #[test]
    fn rows_are_handed_over_as_columns() {
        let (rows, inner, columns) = (2, 3, 5);
        let number = |n: usize| ((n * 7) % 11) as f64;
        for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
            let product = Multiplied { rows, inner, columns, a_transposed, b_transposed };
            let call = Call::new(product, (DType::F64, DType::F64), true).unwrap();
            let a: Vec<f64> = (0..rows * inner).map(number).collect();
            let b: Vec<f64> = (0..inner * columns).map(|n| number(n + 3)).collect();
            let entry =
                |data: &[f64], transposed, (i, j): (usize, usize), (rows, columns): (usize, usize)| {
                    data[if transposed { j * rows + i } else { i * columns + j }]
                };
            let made = by_columns(&call, &b, &a);
            for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                let expected: f64 = (0..inner)
                    .map(|l| {
                        entry(&a, a_transposed, (i, l), (rows, inner))
                            * entry(&b, b_transposed, (l, j), (inner, columns))
                    })
                    .sum();
                assert_eq!(made[i * columns + j], expected, "{product:?} {i} {j}");
            }
            assert_eq!(call.arithmetic, cublasComputeType_t::CUBLAS_COMPUTE_64F, "f64 is never rounded");
        }
    }

    #[test]
    fn a_product_that_the_library_cannot_count_is_refused() {
        let product =
            Multiplied { rows: 1 << 31, inner: 1, columns: 1, a_transposed: false, b_transposed: false };
        assert!(matches!(
            Call::new(product, (DType::F32, DType::F32), false),
            Err(Error::LargeProduct { .. })
        ));
    }

    #[test]
    fn types_that_do_not_go_together_are_refused() {
        let product = Multiplied { rows: 1, inner: 1, columns: 1, a_transposed: false, b_transposed: false };
        for (factor, made) in DType::ALL.into_iter().flat_map(|a| DType::ALL.map(|b| (a, b))) {
            let fits = made == factor || made == DType::F32 && factor.size() < 8;
            assert_eq!(Call::new(product, (factor, made), false).is_ok(), fits, "{factor} {made}");
        }
    }

    #[test]
    fn without_the_library_the_error_says_what_to_install() {
        assert!(Error::NoBlas.to_string().contains("libcublas"));
    }
}
