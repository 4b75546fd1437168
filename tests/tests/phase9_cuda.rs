//! Phase 9: backward, JVP and second order on a device.

use half::{bf16, f16};
use theria_contract::{Precision, Problem, Rule};
use theria_gpu_bwd::{CudaFused, CudaRef, ONCE, WITHOUT_RESTS};
use theria_gpu_fwd::Cuda;
use theria_gpu_fwd::forward::Table;
use theria_jvp_hvp::Dense;
use theria_jvp_hvp::proof::Proof;
use theria_tests::by_host::ByHost;
use theria_tests::device::{DeviceSuite, conform, standard};
use theria_tests::proving::prove;
use theria_tests::{families, on_device, recorded_rules, wrong_kernels};

/// With the shipped choices: evidence speaks for what is shipped.
fn fused(cuda: &Cuda) -> CudaFused {
    CudaFused::new(cuda.clone()).with_table(Table::default()).with_sweeps(Table::default())
}

/// The same by portable kernels alone.
fn portable(cuda: &Cuda) -> CudaFused {
    fused(cuda).with_portable_kernels()
}

/// Head dimensions that there are kernels for Hopper for, of every rule.
const WIDTHS: [usize; 2] = [64, 128];

fn reference(cuda: &Cuda) -> CudaRef {
    CudaRef::new(cuda.clone())
}

fn main() {
    DeviceSuite::new(9)
        .compiling(theria_gpu_bwd::kernels)
        .test("reference_in_f64", |cuda| {
            conform::<f64, _, _>(&standard(None), &reference(cuda), &Dense::new())
        })
        .test("reference_in_f32", |cuda| {
            conform::<f32, _, _>(&standard(None), &reference(cuda), &Dense::new())
        })
        .test("reference_in_f16", |cuda| {
            conform::<f16, _, _>(&standard(None), &reference(cuda), &Dense::new())
        })
        .test("reference_in_bf16", |cuda| {
            conform::<bf16, _, _>(&standard(None), &reference(cuda), &Dense::new())
        })
        .test("every_proof_of_the_reference_in_f64", |cuda| {
            prove(&ByHost(reference(cuda)), &Dense::new(), &Proof::ALL)
        })
        .test("fused_in_f32_by_a_split", |cuda| {
            conform::<f32, _, _>(&standard(None), &fused(cuda), &Dense::new())
        })
        .test("fused_in_f32_by_tf32", |cuda| {
            let backend = fused(cuda).with_tf32();
            conform::<f32, _, _>(&standard(Some(Precision::Tf32)), &backend, &Dense::new())
        })
        .test("fused_in_f16", |cuda| conform::<f16, _, _>(&standard(None), &fused(cuda), &Dense::new()))
        .test("fused_in_bf16", |cuda| conform::<bf16, _, _>(&standard(None), &fused(cuda), &Dense::new()))
        .test("portable_in_f16", |cuda| conform::<f16, _, _>(&standard(None), &portable(cuda), &Dense::new()))
        .test("portable_in_bf16", |cuda| {
            conform::<bf16, _, _>(&standard(None), &portable(cuda), &Dense::new())
        })
        .test("kernels_for_hopper_serve_what_they_are_for", |cuda| {
            let backend = fused(cuda);
            let of_all = |problem: &Problem| {
                Rule::ALL.into_iter().flat_map(|rule| backend.kernels(problem, rule)).collect()
            };
            families::serves(of_all, &WIDTHS, "cuda-fused")
        })
        .test("what_hopper_serves_in_bf16", |cuda| {
            families::what_hopper_serves::<bf16, _, _>(&fused(cuda), &ByHost(reference(cuda)), &WIDTHS)
        })
        .test("what_hopper_serves_in_f16", |cuda| {
            families::what_hopper_serves::<f16, _, _>(&fused(cuda), &ByHost(reference(cuda)), &WIDTHS)
        })
        .test("what_hopper_serves_by_portable_kernels", |cuda| {
            families::what_hopper_serves::<bf16, _, _>(&portable(cuda), &ByHost(reference(cuda)), &WIDTHS)
        })
        .test("both_families_are_alike", |cuda| {
            families::alike::<bf16, _>(cuda, &fused(cuda), &portable(cuda), Precision::Bf16)
        })
        .test("random_problems_in_f64_by_the_reference", |cuda| {
            on_device::random_problems::<f64, _, _>(&reference(cuda), &Dense::new(), None)
        })
        .test("random_problems_in_f32", |cuda| {
            on_device::random_problems::<f32, _, _>(&fused(cuda), &Dense::new(), None)
        })
        .test("random_problems_in_bf16", |cuda| {
            on_device::random_problems::<bf16, _, _>(&fused(cuda), &Dense::new(), None)
        })
        .test("every_room_in_bf16", |cuda| {
            on_device::every_room_by_every_rule::<bf16, _, _>(&fused(cuda), &ByHost(reference(cuda)))
        })
        .test("every_room_in_f16", |cuda| {
            on_device::every_room_by_every_rule::<f16, _, _>(&fused(cuda), &ByHost(reference(cuda)))
        })
        .test("every_room_in_f32_by_a_split", |cuda| {
            on_device::every_room_by_every_rule::<f32, _, _>(&fused(cuda), &ByHost(reference(cuda)))
        })
        .test("long_sequences", |cuda| {
            let oracle = ByHost(reference(cuda));
            on_device::long::<bf16, _, _>(&fused(cuda), &oracle, on_device::long_for_every_rule())
        })
        .test("every_time_the_same_bits_in_bf16", |cuda| {
            recorded_rules::same_bits::<bf16, _>(cuda, &fused(cuda))
        })
        .test("every_time_the_same_bits_in_bf16_by_portable_kernels", |cuda| {
            recorded_rules::same_bits::<bf16, _>(cuda, &portable(cuda))
        })
        .test("every_time_the_same_bits_in_f32", |cuda| {
            recorded_rules::same_bits::<f32, _>(cuda, &fused(cuda))
        })
        .test("every_time_the_same_bits_in_f64_by_the_reference", |cuda| {
            recorded_rules::same_bits::<f64, _>(cuda, &reference(cuda))
        })
        .test("what_rounding_took_makes_one_sweep_enough", |cuda| {
            let once = || portable(cuda).with_edit(ONCE);
            let without_rests = once().with_edit_of_statistics(WITHOUT_RESTS);
            wrong_kernels::rests_are_needed(&once(), &without_rests, &Dense::new())
        })
        .test("wrong_sweeps_are_noticed", |cuda| {
            let wrong = |edit| portable(cuda).with_edit(edit);
            wrong_kernels::noticed_sweeps(&portable(cuda), wrong, &ByHost(reference(cuda)))
        })
        .test("wrong_sweeps_for_hopper_are_noticed", |cuda| {
            let wrong = |edit| fused(cuda).with_edit(edit);
            wrong_kernels::noticed_sweeps_on_hopper(&fused(cuda), wrong, &ByHost(reference(cuda)))
        })
        .run()
}
