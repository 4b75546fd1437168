//! Phase 7: scores and softmax in one kernel, the values in another, on tensor cores.

use half::{bf16, f16};
use theria_contract::Precision;
use theria_gpu_fwd::forward::{CudaFast, CudaRef, Load};
use theria_jvp_hvp::Dense;
use theria_tests::by_host::ByHost;
use theria_tests::device::{DeviceSuite, conform, standard};
use theria_tests::on_device;

fn main() {
    DeviceSuite::new(7)
        .compiling(theria_gpu_fwd::forward::kernels)
        .test("the_suite_in_f64_is_refused", |cuda| {
            conform::<f64, _, _>(&standard(None), &CudaFast::new(cuda.clone()), &Dense::new())
        })
        .test("the_suite_in_f32_by_a_split", |cuda| {
            conform::<f32, _, _>(&standard(None), &CudaFast::new(cuda.clone()), &Dense::new())
        })
        .test("the_suite_in_f32_by_tf32", |cuda| {
            let backend = CudaFast::new(cuda.clone()).with_tf32();
            conform::<f32, _, _>(&standard(Some(Precision::Tf32)), &backend, &Dense::new())
        })
        .test("the_suite_in_f16", |cuda| {
            conform::<f16, _, _>(&standard(None), &CudaFast::new(cuda.clone()), &Dense::new())
        })
        .test("the_suite_in_bf16", |cuda| {
            conform::<bf16, _, _>(&standard(None), &CudaFast::new(cuda.clone()), &Dense::new())
        })
        .test("random_problems_in_f16", |cuda| {
            on_device::random_problems::<f16, _, _>(&CudaFast::new(cuda.clone()), &Dense::new(), None)
        })
        .test("every_room_in_bf16", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            on_device::every_room::<bf16, _, _>(&CudaFast::new(cuda.clone()), &oracle, &Load::ALL, None)
        })
        .test("every_room_in_f32", |cuda| {
            let oracle = ByHost(CudaRef::new(cuda.clone()));
            on_device::every_room::<f32, _, _>(&CudaFast::new(cuda.clone()), &oracle, &Load::ALL, None)
        })
        .test("a_recorded_call_gives_the_same_bits", |cuda| {
            on_device::recorded::<f16, _>(cuda, &CudaFast::new(cuda.clone()))
        })
        .test("operands_that_are_lost_give_nan_and_not_zero", |cuda| {
            on_device::overflow::<f32, _>(cuda, &CudaFast::new(cuda.clone()))
        })
        .run()
}
