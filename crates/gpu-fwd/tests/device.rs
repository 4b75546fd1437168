//! What only a device can show. Without one these tests show as ignored, with the reason.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use half::{bf16, f16};
use libtest_mimic::{Arguments, Trial};
use theria_contract::{
    Attention, DType, Element, Inputs, Layout, Primal, Problem, Saved, SavedTensor, Scalar, Storage, Tensor,
    saved_mut,
};
use theria_gpu_fwd::forward::CudaRef;
use theria_gpu_fwd::{Blas, Compiler, Cuda, Device, Error, Multiplied, Onto};

fn main() {
    let arguments = Arguments::from_args();
    let no_device = Device::open(0).err();
    let no_compiler = Compiler::open().err();
    let needing = |missing: Option<&Error>, name: &str, run: fn(&Cuda)| {
        let ignored = missing.is_some();
        let name = missing.map_or(name.to_owned(), |error| {
            let reason = error.to_string();
            format!("{name} ({})", reason.split([':', ';']).next().unwrap_or_default())
        });
        let body = move || {
            run(&Cuda::new(shared()?));
            Ok(())
        };
        Trial::test(name, body).with_ignored_flag(ignored)
    };
    let test = |name: &str, run| needing(no_device.as_ref(), name, run);
    let test_kernels = |name: &str, run| needing(no_device.as_ref().or(no_compiler.as_ref()), name, run);
    // Found without a device, started on one.
    let no_products = Device::open(0).and_then(|device| Blas::open(&device)).err();
    let test_products = |name: &str, run| needing(no_products.as_ref(), name, run);
    let trials = vec![
        test("what_is_uploaded_comes_back_in_every_type_and_layout", round_trips),
        test("large_tensors_come_back_whole_from_many_threads", large_round_trips),
        test("a_new_tensor_is_zero", zeros),
        test("scratch_is_filled_and_has_the_bytes_asked_for", scratch),
        test("non_finite_elements_are_counted_as_on_the_host", non_finite),
        test("memory_that_is_not_there_is_an_error_that_says_how_much_is", too_much),
        test("a_device_that_does_not_exist_is_an_error_that_counts_them", no_such_device),
        test("freed_memory_is_used_again", pool),
        test("a_device_serves_many_threads", threads),
        test("a_replay_takes_as_long_as_the_calls_that_it_records", timing),
        test("what_makes_memory_or_waits_is_not_recorded", refused_in_a_recording),
        test("a_tensor_that_overlaps_itself_is_not_made", overlapping),
        test("memory_of_another_open_device_is_refused", other_device),
        test("a_kernel_is_not_launched_with_operands_of_another_problem", foreign_operands),
        test("other_threads_wait_while_one_records", others_wait),
        test("a_panic_in_recorded_work_leaves_the_device_usable", panic_in_a_recording),
        test("what_is_dropped_in_a_recording_goes_when_it_was_replayed", drop_in_a_recording),
        test_products("products_are_those_of_the_host_in_every_type_and_order", products),
        test_products("what_a_product_is_added_to_is_in_it", products_onto),
        test_products("a_product_of_other_sizes_or_of_gaps_is_refused", refused_products),
        test_products("a_recorded_product_is_the_same_bit_by_bit", recorded_product),
        test_kernels("recorded_work_keeps_the_kernels_of_a_backend_that_is_gone", kernels_kept),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// One open device for all tests: threads that share it wait while one of them records, and those of another would not.
fn shared() -> Result<Device, Error> {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(device.clone());
    }
    let opened = Device::open(0)?;
    Ok(DEVICE.get_or_init(|| opened).clone())
}

fn layouts(shape: [usize; 4]) -> Vec<Layout> {
    let row = shape[3] + 3;
    let head = shape[2] * row + 5;
    let padded = Layout::strided(shape, [shape[1] * head + 7, head, row, 1]).unwrap();
    vec![Layout::contiguous(shape).unwrap(), Layout::heads_inside(shape).unwrap(), padded]
}

fn numbers<T: Scalar>(layout: Layout, element: impl Fn(usize) -> T) -> Tensor<T> {
    Tensor::from_parts((0..layout.span()).map(element).collect(), layout).unwrap()
}

fn round_trip<T: Scalar>(cuda: &Cuda, element: impl Fn(usize) -> T + Copy) {
    for shape in [[2, 3, 5, 7], [1, 1, 1, 1], [0, 2, 3, 4], [2, 2, 0, 4], [1, 1, 300, 1000]] {
        for layout in layouts(shape) {
            let tensor = numbers(layout, element);
            let mut there = cuda.upload(&tensor).unwrap();
            let wanted = tensor.view().to_tensor();
            assert_eq!(Cuda::layout(&Cuda::view(&there)), layout);
            assert_eq!(cuda.download(Cuda::view(&there)).unwrap(), wanted);
            let mut lent = Cuda::view_mut(&mut there);
            assert_eq!(cuda.download(Cuda::reborrow(&Cuda::reborrow_mut(&mut lent))).unwrap(), wanted);
        }
    }
}

fn round_trips(cuda: &Cuda) {
    round_trip(cuda, |n| n as f64 / 3.0);
    round_trip(cuda, |n| n as f32 / 3.0);
    round_trip(cuda, |n| f16::from_f64(n as f64 / 3.0));
    round_trip(cuda, |n| bf16::from_f64(n as f64 / 3.0));
    round_trip(cuda, |n| n as u8);
    round_trip(cuda, |n| n as i32);
}

/// Copies of many sizes next to what is copied at a time, by threads that share the device. Memory is used again,
/// so what a copy leaves out has the numbers of another one.
fn large_round_trips(cuda: &Cuda) {
    let (small, block) = (64 << 10, 4 << 20);
    let bytes = [small, small + 4, block - 4, block, block + 4, 4 * block, 4 * block + 4, 9 * block + 12];
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || {
                for (n, bytes) in bytes.into_iter().enumerate() {
                    let layout = Layout::contiguous([1, 1, 1, bytes / 4]).unwrap();
                    let seed = (8 * thread + n + 1) as i32;
                    let tensor = numbers(layout, |i| (i as i32).wrapping_mul(0x9E37_79B1_u32 as i32) ^ seed);
                    let there = cuda.upload(&tensor).unwrap();
                    let back = cuda.download(Cuda::view(&there)).unwrap();
                    assert!(back == tensor, "{bytes} bytes");
                }
            });
        }
    });
}

fn zeros(cuda: &Cuda) {
    // Memory that was used before.
    drop(cuda.upload(&numbers(Layout::contiguous([1, 1, 1000, 1000]).unwrap(), |_| 1.5_f32)).unwrap());
    let tensor = cuda.allocate::<f32>(Layout::contiguous([1, 1, 1000, 1000]).unwrap()).unwrap();
    assert!(cuda.download(Cuda::view(&tensor)).unwrap().data().iter().all(|x| *x == 0.0));
}

fn scratch(cuda: &Cuda) {
    for bytes in [0, 1, 1000] {
        let mut workspace = cuda.workspace(bytes).unwrap();
        assert_eq!(Cuda::workspace_bytes(&workspace), bytes);
        cuda.fill_workspace(&mut workspace, 0xFF).unwrap();
    }
    cuda.device().synchronize().unwrap();
}

fn non_finite(cuda: &Cuda) {
    let value = |n: usize| match n % 7 {
        0 => f32::NAN,
        1 => f32::NEG_INFINITY,
        _ => 1.0,
    };
    let tensor = numbers(Layout::contiguous([2, 1, 10, 7]).unwrap(), value);
    let there = cuda.upload(&tensor).unwrap();
    let limits = Tensor::from_vec(vec![10, 3], [1, 1, 1, 2]).unwrap();
    let limits = cuda.upload(&limits).unwrap();
    let count = |limits, allow| cuda.count_non_finite(Cuda::view(&there), limits, allow).unwrap();
    assert_eq!(count(None, false), 40);
    assert_eq!(count(None, true), 20);
    assert_eq!(count(Some(Cuda::view(&limits)), true), 13);
}

fn too_much(cuda: &Cuda) {
    let error = cuda.workspace(1 << 46).unwrap_err();
    let theria_contract::Error::Backend { source, .. } = &error else { panic!("{error}") };
    let source = source.downcast_ref::<Error>();
    assert!(matches!(source, Some(Error::OutOfMemory { bytes, .. }) if *bytes == 1 << 46), "{error}");
    // And the device goes on.
    cuda.workspace(1 << 20).unwrap();
}

fn no_such_device(_: &Cuda) {
    let error = Device::open(1000).unwrap_err();
    assert!(matches!(error, Error::NoSuchDevice { ordinal: 1000, count: 1.. }), "{error}");
}

fn pool(cuda: &Cuda) {
    let bytes = 1 << 30;
    drop(cuda.workspace(bytes).unwrap());
    cuda.device().synchronize().unwrap();
    let (free, _) = cuda.device().memory().unwrap();
    let kept = cuda.workspace(bytes).unwrap();
    cuda.device().synchronize().unwrap();
    let (still_free, _) = cuda.device().memory().unwrap();
    drop(kept);
    assert!(free.abs_diff(still_free) < bytes / 2, "{free} and {still_free}");
}

fn threads(cuda: &Cuda) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| round_trip(cuda, |n| n as i32));
        }
    });
}

fn timing(cuda: &Cuda) {
    let device = cuda.device();
    let mut scratch = cuda.workspace(1 << 28).unwrap();
    let mut fill = |_| cuda.fill_workspace(&mut scratch, 1);
    let median = |mut times: Vec<std::time::Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    device.time_calls(10, &mut fill).unwrap().unwrap();
    let calls = device.time_calls(11, &mut fill).unwrap().unwrap();
    let replays = device.time_replays(11, 5, &mut fill).unwrap().unwrap();
    assert_eq!((calls.len(), replays.len()), (11, 11));
    let (call, replay) = (median(calls), median(replays));
    assert!(0.5 < replay / call && replay / call < 2.0, "{call} s and {replay} s");
    // An error of a call ends it, and the device goes on.
    assert!(device.time_calls(3, |n| if n < 2 { Ok(()) } else { Err("no") }).unwrap().is_err());
    assert!(device.time_replays(3, 3, |_| Err("no")).unwrap().is_err());
    device.time_calls(1, &mut fill).unwrap().unwrap();
}

/// The error of this crate in one of the contract.
#[track_caller]
fn cause<T: std::fmt::Debug>(outcome: theria_contract::Result<T>) -> Error {
    match outcome.unwrap_err() {
        theria_contract::Error::Backend { source, .. } => *source.downcast().unwrap(),
        error => panic!("{error}"),
    }
}

fn refused_in_a_recording(cuda: &Cuda) {
    let device = cuda.device();
    let tensor = cuda.upload(&numbers(Layout::contiguous([1, 1, 2, 2]).unwrap(), |n| n as f32)).unwrap();
    let made = device.time_replays(3, 2, |_| cuda.workspace(1 << 20).map(drop)).unwrap();
    assert!(matches!(cause(made), Error::MemoryRecorded));
    let read = device.time_replays(3, 2, |_| cuda.download(Cuda::view(&tensor)).map(drop)).unwrap();
    assert!(matches!(cause(read), Error::WaitRecorded));
    let waited = device.time_replays(3, 2, |_| device.synchronize()).unwrap();
    assert!(matches!(waited, Err(Error::WaitRecorded)), "{waited:?}");
    let nested = device.time_replays(3, 2, |_| device.record(|| Ok::<(), ()>(())).map(drop)).unwrap();
    assert!(matches!(nested, Err(Error::AlreadyRecording)), "{nested:?}");
    let nothing = device.time_replays(3, 2, |_| Ok::<(), Error>(()));
    assert!(matches!(nothing, Err(Error::NothingRecorded)) || nothing.is_ok(), "{nothing:?}");
    device.synchronize().unwrap();
    round_trip(cuda, |n| n as i32);
}

fn overlapping(cuda: &Cuda) {
    let layout = Layout::strided([1, 1, 3, 4], [12, 12, 2, 1]).unwrap();
    let refused = cuda.allocate::<f32>(layout);
    assert!(matches!(refused, Err(theria_contract::Error::Overlapping { .. })), "{refused:?}");
}

/// A small problem with its operands on a device.
struct Call {
    problem: Problem,
    q: <Cuda as Storage>::Tensor<f32>,
    k: <Cuda as Storage>::Tensor<f32>,
    v: <Cuda as Storage>::Tensor<f32>,
    saved: SavedTensor<Cuda, f32>,
}

impl Call {
    fn new(cuda: &Cuda) -> Self {
        let builder = Problem::builder(DType::F32).batch(1).heads(2, 2).lengths(5, 7).head_dims(4, 6);
        let problem = builder.build().unwrap();
        let shape = problem.shape();
        let tensor = |shape| {
            let layout = Layout::contiguous(shape).unwrap();
            cuda.upload(&numbers(layout, |n| (n % 5) as f32 / 4.0)).unwrap()
        };
        let new = |shape| cuda.allocate(Layout::contiguous(shape).unwrap()).unwrap();
        let saved = Saved { output: new(shape.output()), lse: new(shape.rows()), rest: None };
        Self { problem, q: tensor(shape.q()), k: tensor(shape.k()), v: tensor(shape.v()), saved }
    }

    /// The kernel itself, past the contract's own checks.
    fn make(&mut self, backend: &CudaRef, problem: &Problem, scratch: &Cuda) -> theria_contract::Result<()> {
        let inputs = Inputs::<Cuda, f32>::new(Cuda::view(&self.q), Cuda::view(&self.k), Cuda::view(&self.v));
        let saved = Primal(saved_mut::<Cuda, f32>(&mut self.saved));
        backend.forward_kernel(problem, Primal(&inputs), saved, &mut scratch.workspace(0)?)
    }
}

fn other_device(cuda: &Cuda) {
    let other = Cuda::new(Device::open(0).unwrap());
    let copy = Cuda::new(cuda.device().clone());
    let tensor = cuda.upload(&numbers(Layout::contiguous([1, 1, 2, 2]).unwrap(), |n| n as f32)).unwrap();
    let view = Cuda::view(&tensor);
    copy.download(view).unwrap();
    assert!(matches!(cause(other.download(view)), Error::OtherDevice { .. }));
    assert!(matches!(cause(other.count_non_finite(view, None, false)), Error::OtherDevice { .. }));

    let (backend, mut call) = (CudaRef::new(cuda.clone()), Call::new(cuda));
    let problem = call.problem.clone();
    let refused = cause(call.make(&backend, &problem, &other));
    assert!(matches!(refused, Error::OtherDevice { what: "the workspace" }), "{refused}");
    call.k = Call::new(&other).k;
    let refused = cause(call.make(&backend, &problem, cuda));
    assert!(matches!(refused, Error::OtherDevice { what: "k" }), "{refused}");
    let mut call = Call::new(cuda);
    call.saved = Call::new(&other).saved;
    let refused = cause(call.make(&backend, &problem, cuda));
    assert!(matches!(refused, Error::OtherDevice { what: "out" }), "{refused}");
}

fn foreign_operands(cuda: &Cuda) {
    use theria_contract::Error as E;
    let (backend, mut call) = (CudaRef::new(cuda.clone()), Call::new(cuda));
    let problem = call.problem.clone();
    let longer = problem.to_builder().lengths(5, 8).build().unwrap();
    assert!(matches!(call.make(&backend, &longer, cuda), Err(E::Shape { name: "k", .. })));
    let more_queries = problem.to_builder().lengths(6, 7).build().unwrap();
    assert!(matches!(call.make(&backend, &more_queries, cuda), Err(E::Shape { name: "q", .. })));
    let wider = problem.to_builder().head_dims(4, 8).build().unwrap();
    assert!(matches!(call.make(&backend, &wider, cuda), Err(E::Shape { name: "v", .. })));
    let biased = problem.to_builder().bias([1, 1, 5, 7]).build().unwrap();
    let missing = call.make(&backend, &biased, cuda);
    assert!(matches!(missing, Err(E::Presence { name: "bias", declared: true })), "{missing:?}");
    let double = call.make(&backend, &problem.with_dtype(DType::F64), cuda);
    assert!(matches!(double, Err(E::ElementType { .. })), "{double:?}");
    // What is uploaded may overlap itself, and is then no output.
    let shape = problem.shape().output();
    let layout = Layout::strided(shape, [60, 30, 3, 1]).unwrap();
    call.saved.output = cuda.upload(&numbers(layout, |_| 0.0)).unwrap();
    assert!(matches!(call.make(&backend, &problem, cuda), Err(E::Overlapping { .. })));
}

fn others_wait(cuda: &Cuda) {
    let stage = AtomicUsize::new(0);
    let mut scratch = cuda.workspace(1 << 20).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while stage.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                cuda.device().synchronize().unwrap();
                assert_eq!(stage.load(Ordering::SeqCst), 2);
                round_trip(cuda, |n| n as i32);
            });
        }
        let work = |n: usize| {
            cuda.fill_workspace(&mut scratch, n as u8)?;
            if n == 0 {
                stage.store(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(100));
            } else {
                stage.store(2, Ordering::SeqCst);
            }
            Ok::<_, theria_contract::Error>(())
        };
        assert_eq!(cuda.device().time_replays(5, 2, work).unwrap().unwrap().len(), 5);
    });
    round_trip(cuda, |n| n as f32);
}

fn panics() -> theria_contract::Result<()> {
    panic!("as a test wants")
}

fn panic_in_a_recording(cuda: &Cuda) {
    let mut scratch = cuda.workspace(1 << 20).unwrap();
    let recorded = catch_unwind(AssertUnwindSafe(|| {
        cuda.device().record(|| {
            cuda.fill_workspace(&mut scratch, 1)?;
            panics()
        })
    }));
    assert!(recorded.is_err());
    round_trip(cuda, |n| n as i32);
    threads(cuda);
    let times = cuda.device().time_replays(3, 2, |_| cuda.fill_workspace(&mut scratch, 2));
    assert_eq!(times.unwrap().unwrap().len(), 3);
}

fn drop_in_a_recording(cuda: &Cuda) {
    let mut scratch: Vec<_> = (0..4).map(|_| cuda.workspace(1 << 20).unwrap()).collect();
    let work = |n: usize| {
        let Some(mut last) = scratch.pop() else { panic!("four calls") };
        cuda.fill_workspace(&mut last, n as u8)?;
        // One is dropped here, another on a thread that is waited for.
        if n.is_multiple_of(2) {
            std::thread::scope(|scope| scope.spawn(|| drop(last)).join()).unwrap();
        }
        Ok::<_, theria_contract::Error>(())
    };
    assert_eq!(cuda.device().time_replays(3, 4, work).unwrap().unwrap().len(), 3);
    cuda.device().synchronize().unwrap();
    round_trip(cuda, |n| n as i32);
}

#[allow(unsafe_code)]
fn kernels_kept(cuda: &Cuda) {
    let (backend, mut call) = (CudaRef::new(cuda.clone()), Call::new(cuda));
    let problem = call.problem.clone();
    call.make(&backend, &problem, cuda).unwrap();
    let wanted = cuda.download(Cuda::view(&call.saved.output)).unwrap();
    call.saved = Call::new(cuda).saved;
    let graph = cuda.device().record(|| call.make(&backend, &problem, cuda)).unwrap().unwrap();
    drop(backend);
    assert_ne!(cuda.download(Cuda::view(&call.saved.output)).unwrap(), wanted);
    // SAFETY: `call` holds the memory, and nobody else uses it.
    unsafe { graph.launch() }.unwrap();
    assert_eq!(cuda.download(Cuda::view(&call.saved.output)).unwrap(), wanted);
    drop(graph);
    round_trip(cuda, |n| n as i32);
}

/// Numbers that no rounding of a type is even about.
fn factor<E: Element>(rows: usize, columns: usize, seed: f64) -> Tensor<E> {
    let number = |n: usize| E::from_f64(((n as f64 + 1.0) * (1.3 + seed)).sin());
    numbers(Layout::contiguous([1, 1, rows, columns]).unwrap(), number)
}

/// A product on the host, in f64, of what the type made of its factors.
fn on_host<E: Element>(product: Multiplied, a: &Tensor<E>, b: &Tensor<E>) -> Vec<f64> {
    let Multiplied { rows, inner, columns, a_transposed, b_transposed } = product;
    let at = |x: &Tensor<E>, transposed: bool, (i, j): (usize, usize), (rows, columns): (usize, usize)| {
        x.data()[if transposed { j * rows + i } else { i * columns + j }].to_f64()
    };
    let entry = |i: usize, j: usize| {
        let term = |l: usize| {
            at(a, a_transposed, (i, l), (rows, inner)) * at(b, b_transposed, (l, j), (inner, columns))
        };
        (0..inner).map(term).sum::<f64>()
    };
    (0..rows * columns).map(|n| entry(n / columns, n % columns)).collect()
}

/// A product in every order of its factors, written and added.
fn product<R: Element, E: Element>(cuda: &Cuda, tf32: bool, bound: f64) {
    let blas = Blas::open(cuda.device()).unwrap();
    for (rows, inner, columns) in [(1, 1, 1), (7, 33, 5), (64, 128, 96), (3, 0, 4), (0, 3, 4), (129, 1, 65)] {
        for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
            let asked = Multiplied { rows, inner, columns, a_transposed, b_transposed };
            let (a, b) = (factor::<E>(rows, inner, 0.1), factor::<E>(inner, columns, 0.7));
            let wanted = on_host(asked, &a, &b);
            let (a, b) = (cuda.upload(&a).unwrap(), cuda.upload(&b).unwrap());
            // What is there is of no account, unless it is added to.
            let poison =
                numbers(Layout::contiguous([1, 1, rows, columns]).unwrap(), |_| R::from_f64(f64::NAN));
            let mut made = cuda.upload(&poison).unwrap();
            for (add, times) in [(false, 1.0), (true, 2.0)] {
                let factors = (Cuda::view(&a), Cuda::view(&b));
                blas.multiply(asked, tf32, factors, &mut Cuda::view_mut(&mut made), add).unwrap();
                let found = cuda.download(Cuda::view(&made)).unwrap();
                for (found, wanted) in found.data().iter().zip(&wanted) {
                    let error = (found.to_f64() - times * wanted).abs();
                    assert!(error <= bound * (1.0 + inner as f64).sqrt(), "{asked:?}: {error:e}");
                }
            }
        }
    }
}

fn products(cuda: &Cuda) {
    product::<f64, f64>(cuda, false, 1e-15);
    // f64 is never rounded.
    product::<f64, f64>(cuda, true, 1e-15);
    product::<f32, f32>(cuda, false, 1e-6);
    product::<f32, f32>(cuda, true, 2e-3);
    product::<f32, f16>(cuda, false, 1e-6);
    product::<f32, bf16>(cuda, false, 1e-6);
    // The bound of f32 tells TF32 from it.
    assert!(catch_unwind(AssertUnwindSafe(|| product::<f32, f32>(cuda, true, 1e-6))).is_err());
}

/// Products onto a row, and onto a row and a matrix, where the library has them. How many it had.
fn product_onto<R: Element, F: Element>(cuda: &Cuda, bound: f64) -> usize {
    let blas = Blas::open(cuda.device()).unwrap();
    let mut had = 0;
    for (rows, inner, columns) in [(1, 1, 1), (7, 33, 5), (64, 128, 96), (3, 0, 4), (0, 3, 4), (256, 72, 512)]
    {
        for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
            let asked = Multiplied { rows, inner, columns, a_transposed, b_transposed };
            let (a, b) = (factor::<F>(rows, inner, 0.1), factor::<F>(inner, columns, 0.7));
            let product = on_host(asked, &a, &b);
            let (a, b) = (cuda.upload(&a).unwrap(), cuda.upload(&b).unwrap());
            let drawn = |rows, step| {
                let layout = Layout::contiguous([1, 1, rows, columns]).unwrap();
                numbers::<R>(layout, |n| R::from_f64((n * step % 7) as f64 - 3.0))
            };
            let (row, matrix) = (drawn(1, 3), drawn(rows, 5));
            let poison =
                numbers(Layout::contiguous([1, 1, rows, columns]).unwrap(), |_| R::from_f64(f64::NAN));
            let mut made = cuda.upload(&poison).unwrap();
            let (on_row, on_matrix) = (cuda.upload(&row).unwrap(), cuda.upload(&matrix).unwrap());
            for with_matrix in [false, true] {
                let onto =
                    Onto { row: Cuda::view(&on_row), matrix: with_matrix.then(|| Cuda::view(&on_matrix)) };
                let factors = (Cuda::view(&a), Cuda::view(&b));
                let done =
                    blas.multiply_onto(asked, false, factors, onto, &mut Cuda::view_mut(&mut made)).unwrap();
                if !done {
                    continue;
                }
                had += 1;
                let found = cuda.download(Cuda::view(&made)).unwrap();
                for (n, found) in found.data().iter().enumerate() {
                    let matrix = if with_matrix { matrix.data()[n].to_f64() } else { 0.0 };
                    let wanted = product[n] + row.data()[n % columns].to_f64() + matrix;
                    let error = (found.to_f64() - wanted).abs();
                    let bound = bound * (8.0 + inner as f64).sqrt();
                    assert!(error <= bound, "{asked:?} {with_matrix}: {error:e}");
                }
            }
        }
    }
    had
}

fn products_onto(cuda: &Cuda) {
    let had = [
        product_onto::<f64, f64>(cuda, 2e-15),
        product_onto::<f32, f32>(cuda, 2e-6),
        product_onto::<f32, bf16>(cuda, 2e-6),
        product_onto::<bf16, bf16>(cuda, 2e-2),
        product_onto::<f16, f16>(cuda, 2e-3),
    ];
    // Four orders of the factors, onto a row and onto both, of sizes that every library has.
    assert!(had.iter().all(|had| *had >= 16), "{had:?}");
    assert!(catch_unwind(AssertUnwindSafe(|| product_onto::<bf16, bf16>(cuda, 1e-4))).is_err());
}

fn refused_products(cuda: &Cuda) {
    let blas = Blas::open(cuda.device()).unwrap();
    let asked = Multiplied { rows: 4, inner: 3, columns: 5, a_transposed: false, b_transposed: false };
    let multiply = |a: Layout, b: Layout, made: Layout| {
        let tensor = |layout| cuda.allocate::<f32>(layout).unwrap();
        let (a, b, mut made) = (tensor(a), tensor(b), tensor(made));
        blas.multiply(asked, false, (Cuda::view(&a), Cuda::view(&b)), &mut Cuda::view_mut(&mut made), false)
    };
    let packed = |rows, columns| Layout::contiguous([1, 1, rows, columns]).unwrap();
    multiply(packed(4, 3), packed(3, 5), packed(4, 5)).unwrap();
    let gaps = Layout::strided([1, 1, 4, 3], [16, 16, 4, 1]).unwrap();
    for (a, b, made) in [
        (packed(4, 4), packed(3, 5), packed(4, 5)),
        (packed(4, 3), packed(3, 4), packed(4, 5)),
        (packed(4, 3), packed(3, 5), packed(4, 6)),
        (gaps, packed(3, 5), packed(4, 5)),
    ] {
        assert!(matches!(multiply(a, b, made), Err(Error::NotPacked { .. })));
    }
    let other = Cuda::new(Device::open(0).unwrap());
    let (a, b) = (other.allocate::<f32>(packed(4, 3)).unwrap(), cuda.allocate::<f32>(packed(3, 5)).unwrap());
    let mut made = cuda.allocate::<f32>(packed(4, 5)).unwrap();
    let outcome =
        blas.multiply(asked, false, (Cuda::view(&a), Cuda::view(&b)), &mut Cuda::view_mut(&mut made), false);
    assert!(matches!(outcome, Err(Error::OtherDevice { .. })));
}

#[allow(unsafe_code)]
fn recorded_product(cuda: &Cuda) {
    let blas = Blas::open(cuda.device()).unwrap();
    let asked = Multiplied { rows: 300, inner: 2000, columns: 70, a_transposed: true, b_transposed: false };
    let a = cuda.upload(&factor::<bf16>(300, 2000, 0.1)).unwrap();
    let b = cuda.upload(&factor::<bf16>(2000, 70, 0.7)).unwrap();
    let mut made = cuda.allocate::<f32>(Layout::contiguous([1, 1, 300, 70]).unwrap()).unwrap();
    let mut multiply = || {
        let factors = (Cuda::view(&a), Cuda::view(&b));
        blas.multiply(asked, false, factors, &mut Cuda::view_mut(&mut made), false)
    };
    multiply().unwrap();
    let graph = cuda.device().record(&mut multiply).unwrap().unwrap();
    let wanted = cuda.download(Cuda::view(&made)).unwrap();
    let bits = |tensor: &Tensor<f32>| tensor.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for _ in 0..3 {
        // SAFETY: the factors and the product live, and nobody else uses them.
        unsafe { graph.launch() }.unwrap();
        assert_eq!(bits(&cuda.download(Cuda::view(&made)).unwrap()), bits(&wanted));
    }
    assert!(wanted.data().iter().any(|x| *x != 0.0), "a product of nothing says nothing");
}
