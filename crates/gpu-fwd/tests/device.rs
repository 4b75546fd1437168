//! What only a device can show. Without one these tests show as ignored, with the reason.

use half::{bf16, f16};
use libtest_mimic::{Arguments, Trial};
use theria_contract::{Layout, Scalar, Storage, Tensor};
use theria_gpu_fwd::{Cuda, Device, Error};

fn main() {
    let arguments = Arguments::from_args();
    let missing = Device::open(0).err();
    let test = |name: &str, run: fn(&Cuda)| {
        let ignored = missing.is_some();
        let name = missing.as_ref().map_or(name.to_owned(), |error| {
            let reason = error.to_string();
            format!("{name} ({})", reason.split([':', ';']).next().unwrap_or_default())
        });
        let body = move || {
            run(&Cuda::new(Device::open(0)?));
            Ok(())
        };
        Trial::test(name, body).with_ignored_flag(ignored)
    };
    let trials = vec![
        test("what_is_uploaded_comes_back_in_every_type_and_layout", round_trips),
        test("a_new_tensor_is_zero", zeros),
        test("scratch_is_filled_and_has_the_bytes_asked_for", scratch),
        test("non_finite_elements_are_counted_as_on_the_host", non_finite),
        test("memory_that_is_not_there_is_an_error_that_says_how_much_is", too_much),
        test("a_device_that_does_not_exist_is_an_error_that_counts_them", no_such_device),
        test("freed_memory_is_used_again", pool),
        test("a_device_serves_many_threads", threads),
        test("a_replay_takes_as_long_as_the_calls_that_it_records", timing),
        test("what_makes_memory_is_not_replayed", memory_in_a_recording),
    ];
    libtest_mimic::run(&arguments, trials).exit();
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

fn memory_in_a_recording(cuda: &Cuda) {
    let refused = cuda.device().time_replays(3, 2, |_| cuda.workspace(1 << 20).map(drop));
    assert!(matches!(refused, Err(Error::MemoryRecorded)), "{refused:?}");
    let nothing = cuda.device().time_replays(3, 2, |_| Ok::<(), Error>(()));
    assert!(matches!(nothing, Err(Error::NothingRecorded)) || nothing.is_ok(), "{nothing:?}");
    cuda.device().synchronize().unwrap();
}
