//! Products that are added to a row, and perhaps to a matrix, before they are rounded: one launch in place of two.
//!
//! The library has them by its other interface, cuBLASLt, which chooses how a product is made when it is asked, and not
//! when it makes it. What it chose is kept: the same product is made in the same way, and has the same bits, every time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::PoisonError;

use cudarc::cublas::sys::cublasOperation_t;
use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as Say, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as Wish, cublasLtMatrixLayout_t, cudaDataType,
};
use theria_contract::{DType, Element};

use super::{Blas, Call, Multiplied, Scalars, WORKSPACE};
use crate::{Address as _, CudaView, CudaViewMut, Error, Result};

/// What a product is added to, in the type of the product.
#[derive(Clone, Copy, Debug)]
pub struct Onto<'a, R> {
    /// A row, which is added to every row.
    pub row: CudaView<'a, R>,
    /// A matrix of the size of the product.
    pub matrix: Option<CudaView<'a, R>>,
}

/// Bytes that addresses are multiples of, as far as the library wants to know.
const MOST_ALIGNED: u64 = 256;
/// Sums in parts are added up in the type of sums.
const EXACT: u32 = 1 | 2;

/// All that a choice of the library depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    product: Multiplied,
    factor: DType,
    made: DType,
    tf32: bool,
    /// What the addresses of both factors, of the matrix and of the product are multiples of.
    aligned: [u32; 4],
}

/// Choices that were made; none where the library has no such product.
#[derive(Default)]
pub(super) struct Plans(HashMap<Kind, Option<Plan>>);

/// How a product is made.
struct Plan {
    product: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    made: cublasLtMatrixLayout_t,
    algorithm: cublasLtMatmulAlgo_t,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: `Kind::plan` made each of them that there is, and nobody else has them. They are memory of the host.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for layout in [self.a, self.b, self.made].into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// Turns the library's answer into an error that names the call.
fn check<T>(call: &'static str, outcome: Result<T, result::CublasError>) -> Result<T> {
    outcome.map_err(|error| Error::Blas { call, code: format!("{:?}", error.0) })
}

fn element(dtype: DType) -> cudaDataType {
    match dtype {
        DType::F64 => cudaDataType::CUDA_R_64F,
        DType::F32 => cudaDataType::CUDA_R_32F,
        DType::F16 => cudaDataType::CUDA_R_16F,
        DType::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}

/// A layout of columns, one after the other.
fn layout(dtype: DType, rows: usize, columns: usize) -> Result<cublasLtMatrixLayout_t> {
    let made = result::create_matrix_layout(element(dtype), rows as u64, columns as u64, rows as i64);
    check("cublasLtMatrixLayoutCreate", made)
}

/// Says something of a product.
fn say<T>(product: cublasLtMatmulDesc_t, what: Say, value: &T) -> Result<()> {
    // SAFETY: the description is there, and the attribute is as large as the value, which is read by this call.
    let outcome = unsafe {
        result::set_matmul_desc_attribute(product, what, std::ptr::from_ref(value).cast(), size_of::<T>())
    };
    check("cublasLtMatmulDescSetAttribute", outcome)
}

impl Kind {
    /// Rows for columns, as in `Call`: the first factor of the library is `b`. None without the library.
    fn plan(self, handle: cublasLtHandle_t) -> Result<Option<Plan>> {
        // SAFETY: looks for the library and calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let Self { product: Multiplied { rows, inner, columns, a_transposed, b_transposed }, .. } = self;
        let (arithmetic, scale) = match (self.factor, self.tf32) {
            (DType::F64, _) => (cublasComputeType_t::CUBLAS_COMPUTE_64F, DType::F64),
            (DType::F32, true) => (cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, DType::F32),
            _ => (cublasComputeType_t::CUBLAS_COMPUTE_32F, DType::F32),
        };
        let product =
            check("cublasLtMatmulDescCreate", result::create_matmul_desc(arithmetic, element(scale)))?;
        let turned = |turned, one, other| if turned { (other, one) } else { (one, other) };
        let ((b_rows, b_columns), (a_rows, a_columns)) =
            (turned(b_transposed, columns, inner), turned(a_transposed, inner, rows));
        let all =
            [(self.factor, b_rows, b_columns), (self.factor, a_rows, a_columns), (self.made, columns, rows)];
        let mut layouts = [std::ptr::null_mut(); 3];
        let mut described = || {
            for (to, (dtype, rows, columns)) in layouts.iter_mut().zip(all) {
                *to = layout(dtype, rows, columns)?;
            }
            let operation =
                |turned| if turned { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N };
            say(product, Say::CUBLASLT_MATMUL_DESC_TRANSA, &operation(b_transposed))?;
            say(product, Say::CUBLASLT_MATMUL_DESC_TRANSB, &operation(a_transposed))?;
            say(product, Say::CUBLASLT_MATMUL_DESC_EPILOGUE, &cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
            say(product, Say::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &element(self.made))
        };
        let done = described();
        let [b, a, made] = layouts;
        let mut plan = Plan { product, a, b, made, algorithm: cublasLtMatmulAlgo_t { data: [0; 8] } };
        done?;
        let Some(algorithm) = self.choose(handle, &plan)? else { return Ok(None) };
        plan.algorithm = algorithm;
        Ok(Some(plan))
    }

    /// What the library takes for the fastest.
    fn choose(self, handle: cublasLtHandle_t, plan: &Plan) -> Result<Option<cublasLtMatmulAlgo_t>> {
        let wishes = check("cublasLtMatmulPreferenceCreate", result::create_matmul_pref())?;
        let [a, b, matrix, made] = self.aligned;
        let wished = wish(wishes, Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)
            .and_then(|()| wish(wishes, Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &EXACT))
            .and_then(|()| wish(wishes, Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b))
            .and_then(|()| wish(wishes, Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a))
            .and_then(|()| wish(wishes, Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &matrix))
            .and_then(|()| wish(wishes, Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &made));
        let Plan { product, a, b, made, .. } = *plan;
        // SAFETY: the handle is alive, and so is what describes the product and the wishes.
        let chosen = wished.map(|()| unsafe {
            result::get_matmul_algo_heuristic(handle, product, b, a, made, made, wishes).ok()
        });
        // SAFETY: made above, and nobody else has it.
        let _ = unsafe { result::destroy_matmul_pref(wishes) };
        Ok(chosen?.map(|chosen| chosen.algo))
    }
}

/// Says what a choice has to keep to.
fn wish<T>(wishes: cublasLtMatmulPreference_t, what: Wish, value: &T) -> Result<()> {
    // SAFETY: the wishes are there, and the attribute is as large as the value, which is read by this call.
    let outcome = unsafe {
        result::set_matmul_pref_attribute(wishes, what, std::ptr::from_ref(value).cast(), size_of::<T>())
    };
    check("cublasLtMatmulPreferenceSetAttribute", outcome)
}

/// What an address is a multiple of.
fn aligned(address: u64) -> u32 {
    (1 << address.trailing_zeros().min(MOST_ALIGNED.trailing_zeros())) as u32
}

impl Blas {
    /// `out = a · b + onto`, in one launch, with the sums of [`Blas::multiply`]. Whether it was done: not every library
    /// has such a product of all types and sizes.
    pub fn multiply_onto<R: Element, F: Element>(
        &self,
        product: Multiplied,
        tf32: bool,
        (a, b): (CudaView<'_, F>, CudaView<'_, F>),
        onto: Onto<'_, R>,
        out: &mut CudaViewMut<'_, R>,
    ) -> Result<bool> {
        let Multiplied { rows, inner, columns, .. } = product;
        self.own_all(product, (&a, &b), out)?;
        self.own("the row", &onto.row, columns)?;
        if let Some(matrix) = &onto.matrix {
            self.own("the matrix", matrix, rows * columns)?;
        }
        Call::new(product, (F::DTYPE, R::DTYPE), tf32)?;
        if rows * inner * columns == 0 {
            return Ok(false);
        }
        let matrix = onto.matrix.map_or(out.address(), |matrix| matrix.address());
        let aligned = [a.address(), b.address(), matrix, out.address()].map(aligned);
        let kind = Kind { product, factor: F::DTYPE, made: R::DTYPE, tf32, aligned };
        let (one, beta) = (Scalars::new(1.0), Scalars::new(f64::from(u8::from(onto.matrix.is_some()))));
        // In this order, as in `multiply`.
        let turn = self.device.stream()?;
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // One library takes the handle of the other.
        let library: cublasLtHandle_t = handle.blas.cast();
        if let Entry::Vacant(place) = handle.plans.0.entry(kind) {
            place.insert(kind.plan(library)?);
        }
        let Some(Some(plan)) = handle.plans.0.get(&kind) else { return Ok(false) };
        let at = Say::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        say(plan.product, at, &onto.row.address())?;
        // SAFETY: the handle is this device's, whose context is current; the views name live memory of the device as
        // large as the product needs, borrowed while this is asked for, and whatever is asked of the device later
        // comes after it, as does what works in the same scratch; the scalars are read by this call.
        let outcome = unsafe {
            result::matmul(
                library,
                plan.product,
                one.of(R::DTYPE),
                beta.of(R::DTYPE),
                b.address() as *const c_void,
                plan.b,
                a.address() as *const c_void,
                plan.a,
                matrix as *const c_void,
                plan.made,
                out.address() as *mut c_void,
                plan.made,
                &raw const plan.algorithm,
                self.workspace.pointer() as *mut c_void,
                WORKSPACE,
                turn.cast(),
            )
        };
        check("cublasLtMatmul", outcome)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_is_a_multiple_of_ends_where_the_library_does_not_care() {
        assert_eq!([0x7000, 0x7100, 0x7040, 0x7002, 0x7001].map(aligned), [256, 256, 64, 2, 1]);
    }
}
