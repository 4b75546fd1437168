//! Phase 8: one kernel, one sweep over the keys, nothing of size T×M.

use half::{bf16, f16};
use theria_contract::Precision;
use theria_gpu_fwd::Cuda;
use theria_gpu_fwd::forward::{CudaFused, CudaRef, Load, Table};
use theria_jvp_hvp::Dense;
use theria_tests::by_host::ByHost;
use theria_tests::device::{DeviceSuite, conform, standard};
use theria_tests::{families, on_device, wrong_kernels};

/// With the shipped choices: evidence speaks for what is shipped.
fn fused(cuda: &Cuda) -> CudaFused {
    CudaFused::new(cuda.clone()).with_table(Table::default())
}

/// The same by portable kernels alone.
fn portable(cuda: &Cuda) -> CudaFused {
    fused(cuda).with_portable_kernels()
}

/// Head dimensions that there are kernels for Hopper for.
const WIDTHS: [usize; 3] = [64, 128, 256];

fn main() {
    DeviceSuite::new(8)
        .compiling(theria_gpu_fwd::forward::kernels)
        .test("the_suite_in_f64_is_refused", |cuda| {
            conform::<f64, _, _>(&standard(None), &fused(cuda), &Dense::new())
        })
        .test("the_suite_in_f32_by_a_split", |cuda| {
            conform::<f32, _, _>(&standard(None), &fused(cuda), &Dense::new())
        })
        .test("the_suite_in_f32_by_tf32", |cuda| {
            let backend = fused(cuda).with_tf32();
            conform::<f32, _, _>(&standard(Some(Precision::Tf32)), &backend, &Dense::new())
        })
        .test("the_suite_in_f16", |cuda| conform::<f16, _, _>(&standard(None), &fused(cuda), &Dense::new()))
        .test("the_suite_in_bf16", |cuda| conform::<bf16, _, _>(&standard(None), &fused(cuda), &Dense::new()))
        .test("the_suite_in_f16_by_portable_kernels", |cuda| {
            conform::<f16, _, _>(&standard(None), &portable(cuda), &Dense::new())
        })
        .test("the_suite_in_bf16_by_portable_kernels", |cuda| {
            conform::<bf16, _, _>(&standard(None), &portable(cuda), &Dense::new())
        })
        .test("kernels_for_hopper_serve_what_they_are_for", |cuda| {
            let backend = fused(cuda);
            families::serves(|problem| backend.kernel(problem).into_iter().collect(), &WIDTHS, "cuda-fused")
        })
        .test("what_hopper_serves_in_bf16", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            families::what_hopper_serves::<bf16, _, _>(&fused(cuda), &oracle, &WIDTHS)
        })
        .test("what_hopper_serves_in_f16", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            families::what_hopper_serves::<f16, _, _>(&fused(cuda), &oracle, &WIDTHS)
        })
        .test("what_hopper_serves_by_portable_kernels", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            families::what_hopper_serves::<bf16, _, _>(&portable(cuda), &oracle, &WIDTHS)
        })
        .test("both_families_are_alike", |cuda| {
            families::alike::<bf16, _>(cuda, &fused(cuda), &portable(cuda), Precision::Bf16)
        })
        .test("random_problems_in_f32", |cuda| {
            on_device::random_problems::<f32, _, _>(&fused(cuda), &Dense::new(), None)
        })
        .test("random_problems_in_bf16", |cuda| {
            on_device::random_problems::<bf16, _, _>(&fused(cuda), &Dense::new(), None)
        })
        .test("every_room_in_bf16", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            on_device::every_room::<bf16, _, _>(&fused(cuda), &oracle, &Load::ALL, None)
        })
        .test("every_room_in_bf16_by_portable_kernels", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            on_device::every_room::<bf16, _, _>(&portable(cuda), &oracle, &Load::ALL, None)
        })
        .test("every_room_in_f16", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            on_device::every_room::<f16, _, _>(&fused(cuda), &oracle, &Load::ALL, None)
        })
        .test("every_room_in_f32_by_a_split", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            on_device::every_room::<f32, _, _>(&fused(cuda), &oracle, &Load::ALL, None)
        })
        .test("every_room_in_f32_by_tf32", |cuda| {
            let (backend, oracle) = (fused(cuda).with_tf32(), ByHost(CudaRef::new(cuda.clone())));
            on_device::every_room::<f32, _, _>(&backend, &oracle, &[Load::Few], Some(Precision::Tf32))
        })
        .test("long_sequences", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            on_device::long::<bf16, _, _>(&fused(cuda), &oracle, on_device::long_for_a_forward())
        })
        .test("a_recorded_call_gives_the_same_bits", |cuda| {
            on_device::recorded::<bf16, _>(cuda, &fused(cuda))
        })
        .test("and_by_portable_kernels", |cuda| on_device::recorded::<bf16, _>(cuda, &portable(cuda)))
        .test("operands_that_are_lost_give_nan_and_not_zero", |cuda| {
            on_device::overflow::<f32, _>(cuda, &fused(cuda))
        })
        .test("and_in_bf16", |cuda| on_device::overflow::<bf16, _>(cuda, &fused(cuda)))
        .test("and_in_bf16_by_portable_kernels", |cuda| on_device::overflow::<bf16, _>(cuda, &portable(cuda)))
        .test("wrong_kernels_are_noticed", |cuda| {
            let wrong = |edit| portable(cuda).with_edit(edit);
            wrong_kernels::noticed(&portable(cuda), wrong, &Dense::new())
        })
        .test("wrong_kernels_for_hopper_are_noticed", |cuda| {
            let wrong = |edit| fused(cuda).with_edit(edit);
            wrong_kernels::noticed_on_hopper(&fused(cuda), wrong, &Dense::new())
        })
        .run()
}
