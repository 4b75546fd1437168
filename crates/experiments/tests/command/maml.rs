//! `theria maml`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Bench, Ran, text, theria};

/// Steps of some milliseconds, and checkpoints between some of them.
const SHORT: [&str; 12] = [
    "--task",
    "key-value",
    "--batch",
    "4",
    "--outer-steps",
    "8",
    "--checkpoint-every",
    "3",
    "--rel-diff-every",
    "4",
    "--evaluate",
    "5",
];

fn maml(arguments: &[&str]) -> Ran {
    theria(&[&["maml"], arguments].concat())
}

impl Bench {
    /// A new run in a folder of this name, with other settings than [`SHORT`] where they are given.
    fn train(&self, folder: &str, more: &[&str]) -> Ran {
        let mut arguments = vec!["--out".to_owned(), text(&self.path(folder)).to_owned()];
        let given = |name: &str| more.contains(&name);
        for pair in SHORT.chunks(2).filter(|pair| !given(pair[0])) {
            arguments.extend(pair.iter().map(|word| (*word).to_owned()));
        }
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        maml(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn resume(&self, folder: &str, more: &[&str]) -> Ran {
        maml(&[&["--resume", text(&self.path(folder)), "--evaluate", "5"], more].concat())
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// The lines of the log, without what the clock said.
    fn log(&self, folder: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.path(folder).join("log.jsonl")).unwrap();
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            assert!(line.as_object_mut().unwrap().remove("seconds").unwrap().is_number());
            line
        };
        log.lines().map(line).collect()
    }

    fn names_in(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn loss(ran: &Ran) -> f64 {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json()["evaluation"]["loss"]["mean"].as_f64().unwrap()
}

#[test]
fn a_training_learns_and_one_with_steps_of_no_length_does_not() {
    let bench = Bench::new();
    let train = |folder: &str, steps: &str, rate: &str| {
        let more =
            ["--outer-steps", steps, "--batch", "16", "--outer-rate", rate, "--evaluate", "20", "--json"];
        loss(&bench.train(folder, &more))
    };
    let (begin, learned) = (train("begin", "0", "0.01"), train("learned", "60", "0.01"));
    assert!(learned < 0.8 * begin, "{begin} {learned}");
    assert_eq!(train("still", "60", "0"), begin, "a rate of zero learns nothing");
    // The log says so, too.
    let mean = |lines: &[Value]| {
        lines.iter().map(|line| line["after"].as_f64().unwrap()).sum::<f64>() / lines.len() as f64
    };
    let (log, still) = (bench.log("learned"), bench.log("still"));
    assert!(mean(&log[50..]) < 0.9 * mean(&log[..10]));
    assert!((mean(&still[50..]) / mean(&still[..10]) - 1.0).abs() < 0.02);
}

#[test]
fn a_run_leaves_settings_a_line_for_each_step_checkpoints_and_pictures() {
    let bench = Bench::new();
    let ran = bench.train("run", &["--plots", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let files = [
        "accuracy.svg",
        "checkpoint.previous.safetensors",
        "checkpoint.safetensors",
        "log.jsonl",
        "loss.svg",
        "rel_diff.svg",
        "settings.json",
    ];
    assert_eq!(bench.names_in("run"), files);
    let settings: Value = serde_json::from_slice(&bench.bytes("run/settings.json")).unwrap();
    assert_eq!(settings["settings"]["outer-steps"], "8");
    assert!(settings["version"].is_string() && settings["host"].get("git").is_some(), "{settings}");
    let log = bench.log("run");
    assert_eq!(log.len(), 8);
    for (n, line) in log.iter().enumerate() {
        assert_eq!(line["step"], n + 1);
        for key in ["before", "after", "norm"] {
            assert!(line[key].as_f64().unwrap() > 0.0, "{key}: {line}");
        }
        assert!((0.0..=1.0).contains(&line["accuracy"].as_f64().unwrap()), "{line}");
        assert_eq!(line["rates"].as_array().unwrap().len(), 1, "{line}");
        assert_eq!(line["rel_diff"].is_number(), n % 4 == 0, "{line}");
    }
    let json = ran.json();
    assert_eq!((&json["steps"], &json["resumed"]), (&8.into(), &Value::Null));
    let evaluation = &json["evaluation"];
    assert_eq!((&evaluation["tasks"], &evaluation["diverged"]), (&5.into(), &0.into()));
    for spread in ["before", "loss", "accuracy"] {
        for key in ["mean", "median", "standard_error"] {
            assert!(evaluation[spread][key].is_number(), "{spread} {key}: {evaluation}");
        }
    }
    let words = bench.train("again", &[]).out;
    for said in ["key-value", "full through streaming in f64", "trained  8 steps", "percent", "written"] {
        assert!(words.contains(said), "no '{said}' in {words}");
    }
    assert_eq!(bench.bytes("run/checkpoint.safetensors"), bench.bytes("again/checkpoint.safetensors"));
}

/// Starts a run and ends its process, in whatever it is doing, once its log has so many lines.
fn killed(arguments: &[&str], folder: &Path, lines: usize) {
    let mut child: Child = Command::new(env!("CARGO_BIN_EXE_theria"))
        .args([&["maml"], arguments].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let written = || fs::read_to_string(folder.join("log.jsonl")).map_or(0, |log| log.lines().count());
    while written() < lines {
        assert!(begun.elapsed() < Duration::from_secs(120), "no {lines} lines");
        std::thread::sleep(Duration::from_micros(500));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it had not come to its end");
}

#[test]
fn a_run_that_is_killed_goes_on_with_the_same_bits() {
    for settings in [
        ["--batch", "24", "--dtype", "f64", "--backend", "streaming", "--mode", "full"],
        ["--batch", "24", "--dtype", "f32", "--backend", "dense", "--mode", "truncated:1"],
    ] {
        let bench = Bench::new();
        // Many steps are left when the last process is killed, so that none of them is too quick to be.
        let more = [&settings[..], &["--outer-steps", "40"]].concat();
        let whole = bench.train("whole", &more);
        assert_eq!(whole.code, 0, "{whole:?}");
        let folder = bench.path("killed");
        let arguments = [&["--out", text(&folder)], &SHORT[..2], &SHORT[6..], &more].concat();
        killed(&arguments, &folder, 2);
        for lines in [4, 8, 13] {
            killed(&["--resume", text(&folder)], &folder, lines);
        }
        let ran = bench.resume("killed", &["--json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.json()["resumed"].as_u64().unwrap() >= 12, "{ran:?}");
        assert_eq!(ran.json()["evaluation"], {
            let whole = bench.resume("whole", &["--json"]);
            whole.json()["evaluation"].clone()
        });
        assert_eq!(bench.bytes("killed/checkpoint.safetensors"), bench.bytes("whole/checkpoint.safetensors"));
        assert_eq!(bench.log("killed"), bench.log("whole"));
        // What the bits are held against does see a difference: one step less is another state.
        let shorter = [&settings[..], &["--outer-steps", "39"]].concat();
        assert_eq!(bench.train("shorter", &shorter).code, 0);
        assert_ne!(
            bench.bytes("shorter/checkpoint.safetensors"),
            bench.bytes("whole/checkpoint.safetensors")
        );
    }
}

#[test]
fn threads_change_no_bit() {
    let bench = Bench::new();
    for threads in ["1", "2", "5"] {
        let ran = bench.train(threads, &["--threads", threads, "--batch", "3"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(
            bench.bytes(&format!("{threads}/checkpoint.safetensors")),
            bench.bytes("1/checkpoint.safetensors")
        );
        assert_eq!(bench.log(threads), bench.log("1"));
    }
    let other = bench.train("other", &["--batch", "2"]);
    assert_eq!(other.code, 0, "{other:?}");
    assert_ne!(bench.bytes("other/checkpoint.safetensors"), bench.bytes("1/checkpoint.safetensors"));
}

#[test]
fn a_run_may_go_further_and_becomes_the_one_that_was_meant_to() {
    let bench = Bench::new();
    assert_eq!(bench.train("far", &[]).code, 0);
    assert_eq!(bench.train("run", &["--outer-steps", "5"]).code, 0);
    assert_ne!(bench.bytes("run/checkpoint.safetensors"), bench.bytes("far/checkpoint.safetensors"));
    let ran = bench.resume("run", &["--outer-steps", "8"]);
    assert!(ran.code == 0 && ran.out.contains("resumed  after step 5"), "{ran:?}");
    assert_eq!(bench.bytes("run/checkpoint.safetensors"), bench.bytes("far/checkpoint.safetensors"));
    assert_eq!(bench.log("run"), bench.log("far"));
}

#[test]
fn a_run_does_not_go_on_with_other_settings_and_is_not_written_over() {
    let bench = Bench::new();
    assert_eq!(bench.train("run", &[]).code, 0);
    let files =
        || bench.names_in("run").iter().map(|name| bench.bytes(&format!("run/{name}"))).collect::<Vec<_>>();
    let before = files();
    for (more, words) in [
        (["--batch", "5"], "batch is 5 and not 4"),
        (["--outer-rate", "0.01"], "outer-rate is 0.01 and not 0.003"),
        (["--mode", "first-order"], "mode is first-order and not full"),
        (["--seed", "1"], "seed is 1 and not 0"),
        (["--task", "sinusoid"], "task is sinusoid and not key-value"),
        (["--clip", "none"], "clip is none and not 1.0"),
    ] {
        bench.resume("run", &more).complains(&["other settings", words, "--out"]);
    }
    // What is said again is no difference.
    assert_eq!(bench.resume("run", &["--batch", "4", "--clip", "1"]).code, 0);
    bench.train("run", &[]).complains(&["has a run already", "--resume"]);
    bench.resume("nowhere", &[]).complains(&["nowhere", "no run to go on with", "--out"]);
    assert_eq!(files(), before);
}

#[test]
fn two_processes_do_not_train_in_one_folder() {
    let bench = Bench::new();
    assert_eq!(bench.train("run", &[]).code, 0);
    let held = fs::File::open(bench.path("run/log.jsonl")).unwrap();
    held.lock().unwrap();
    bench.resume("run", &[]).complains(&["another process is training in"]);
    drop(held);
    assert_eq!(bench.resume("run", &[]).code, 0);
}

#[test]
fn a_damaged_checkpoint_is_said_and_the_one_before_it_is_taken_when_that_is_asked_for() {
    let bench = Bench::new();
    assert_eq!(bench.train("run", &[]).code, 0);
    let (whole, log) = (bench.bytes("run/checkpoint.safetensors"), bench.log("run"));
    let path = bench.path("run/checkpoint.safetensors");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    for (damaged, words) in [
        (&whole[..whole.len() / 2], "truncated, damaged"),
        (&b"nothing of the kind"[..], "no safetensors file"),
        (&flipped[..], "checksum differs"),
        (&[][..], "truncated"),
    ] {
        fs::write(&path, damaged).unwrap();
        let ran = bench.resume("run", &[]);
        ran.complains(&[
            "cannot go on from",
            words,
            "checkpoint.previous.safetensors, of step 6",
            "--from-previous",
        ]);
        assert_eq!(bench.bytes("run/checkpoint.safetensors"), damaged, "nothing is done about it unasked");
        let ran = bench.resume("run", &["--from-previous", "--json"]);
        assert_eq!((ran.code, &ran.json()["resumed"]), (0, &6.into()), "{ran:?}");
        assert_eq!(bench.bytes("run/checkpoint.safetensors"), whole, "the same way again");
        assert_eq!(bench.log("run"), log);
        assert_eq!(bench.bytes("run/checkpoint.damaged.safetensors"), damaged, "kept");
    }
    fs::write(&path, "gone").unwrap();
    fs::write(bench.path("run/checkpoint.previous.safetensors"), "gone, too").unwrap();
    bench.resume("run", &[]).complains(&["no checkpoint before it"]);
    bench
        .resume("run", &["--from-previous"])
        .complains(&["checkpoint.previous.safetensors", "no safetensors"]);
}

#[test]
fn a_log_that_does_not_fit_its_checkpoint_is_said() {
    let bench = Bench::new();
    assert_eq!(bench.train("run", &[]).code, 0);
    let (path, log) = (bench.path("run/log.jsonl"), bench.bytes("run/log.jsonl"));
    let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    fs::write(&path, lines[..7].concat()).unwrap();
    bench.resume("run", &[]).complains(&["log.jsonl", "step 8", "fewer lines"]);
    fs::write(&path, [&lines[1..], &lines[..1]].concat().concat()).unwrap();
    bench.resume("run", &[]).complains(&["log.jsonl", "not of that step"]);
    // A line that was being written when the process ended is cut.
    fs::write(&path, [&log[..], b"{\"step\":9,\"be"].concat()).unwrap();
    assert_eq!(bench.resume("run", &[]).code, 0);
    assert_eq!(bench.bytes("run/log.jsonl"), log);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_costs_no_more_than_the_last_steps() {
    let bench = Bench::new();
    assert_eq!(bench.train("whole", &[]).code, 0);
    assert_eq!(bench.train("run", &["--outer-steps", "4"]).code, 0);
    let checkpoint = bench.bytes("run/checkpoint.safetensors");
    // A checkpoint is written to this name first; a device that is always full takes its place.
    let new = bench.path("run/checkpoint.safetensors.new");
    std::os::unix::fs::symlink("/dev/full", &new).unwrap();
    let ran = bench.resume("run", &["--outer-steps", "8"]);
    ran.complains(&["its checkpoint of step 4 is intact", "cannot write", "No space left"]);
    assert_eq!(bench.bytes("run/checkpoint.safetensors"), checkpoint);
    assert!(!new.exists() && !new.is_symlink(), "what could not be written is gone");
    assert_eq!(bench.resume("run", &["--outer-steps", "8"]).code, 0);
    assert_eq!(bench.bytes("run/checkpoint.safetensors"), bench.bytes("whole/checkpoint.safetensors"));
    assert_eq!(bench.log("run"), bench.log("whole"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_that_cannot_grow_stops_the_run_and_half_a_line_does_no_harm() {
    let bench = Bench::new();
    let of_waves =
        ["--task", "sinusoid", "--batch", "1", "--outer-steps", "1500", "--checkpoint-every", "200"];
    let more = [&of_waves[..], &["--rel-diff-every", "0"]].concat();
    assert_eq!(bench.train("whole", &more).code, 0);
    // No file may be longer than the log of some hundred steps; a checkpoint is shorter.
    let limit = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let (theria, out) = (env!("CARGO_BIN_EXE_theria"), bench.path("run"));
    let arguments = [&["-c", limit, theria, "maml", "--out", text(&out)], &more[..]].concat();
    let ran = Ran::of(Command::new("sh").args(arguments));
    ran.complains(&["is intact", "cannot write", "log.jsonl", "File too large"]);
    assert!(!bench.bytes("run/log.jsonl").ends_with(b"\n"), "a line is half written");
    let ran = bench.resume("run", &["--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.json()["resumed"].as_u64().unwrap() >= 200, "{ran:?}");
    assert_eq!(bench.bytes("run/checkpoint.safetensors"), bench.bytes("whole/checkpoint.safetensors"));
    assert_eq!(bench.log("run"), bench.log("whole"));
}

#[test]
fn a_loop_that_diverges_is_said_with_its_step_and_the_last_checkpoint_is_intact() {
    let bench = Bench::new();
    bench.train("inner", &["--task", "sinusoid", "--inner-rate", "1e200"]).complains(&[
        "outer step 1",
        "diverges",
        "smaller inner rate",
    ]);
    assert!(!bench.path("inner").exists(), "nothing is written of what cannot begin");
    let ran = bench.train("outer", &["--task", "sinusoid", "--outer-rate", "1e80"]);
    ran.complains(&["checkpoint of step 0 is intact", "outer step 2", "diverges"]);
    assert_eq!(bench.log("outer").len(), 1);
    // From there the same happens again, and not something else.
    bench.resume("outer", &[]).complains(&["checkpoint of step 0 is intact", "outer step 2"]);
    // Parameters that are no numbers are never a checkpoint.
    let more = [
        "--task",
        "sinusoid",
        "--outer-optimiser",
        "sgd",
        "--outer-rate",
        "1e308",
        "--checkpoint-every",
        "1",
    ];
    bench.train("infinite", &[&more[..], &["--inner-rate", "1e-3", "--dtype", "f32"]].concat()).complains(&[
        "checkpoint of step 0 is intact",
        "after outer step 1",
        "no longer finite",
    ]);
}

#[test]
fn what_a_backend_has_no_rule_for_is_refused_before_anything_begins() {
    let bench = Bench::new();
    for task in ["key-value", "sinusoid"] {
        let opaque = |mode| ["--task", task, "--backend", "opaque(streaming)", "--mode", mode];
        for mode in ["full", "truncated:1"] {
            let ran = bench.train("run", &opaque(mode));
            ran.complains(&["opaque refuses jvp", "cannot be differentiated"]);
            assert!(!bench.path("run").exists());
        }
    }
    bench
        .train("run", &["--mode", "first-order-strict", "--rel-diff-every", "1"])
        .complains(&["opaque refuses jvp"]);
    let served = ["cuda-fused does not compute models in f64", "f32 and bf16"];
    bench.train("run", &["--backend", "cuda-fused"]).complains(&served);
    if let Err(error) = theria_gpu_fwd::Device::open(0) {
        let advice = error.to_string();
        bench.train("run", &["--backend", "cuda-ref"]).complains(&["no device", &advice]);
        bench
            .train("run", &["--backend", "cuda-fused", "--dtype", "bf16"])
            .complains(&["no device", &advice]);
    }
    assert!(!bench.path("run").exists());
    // What it has rules for, it does, and the bits are those of a first order that could do more.
    let train = |folder: &str, more: &[&str]| {
        let ran = bench.train(folder, &[more, &["--rel-diff-every", "0"]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        bench.log(folder)
    };
    let first_order = train("plain", &["--mode", "first-order"]);
    assert_eq!(train("strict", &["--mode", "first-order-strict"]), first_order);
    assert_eq!(train("none", &["--backend", "opaque(streaming)", "--mode", "truncated:0"]), first_order);
    assert_ne!(train("full", &[]), first_order);
}

#[test]
fn wrong_settings_say_what_is_allowed() {
    let bench = Bench::new();
    let wrong = |more: &[&str], words: &[&str]| {
        bench.train("run", more).complains(words);
        assert!(!bench.path("run").exists());
    };
    wrong(&["--inner-steps", "0"], &["inner-steps is 0", "at least 1"]);
    wrong(&["--batch", "0"], &["batch is 0", "at least 1"]);
    wrong(&["--checkpoint-every", "0"], &["checkpoint-every is 0"]);
    wrong(&["--inner-rate=-1"], &["inner-rate is -1", "not negative"]);
    wrong(&["--outer-rate", "nan"], &["outer-rate is NaN", "finite"]);
    wrong(&["--clip", "0"], &["clip is 0", "above 0"]);
    wrong(&["--clip", "much"], &["much", "none"]);
    wrong(&["--dtype", "bf16"], &["streaming does not compute models in bf16", "f64 and f32"]);
    wrong(&["--task", "sines"], &["sines", "sinusoid, prototypes, key-value"]);
    wrong(&["--mode", "truncated"], &["truncated", "truncated:R"]);
    wrong(&["--backend", "cuda-fast"], &["cuda-fast", "streaming, dense, cuda-ref, cuda-fused"]);
    wrong(&["--optimiser", "lion"], &["lion", "sgd, momentum, adam"]);
    wrong(&["--evaluate", "0"], &["--evaluate"]);
    wrong(&["--ways", "3"], &["ways is given", "key-value tasks have none"]);
    wrong(&["--task", "images"], &["folder is missing"]);
    wrong(&["--task", "images", "--folder", text(&bench.path("gone"))], &["gone", "cannot read"]);
    maml(&[]).complains(&["--out"]);
    maml(&["--out", "a", "--resume", "b"]).complains(&["--out", "--resume"]);
    fs::write(bench.path("file"), "in the way").unwrap();
    bench.train("file/run", &[]).complains(&["cannot make the folder"]);
}

/// Images of a class have its stripes, in noise of their own.
fn draw_images(folder: &Path, classes: u32) {
    for class in 0..classes {
        let of_class = folder.join(format!("class {class}"));
        fs::create_dir_all(&of_class).unwrap();
        for number in 0..6_u32 {
            let pixel = |x: u32, y: u32| {
                let noise = (x * 7 + y * 13 + number * 31 + x * y * number) % 64;
                let stripe = (x * (class + 1) + y * (classes - class)) / 6 % 2;
                image::Luma([(stripe * 160 + noise) as u8])
            };
            image::GrayImage::from_fn(28, 28, pixel).save(of_class.join(format!("{number}.png"))).unwrap();
        }
    }
}

#[test]
fn images_of_a_folder_are_learned_from_and_others_judged_by() {
    let bench = Bench::new();
    draw_images(&bench.path("images"), 4);
    draw_images(&bench.path("others"), 3);
    let (images, others) = (bench.path("images"), bench.path("others"));
    let of_images = ["--task", "images", "--folder", text(&images), "--ways", "3", "--queries", "2"];
    let more =
        |steps| [&of_images[..], &["--inner-steps", "2", "--batch", "2", "--outer-steps", steps]].concat();
    let ran = bench.train("run", &[&more("5")[..], &["--test-folder", text(&others), "--json"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.json()["evaluation"]["accuracy"]["mean"].is_number());
    let same = bench.train("same", &[&more("5")[..], &["--json"]].concat()).json();
    assert_ne!(same["evaluation"]["loss"], ran.json()["evaluation"]["loss"], "judged by other classes");
    assert_eq!(bench.log("same"), bench.log("run"), "and learned from the same ones");
    assert_eq!(bench.train("part", &more("2")).code, 0);
    assert_eq!(bench.resume("part", &["--outer-steps", "5"]).code, 0);
    assert_eq!(bench.bytes("part/checkpoint.safetensors"), bench.bytes("same/checkpoint.safetensors"));
    let missing = bench.path("gone");
    let gone = [&more("5")[..], &["--test-folder", text(&missing)]].concat();
    bench.train("gone-run", &gone).complains(&["gone", "cannot read"]);
    assert!(!bench.path("gone-run").exists(), "said before anything begins");
    let few = [&of_images[..2], &["--folder", text(&others), "--ways", "5"]].concat();
    bench.train("few", &few).complains(&["3 classes", "5 are needed"]);
}
