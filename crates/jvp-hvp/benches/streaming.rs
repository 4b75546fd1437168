//! The four rules of the CPU backends, in floating-point operations per second.
//!
//! `cargo bench -p theria-jvp-hvp` runs it on all cores; `RAYON_NUM_THREADS=1` on one. Criterion's
//! `elem/s` are floating-point operations per second: 2 units forward, 5 backward, 6 for the JVP and 10
//! for the second order, one unit being `2 · B · H · T · M · D`, and half of that under a causal mask.

#[path = "../examples/bench_rows/call.rs"]
#[allow(dead_code)] // the example calls more of it
mod call;

use std::time::Duration;

use call::{Operands, Results, ScorePolicy};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use theria_contract::{Attention, Element, Host};
use theria_jvp_hvp::{Dense, Streaming};

/// `[B, H, T, D]`: a medium and a long sequence, and a vision transformer.
const SHAPES: [[usize; 4]; 3] = [[1, 8, 1024, 64], [1, 8, 2048, 64], [8, 12, 197, 64]];
const SMALL: [usize; 4] = [1, 4, 256, 64];

fn all(criterion: &mut Criterion) {
    for shape in SHAPES {
        rules::<f32, _>(criterion, &Streaming::new(), shape, "none");
    }
    let medium = SHAPES[0];
    for (policy, _) in &ScorePolicy::NAMES[1..] {
        rules::<f32, _>(criterion, &Streaming::new(), medium, policy);
    }
    rules::<f64, _>(criterion, &Streaming::new(), medium, "none");
    rules::<f32, _>(criterion, &Streaming::new(), SMALL, "none");
    rules::<f32, _>(criterion, &Dense::new(), SMALL, "none");
}

/// Every rule into memory that exists, forward and backward also into new memory.
fn rules<E: Element, B: Attention<E, Storage = Host>>(
    criterion: &mut Criterion,
    backend: &B,
    shape: [usize; 4],
    policy: &str,
) {
    let (_, score_policy) = ScorePolicy::NAMES[..]
        .iter()
        .copied()
        .find(|(name, _)| *name == policy)
        .expect("a policy of the table");
    let operands = Operands::<E>::random(score_policy.problem::<E>(shape).expect("a valid problem"));
    let operands = operands.expect("operands that fit in memory");
    let mut results = Results::new(backend, &operands.problem).expect("results that fit in memory");
    let unit = operands.problem.shape().unit_flops() * score_policy.share();

    let [b, h, t, d] = shape;
    let mut group =
        criterion.benchmark_group(format!("{}/{}/{policy}/{b}x{h}x{t}x{d}", backend.name(), E::DTYPE));
    group.throughput(Throughput::Elements((2.0 * unit) as u64));
    group.bench_function("forward_into", |bencher| {
        bencher.iter(|| results.forward_into(backend, &operands).expect("the backend supports the rule"));
    });
    group.bench_function("forward", |bencher| {
        bencher.iter(|| results.forward(backend, &operands).expect("the backend supports the rule"));
    });
    results.forward_into(backend, &operands).expect("the backend supports the rule");
    group.throughput(Throughput::Elements((5.0 * unit) as u64));
    group.bench_function("backward_into", |bencher| {
        bencher.iter(|| results.backward_into(backend, &operands).expect("the backend supports the rule"));
    });
    group.bench_function("backward", |bencher| {
        bencher.iter(|| results.backward(backend, &operands).expect("the backend supports the rule"));
    });
    group.throughput(Throughput::Elements((6.0 * unit) as u64));
    group.bench_function("jvp_into", |bencher| {
        bencher.iter(|| results.jvp_into(backend, &operands).expect("the backend supports the rule"));
    });
    group.throughput(Throughput::Elements((10.0 * unit) as u64));
    group.bench_function("second_order_into", |bencher| {
        let mut call = || results.second_order_into(backend, &operands, false, false);
        bencher.iter(|| call().expect("the backend supports the rule"));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = all
}
criterion_main!(benches);
