//! Phase 6: the reference on the device is the textbook, in every type and with every feature.

use half::{bf16, f16};
use theria_gpu_fwd::forward::CudaRef;
use theria_jvp_hvp::Dense;
use theria_tests::device::{DeviceSuite, conform, standard};
use theria_tests::on_device;

fn main() {
    DeviceSuite::new(6)
        .test("the_suite_in_f64", |cuda| {
            conform::<f64, _, _>(&standard(None), &CudaRef::new(cuda.clone()), &Dense::new())
        })
        .test("the_suite_in_f32", |cuda| {
            conform::<f32, _, _>(&standard(None), &CudaRef::new(cuda.clone()), &Dense::new())
        })
        .test("the_suite_in_f16", |cuda| {
            conform::<f16, _, _>(&standard(None), &CudaRef::new(cuda.clone()), &Dense::new())
        })
        .test("the_suite_in_bf16", |cuda| {
            conform::<bf16, _, _>(&standard(None), &CudaRef::new(cuda.clone()), &Dense::new())
        })
        .test("random_problems_in_f64", |cuda| {
            on_device::random_problems::<f64, _, _>(&CudaRef::new(cuda.clone()), &Dense::new(), None)
        })
        .test("a_recorded_call_gives_the_same_bits", |cuda| {
            on_device::recorded::<f64, _>(cuda, &CudaRef::new(cuda.clone()))
        })
        .test("operands_that_are_lost_give_nan_and_not_zero", |cuda| {
            on_device::overflow::<f32, _>(cuda, &CudaRef::new(cuda.clone()))
        })
        .run()
}
