//! What the suites of the modes on a device have in common.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use theria_contract::conformance::{Amplitude, Case, MaskPattern, Suite};
use theria_contract::{
    Attention, Causal, DType, Element, Host, Inputs, Precision, Primal, Problem, ProblemBuilder, Rule, Saved,
    SavedTensor, Storage, Tensor, Window, saved_mut,
};
use theria_gpu_fwd::forward::Load;
use theria_gpu_fwd::{Cuda, CudaTensor};

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

/// Head dimensions for every room.
const ROOMY: [(usize, usize); 9] =
    [(16, 16), (32, 24), (64, 64), (80, 80), (96, 64), (128, 128), (104, 128), (192, 128), (200, 256)];

/// A problem for every room of head dimensions, every kind of mask, and these loads of the device: with all of them
/// they reach every instance of the dispatch table.
pub fn every_room<E, B, O>(backend: &B, oracle: &O, loads: &[Load], precision: Option<Precision>) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    let mut cases = Vec::new();
    for dims in if short() { &ROOMY[2..3] } else { &ROOMY[..] } {
        for load in if short() { &[Load::Few] } else { loads } {
            cases.extend(in_a_room(*dims, *load));
        }
    }
    cases.extend(no_whole_vectors());
    conform::<E, _, _>(&Suite { cases, precision }, backend, oracle)
}

/// The same for all rules: every problem where there are few queries, and where the device is filled one for each room
/// and each masking, which is what tilings depend on.
pub fn every_room_by_every_rule<E, B, O>(backend: &B, oracle: &O) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    let mut cases = Vec::new();
    for dims in if short() { &ROOMY[2..3] } else { &ROOMY[..] } {
        cases.extend(in_a_room(*dims, Load::Few));
    }
    cases.extend(no_whole_vectors());
    if !short() {
        for dims in [(32, 24), (64, 64), (96, 64), (128, 128), (192, 128), (200, 256)] {
            let each = ["plain,", "causal,", "everything,"];
            let full = in_a_room(dims, Load::Short).into_iter();
            cases.extend(full.filter(|case| each.iter().any(|start| case.name.starts_with(start))));
        }
    }
    conform::<E, _, _>(&Suite { cases, precision: None }, backend, oracle)
}

/// Every kind of mask, in a room.
fn in_a_room((d, dv): (usize, usize), load: Load) -> Vec<Case> {
    // Few queries; enough of them to fill the device with the largest blocks, with few keys and with many.
    let (batch, heads, t, m) = match load {
        Load::Few => (1, [2, 1], 150, 300),
        Load::Short => (6, [16, 8], 260, 200),
        Load::Long => (6, [16, 8], 260, 530),
    };
    let name = |what: &str| format!("{what}, {batch}×{} heads of {t}×{m}, D {d}, Dv {dv}", heads[0]);
    let plain = || sized(batch, heads, t, m, d, dv);
    let lengths: Vec<i32> = (0..batch).map(|b| (m * (b + 1) / batch) as i32).collect();
    let everything = plain()
        .causal(Causal::BottomRight)
        .bias([1, heads[0], t, m])
        .mask([batch, 1, 1, m])
        .key_lengths()
        .dropout(0.2, 5);
    // Maxima that come late and rise by far more than a trusted reference bears.
    let rising = |name, builder: ProblemBuilder| Case {
        amplitude: Amplitude::Rising,
        ..named(name, builder.scale(1.0))
    };
    let padded = named(name("padding hidden by the lowest number"), plain().bias([1, 1, 1, m]));
    vec![
        named(name("plain"), plain()),
        Case { key_lengths: lengths.clone(), ..named(name("key lengths"), plain().key_lengths()) },
        named(name("causal"), plain().causal(Causal::BottomRight)),
        named(name("window"), plain().window(Window::new(70, 33))),
        Case { key_lengths: lengths, mask: MaskPattern::Random, ..named(name("everything"), everything) },
        rising(name("rising"), plain()),
        rising(name("rising, causal"), plain().causal(Causal::BottomRight)),
        Case { lowest_keys: m / 2, ..padded },
    ]
}

/// Rows that are no whole vectors, in rooms where threads have no whole number of rows.
fn no_whole_vectors() -> Vec<Case> {
    let dims = [(13, 7), (81, 83), (127, 129), (191, 190), (250, 251)];
    let case = |(d, dv)| {
        let plain = sized(2, [2, 1], 70, 90, d, dv);
        named(format!("no whole vectors, D {d}, Dv {dv}"), plain.causal(Causal::TopLeft))
    };
    dims.into_iter().take(if short() { 1 } else { dims.len() }).map(case).collect()
}

/// Sequences so long that a matrix of scores would not be held.
pub fn long<E, B, O>(backend: &B, oracle: &O, cases: [Case; 3]) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    if short() {
        return Vec::new();
    }
    conform::<E, _, _>(&Suite { cases: cases.into(), precision: None }, backend, oracle)
}

/// Those for a forward.
pub fn long_for_a_forward() -> [Case; 3] {
    let causal = sized(1, [1, 1], 65_536, 65_536, 64, 64).causal(Causal::TopLeft);
    [
        named("65536 queries and keys, causal".into(), causal),
        named("one query, 100000 keys".into(), sized(2, [4, 2], 1, 100_000, 128, 128)),
        named("100000 queries, one key".into(), sized(1, [2, 2], 100_000, 1, 64, 64)),
    ]
}

/// Those for all rules, of which each has many outputs: with a window, and narrower.
pub fn long_for_every_rule() -> [Case; 3] {
    let window = Window { left: Some(2047), right: None };
    let causal = sized(1, [1, 1], 65_536, 65_536, 32, 32).causal(Causal::TopLeft).window(window);
    [
        named("65536 queries and keys, causal, the last 2048 keys".into(), causal),
        named("one query, 100000 keys".into(), sized(1, [2, 1], 1, 100_000, 32, 32)),
        named("100000 queries, one key".into(), sized(1, [2, 1], 100_000, 1, 32, 32)),
    ]
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
    let mut saved = poisoned::<E, B>(cuda, backend, &problem);
    let mut call = |saved: &mut SavedTensor<Cuda, E>| {
        backend.forward_into(&problem, Primal(&inputs), Primal(saved_mut::<Cuda, E>(saved)), &mut workspace)
    };
    call(&mut saved).expect("a call");
    let made = bytes::<E>(cuda, &saved);

    let mut replayed = poisoned::<E, B>(cuda, backend, &problem);
    let times = cuda.device().time_replays(2, 1, |_| call(&mut replayed)).expect("a recording");
    assert_eq!(times.expect("a call").len(), 2);
    let same = bytes::<E>(cuda, &replayed) == made;
    // What was never called is not the same, so the comparison could fail.
    let poison = bytes::<E>(cuda, &poisoned::<E, B>(cuda, backend, &problem)) != made;
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

/// Memory for what a forward or a JVP makes, NaN until it does.
pub(crate) fn poisoned<E, B>(cuda: &Cuda, backend: &B, problem: &Problem) -> SavedTensor<Cuda, E>
where
    E: Element,
    B: Attention<E, Storage = Cuda>,
{
    fn nan<T: Element>(cuda: &Cuda, shape: [usize; 4]) -> CudaTensor<T> {
        let tensor = Tensor::from_fn(shape, |_| T::from_f64(f64::NAN)).expect("a tensor");
        cuda.upload(&tensor).expect("memory")
    }
    let shape = problem.shape();
    Saved {
        output: nan(cuda, shape.output()),
        lse: nan(cuda, shape.rows()),
        rest: backend.keeps_rest(problem).then(|| nan(cuda, shape.output())),
    }
}

/// What was made, bit by bit.
pub(crate) fn bytes<E: Element>(cuda: &Cuda, saved: &SavedTensor<Cuda, E>) -> Vec<u8> {
    let mut all = cuda.download(Cuda::view(&saved.output)).expect("memory").bytes().to_vec();
    all.extend_from_slice(cuda.download(Cuda::view(&saved.lse)).expect("memory").bytes());
    if let Some(rest) = &saved.rest {
        all.extend_from_slice(cuda.download(Cuda::view(rest)).expect("memory").bytes());
    }
    all
}
