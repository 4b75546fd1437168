//! What the suites of the modes on a device have in common.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use theria_contract::conformance::{Amplitude, Case, MaskPattern, Suite};
use theria_contract::{
    Attention, Causal, DType, Element, Host, Inputs, Layout, Precision, Primal, Problem, ProblemBuilder,
    Rule, Saved, SavedTensor, Storage, Tensor, Window, saved_mut,
};
use theria_gpu_fwd::Cuda;

use crate::device::{conform, short};
use crate::evidence::Row;
use crate::problems::any_case;

/// The same random problems in every run: combinations of features that no list has.
///
/// # Panics
/// If a problem cannot be made or called.
pub fn random_problems<E, B, O>(backend: &B, oracle: &O, precision: Option<Precision>) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    let mut runner = TestRunner::deterministic();
    let any = any_case(40);
    let mut worst: Option<Row> = None;
    let mut judged = 0;
    let mut failed = Vec::new();
    for _ in 0..if short() { 2 } else { 60 } {
        let case = any.new_tree(&mut runner).expect("a random problem").current();
        let problem = format!("{:?}", case.problem);
        let suite = Suite { cases: vec![case], precision };
        for row in conform::<E, _, _>(&suite, backend, oracle) {
            judged += usize::from(row.verdict == "passed");
            if row.verdict == "failed" {
                failed.push(Row { reason: format!("{} of {problem}", row.reason), ..row });
            } else if row.verdict == "passed" && worst.as_ref().is_none_or(|worst| row.error > worst.error) {
                worst = Some(row);
            }
        }
    }
    assert!(judged > 0, "no random problem was judged");
    if failed.is_empty() {
        failed.extend(worst.map(|row| Row { name: format!("{judged} random problems, the worst"), ..row }));
    }
    failed
}

pub(crate) fn sized(
    batch: usize,
    heads: [usize; 2],
    t: usize,
    m: usize,
    d: usize,
    dv: usize,
) -> ProblemBuilder {
    Problem::builder(DType::F64).batch(batch).heads(heads[0], heads[1]).lengths(t, m).head_dims(d, dv)
}

pub(crate) fn named(name: String, builder: ProblemBuilder) -> Case {
    // Names of cases live as long as the process, as those of the standard list do.
    Case::new(Box::leak(name.into_boxed_str()), builder.build().expect("a valid problem"))
}

/// A problem for every room of head dimensions, every kind of mask, and every load of the device: together
/// they reach every instance of the dispatch table.
pub fn every_room<E, B, O>(backend: &B, oracle: &O, precision: Option<Precision>) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    let mut cases = Vec::new();
    let dims =
        [(16, 16), (32, 24), (64, 64), (80, 80), (96, 64), (128, 128), (104, 128), (192, 128), (200, 256)];
    let dims = if short() { &dims[2..3] } else { &dims[..] };
    for &(d, dv) in dims {
        // Few queries; enough of them to fill the device with the largest blocks, with few keys and with many.
        let loads = [(1, [2, 1], 150, 300), (6, [16, 8], 260, 200), (6, [16, 8], 260, 530)];
        // Kernels by TF32 are the same for all loads, and the largest of fifty times as many errors is that
        // much further out in the tail of roundings.
        let few = short() || precision == Some(Precision::Tf32);
        for (batch, heads, t, m) in if few { &loads[..1] } else { &loads[..] }.iter().copied() {
            let name = |what: &str| format!("{what}, {batch}×{} heads of {t}×{m}, D {d}, Dv {dv}", heads[0]);
            let plain = || sized(batch, heads, t, m, d, dv);
            let lengths: Vec<i32> = (0..batch).map(|b| (m * (b + 1) / batch) as i32).collect();
            cases.push(named(name("plain"), plain()));
            cases.push(Case {
                key_lengths: lengths.clone(),
                ..named(name("key lengths"), plain().key_lengths())
            });
            cases.push(named(name("causal"), plain().causal(Causal::BottomRight)));
            cases.push(named(name("window"), plain().window(Window::new(70, 33))));
            let everything = plain()
                .causal(Causal::BottomRight)
                .bias([1, heads[0], t, m])
                .mask([batch, 1, 1, m])
                .key_lengths()
                .dropout(0.2, 5);
            let mask = MaskPattern::Random;
            cases.push(Case { key_lengths: lengths, mask, ..named(name("everything"), everything) });
            // Maxima that come late and rise by far more than a trusted reference bears.
            let rising = |name, builder: ProblemBuilder| Case {
                amplitude: Amplitude::Rising,
                ..named(name, builder.scale(1.0))
            };
            cases.push(rising(name("rising"), plain()));
            cases.push(rising(name("rising, causal"), plain().causal(Causal::BottomRight)));
            let padded = named(name("padding hidden by the lowest number"), plain().bias([1, 1, 1, m]));
            cases.push(Case { lowest_keys: m / 2, ..padded });
        }
    }
    // Rows that are no whole vectors, in rooms where threads have no whole number of rows.
    for (d, dv) in [(13, 7), (81, 83), (127, 129), (191, 190), (250, 251)] {
        let plain = sized(2, [2, 1], 70, 90, d, dv);
        cases.push(named(format!("no whole vectors, D {d}, Dv {dv}"), plain.causal(Causal::TopLeft)));
        if short() {
            break;
        }
    }
    conform::<E, _, _>(&Suite { cases, precision }, backend, oracle)
}

/// Sequences so long that a matrix of scores would not be held.
pub fn long<E, B, O>(backend: &B, oracle: &O) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    if short() {
        return Vec::new();
    }
    let cases = vec![
        named(
            "65536 queries and keys, causal".into(),
            sized(1, [1, 1], 65_536, 65_536, 64, 64).causal(Causal::TopLeft),
        ),
        named("one query, 100000 keys".into(), sized(2, [4, 2], 1, 100_000, 128, 128)),
        named("100000 queries, one key".into(), sized(1, [2, 2], 100_000, 1, 64, 64)),
    ];
    conform::<E, _, _>(&Suite { cases, precision: None }, backend, oracle)
}

/// A call that is recorded and replayed gives the bits that it gives when it is made.
///
/// # Panics
/// If a problem cannot be made or called.
pub fn recorded<E, B>(cuda: &Cuda, backend: &B) -> Vec<Row>
where
    E: Element,
    B: Attention<E, Storage = Cuda>,
{
    let problem = sized(2, [4, 2], 200, 170, 64, 64).causal(Causal::BottomRight).build().expect("a problem");
    let problem = problem.with_dtype(E::DTYPE);
    let shape = problem.shape();
    let tensor = |shape, tag: usize| {
        let element = |[b, h, i, c]: [usize; 4]| {
            E::from_f64(((b * 31 + h * 17 + i * 7 + c * 3 + tag * 5) % 23) as f64 / 11.0 - 1.0)
        };
        cuda.upload(&Tensor::from_fn(shape, element).expect("a tensor")).expect("memory")
    };
    let (q, k, v) = (tensor(shape.q(), 0), tensor(shape.k(), 1), tensor(shape.v(), 2));
    let inputs = Inputs::<Cuda, E>::new(Cuda::view(&q), Cuda::view(&k), Cuda::view(&v));
    let mut workspace = cuda.workspace(backend.workspace_bytes(&problem, Rule::Forward)).expect("memory");
    let mut saved = poisoned::<E>(cuda, &problem);
    let mut call = |saved: &mut SavedTensor<Cuda, E>| {
        backend.forward_into(&problem, Primal(&inputs), Primal(saved_mut::<Cuda, E>(saved)), &mut workspace)
    };
    call(&mut saved).expect("a call");
    let made = bytes::<E>(cuda, &saved);

    let mut replayed = poisoned::<E>(cuda, &problem);
    let times = cuda.device().time_replays(2, 1, |_| call(&mut replayed)).expect("a recording");
    assert_eq!(times.expect("a call").len(), 2);
    let same = bytes::<E>(cuda, &replayed) == made;
    // What was never called is not the same, so the comparison could fail.
    let poison = bytes::<E>(cuda, &poisoned::<E>(cuda, &problem)) != made;
    let row = |name: &str, holds| Row::statement(name, "forward", backend.name(), E::DTYPE.name(), holds, "");
    vec![row("replays give the bits of a call", same), row("and poison does not", poison)]
}

/// Scores beyond the largest number of their type: nobody knows the row, and it says so.
///
/// # Panics
/// If a problem cannot be made or called.
pub fn overflow<E, B>(cuda: &Cuda, backend: &B) -> Vec<Row>
where
    E: Element,
    B: Attention<E, Storage = Cuda>,
{
    let problem = sized(1, [1, 1], 40, 40, 64, 64).causal(Causal::TopLeft).build().expect("a problem");
    let problem = problem.with_dtype(E::DTYPE);
    let shape = problem.shape();
    let upload = |shape, element: &dyn Fn([usize; 4]) -> f64| {
        cuda.upload(&Tensor::from_fn(shape, |at| E::from_f64(element(at))).expect("a tensor"))
            .expect("memory")
    };
    // Every product of row 7 is -1e40.
    let q = upload(shape.q(), &|at| if at[2] == 7 { -1e20 } else { 0.01 });
    let k = upload(shape.k(), &|_| 1e20);
    let v = upload(shape.v(), &|_| 1.0);
    let inputs = Inputs::<Cuda, E>::new(Cuda::view(&q), Cuda::view(&k), Cuda::view(&v));
    let Primal(made) = backend.forward(&problem, Primal(&inputs)).expect("a call");
    let out = cuda.download(Cuda::view(&made.output)).expect("memory");
    let lse = cuda.download(Cuda::view(&made.lse)).expect("memory");
    let lost = (0..shape.dv).all(|c| out.at([0, 0, 7, c]).to_f64().is_nan())
        && lse.at([0, 0, 7, 0]).to_f64().is_nan();
    let others = (0..shape.t).filter(|i| *i != 7).all(|i| (out.at([0, 0, i, 0]).to_f64() - 1.0).abs() < 1e-2);
    let row = |name: &str, holds| Row::statement(name, "forward", backend.name(), E::DTYPE.name(), holds, "");
    vec![row("a row of overflowed scores is NaN", lost), row("and no other row is", others)]
}

fn poisoned<E: Element>(cuda: &Cuda, problem: &Problem) -> SavedTensor<Cuda, E> {
    let shape = problem.shape();
    let nan = |shape: [usize; 4]| Layout::contiguous(shape).expect("a layout");
    let output = vec![E::from_f64(f64::NAN); nan(shape.output()).span()];
    let lse = vec![E::Acc::from_f64(f64::NAN); nan(shape.rows()).span()];
    Saved {
        output: cuda.upload(&Tensor::from_vec(output, shape.output()).expect("a tensor")).expect("memory"),
        lse: cuda.upload(&Tensor::from_vec(lse, shape.rows()).expect("a tensor")).expect("memory"),
    }
}

fn bytes<E: Element>(cuda: &Cuda, saved: &SavedTensor<Cuda, E>) -> Vec<u8> {
    let mut all = cuda.download(Cuda::view(&saved.output)).expect("memory").bytes().to_vec();
    all.extend_from_slice(cuda.download(Cuda::view(&saved.lse)).expect("memory").bytes());
    all
}
