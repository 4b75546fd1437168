//! Phase 10: models and meta-gradients on a device.

mod phase10;

use half::{bf16, f16};
use phase10::loops::{Bounds, against_the_fixture, against_the_host, path_by_steps, transformer};
use phase10::machines::{Named, checked_in_f64, fused, fused_in_f32, in_f32, in_f64, rounded};
use phase10::{bits, loops, narrow, operations, updates, wrong};
use theria_gpu_bwd::CudaRef;
use theria_gpu_fwd::{Architecture, Cuda, KernelSpec};
use theria_jvp_hvp::Opaque;
use theria_maml::Gpu;
use theria_maml::machine::Precision;
use theria_tests::device::DeviceSuite;
use theria_tests::evidence::Row;

fn kernels(architecture: Architecture) -> Vec<KernelSpec> {
    let mut all = theria_gpu_bwd::kernels(architecture);
    all.extend(theria_maml::machine::kernels());
    all
}

/// Attention in 16 bits beside products in f32, TF32 and bf16.
const PRODUCTS: [(Precision, &str, &str); 3] = [
    (Precision::F32, "bf16, products in f32", "f16, products in f32"),
    (Precision::Tf32, "bf16, products in TF32", "f16, products in TF32"),
    (Precision::Bf16, "bf16", "f16, products in bf16"),
];

/// Numbers between operations, where they are narrow and where they are not.
fn between(cuda: &Cuda) -> Vec<Row> {
    let mut rows = narrow::between_operations(&Named::F32, in_f32(cuda), false);
    for (precision, in_bf16, in_f16) in PRODUCTS {
        let narrow = precision == Precision::Bf16;
        let half = rounded::<bf16>(cuda, precision);
        rows.extend(narrow::between_operations(&Named::BF16.with(in_bf16), half, narrow));
        let half = rounded::<f16>(cuda, precision);
        rows.extend(narrow::between_operations(&Named::F16.with(in_f16), half, false));
    }
    rows
}

/// Operations in 16 bits: attention, and everything around it.
fn in_16_bits(cuda: &Cuda) -> Vec<Row> {
    let mut rows = Vec::new();
    for (precision, in_bf16, in_f16) in PRODUCTS {
        // What lies between operations is in bf16 where attention and products are: every operation is another one then.
        let narrow = precision == Precision::Bf16;
        let in_half = if narrow { operations::all } else { operations::attention };
        let all = operations::attention;
        let named = Named::BF16.with(in_bf16);
        rows.extend(operations::conform(&named, rounded::<bf16>(cuda, precision), in_half(), 2e-5));
        let named = Named::F16.with(in_f16);
        rows.extend(operations::conform(&named, rounded::<f16>(cuda, precision), all(), 2e-5));
    }
    rows
}

fn transformers(cuda: &Cuda) -> Vec<Row> {
    let expected = match loops::of_a_transformer() {
        Ok(expected) => expected,
        Err(error) => return Named::F64.rows("a transformer of the host", Err(error)),
    };
    let mut rows = transformer(&Named::F64, in_f64(cuda), &expected, 1e-12);
    rows.extend(transformer(&Named::F32, in_f32(cuda), &expected, Bounds::F32.plain));
    rows.extend(transformer(&Named::FUSED, fused_in_f32(cuda), &expected, Bounds::F32.plain));
    for (precision, in_bf16, in_f16) in PRODUCTS {
        let (of_bf16, of_f16) = (Named::BF16.with(in_bf16), Named::F16.with(in_f16));
        rows.extend(transformer(&of_bf16, rounded::<bf16>(cuda, precision), &expected, Bounds::HALF.plain));
        rows.extend(transformer(&of_f16, rounded::<f16>(cuda, precision), &expected, Bounds::HALF.plain));
    }
    rows
}

/// What a function of any machine says of those that a loop is gone on.
macro_rules! on_every_machine {
    ($function:path) => {
        |cuda: &Cuda| {
            let mut rows = $function(&Named::F64, in_f64(cuda), Bounds::F64);
            rows.extend($function(&Named::F32, in_f32(cuda), Bounds::F32));
            rows.extend($function(&Named::FUSED, fused_in_f32(cuda), Bounds::F32));
            let (half, name) = (rounded::<bf16>(cuda, Precision::F32), "bf16, products in f32");
            rows.extend($function(&Named::BF16.with(name), half, Bounds::HALF));
            let half = rounded::<bf16>(cuda, Precision::Bf16);
            rows.extend($function(&Named::BF16, half, Bounds::PRODUCTS));
            rows
        }
    };
}

fn optimisers(cuda: &Cuda) -> Vec<Row> {
    let expected = match updates::expected() {
        Ok(expected) => expected,
        Err(error) => return Named::F64.rows("optimisers of the host", Err(error)),
    };
    let mut rows = updates::optimisers(&Named::F64, in_f64(cuda), &expected, updates::IN_F64);
    rows.extend(updates::optimisers(&Named::F32, in_f32(cuda), &expected, updates::IN_F32));
    rows
}

fn wrong(cuda: &Cuda) -> Vec<Row> {
    let all = operations::all();
    let expected = operations::with_expected(all).and_then(|all| Ok((all, updates::expected()?)));
    match expected {
        Ok((operations, updates)) => {
            let narrow = || rounded::<bf16>(cuda, Precision::Bf16);
            wrong::noticed(&Named::F64, (|| in_f64(cuda), narrow), &operations, &updates)
        }
        Err(error) => Named::F64.rows("operations of the host", Err(error)),
    }
}

fn main() {
    DeviceSuite::new(10)
        .on_one_device()
        .compiling(kernels)
        .test("operations_in_f64", |cuda| {
            operations::conform(&Named::F64, in_f64(cuda), operations::all(), 0.0)
        })
        .test("operations_in_f32", |cuda| {
            operations::conform(&Named::F32, in_f32(cuda), operations::all(), 1e-9)
        })
        .test("operations_in_f32_by_a_split", |cuda| {
            operations::conform(&Named::FUSED, fused_in_f32(cuda), operations::attention(), 1e-9)
        })
        .test("operations_in_16_bits", in_16_bits)
        .test("between_operations", between)
        .test("loops_of_an_independent_system", on_every_machine!(against_the_fixture))
        .test("loops_of_the_host", on_every_machine!(against_the_host))
        .test("what_the_second_order_adds_by_steps", on_every_machine!(path_by_steps))
        .test("the_same_bits_in_f64", |cuda| {
            let opaque = Gpu::<_, f64>::new(Opaque::new(CudaRef::new(cuda.clone())));
            bits::statements(&Named::F64, in_f64(cuda), opaque)
        })
        .test("the_same_bits_in_f32", |cuda| {
            let opaque = Gpu::<_, f32>::new(Opaque::new(fused(cuda)));
            bits::statements(&Named::FUSED, fused_in_f32(cuda), opaque)
        })
        .test("the_same_bits_in_bf16", |cuda| {
            let opaque = Gpu::<_, f32, bf16>::new(Opaque::new(fused(cuda)));
            let opaque = opaque.map(|machine| machine.with_products(Precision::Bf16));
            bits::statements(&Named::BF16, rounded::<bf16>(cuda, Precision::Bf16), opaque)
        })
        .test("primitives", |cuda| {
            let mut rows = updates::primitives(&Named::F64, in_f64(cuda), 1e-14);
            rows.extend(updates::primitives(&Named::F32, in_f32(cuda), 1e-14));
            rows
        })
        .test("optimisers", optimisers)
        .test("checks", |cuda| bits::checked(&Named::F64, in_f64(cuda), checked_in_f64(cuda)))
        .test("other_products", |cuda| {
            let mut rows = Vec::new();
            for precision in [Precision::Tf32, Precision::Bf16] {
                rows.extend(bits::other_products(
                    &Named::FUSED.with(if precision == Precision::Tf32 { "TF32" } else { "bf16 products" }),
                    fused_in_f32(cuda),
                    |machine| machine.with_products(precision),
                    |machine| machine.with_products(Precision::F32),
                ));
            }
            rows
        })
        .test("transformers", transformers)
        .test("wrong_kernels_are_noticed", wrong)
        .run()
}
