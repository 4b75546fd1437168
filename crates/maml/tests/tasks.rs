//! Generators of tasks: the same bits everywhere, tasks that do not depend on one another, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use tempfile::TempDir;
use theria_maml::Error;
use theria_maml::tasks::{
    Colours, ImageFolder, ImageSettings, KeyValue, LinearRegression, Prototypes, Samples, Sinusoid, Target,
    Task, TaskSource,
};

/// Classes of [`folder`], in the order of their names.
const CLASSES: [&str; 4] = ["ant", "bee", "cat", "dog"];

/// Images in each of them.
const IMAGES: u8 = 6;

/// A folder in which image n of class c is grey of brightness 50 c + 5 n + 20, with a few other things beside.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (c, class) in (0..).zip(CLASSES) {
        fs::create_dir(folder.path().join(class)).unwrap();
        for n in 0..IMAGES {
            let extension = if n % 2 == 0 { "png" } else { "jpg" };
            let grey = RgbImage::from_pixel(8, 8, Rgb([50 * c + 5 * n + 20; 3]));
            grey.save(folder.path().join(class).join(format!("{n}.{extension}"))).unwrap();
        }
    }
    fs::write(folder.path().join("read me.txt"), "not a class").unwrap();
    fs::create_dir(folder.path().join(".thumbnails")).unwrap();
    fs::write(folder.path().join("ant/.hidden"), "not an image").unwrap();
    folder
}

const SETTINGS: ImageSettings = ImageSettings {
    ways: 3,
    shots: 2,
    queries: 4,
    height: 4,
    width: 4,
    colours: Colours::Grey,
    memory: 1 << 20,
};

/// A folder of PNG images that are no two pixels alike.
fn pictures() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (c, class) in (0..).zip(CLASSES) {
        fs::create_dir(folder.path().join(class)).unwrap();
        for n in 0..IMAGES {
            let picture = RgbImage::from_fn(11, 9, |x, y| {
                let at = |a: u32, b: u32| (a * x + b * y + 31 * c + 17 * u32::from(n)) as u8;
                Rgb([at(23, 5), at(3, 29), at(13, 41)])
            });
            picture.save(folder.path().join(class).join(format!("{n}.png"))).unwrap();
        }
    }
    folder
}

/// Every generator, with the hash of task 3 of seed 7.
fn sources() -> Vec<(&'static str, Box<dyn TaskSource>, &'static str)> {
    let pictures = pictures();
    let images = |colours| {
        let settings = ImageSettings { height: 5, width: 6, colours, ..SETTINGS };
        Box::new(ImageFolder::open(pictures.path(), settings).unwrap())
    };
    vec![
        ("sinusoid", Box::new(Sinusoid::default()), "82b39abb7b59e545"),
        ("prototypes", Box::new(Prototypes::default()), "15bafebde120687f"),
        ("key-value", Box::new(KeyValue::default()), "c13f40c19e1ce9d7"),
        ("linear", Box::new(LinearRegression::default()), "7e70b228bf8764a0"),
        (
            "noisy linear",
            Box::new(LinearRegression { noise: 0.5, ..LinearRegression::default() }),
            "d5292de55e12cb2b",
        ),
        ("grey images", images(Colours::Grey), "add321329656f81a"),
        ("images", images(Colours::Rgb), "35bdaa051a462431"),
    ]
}

/// The start of a hash of every bit of a task.
fn hash(task: &Task) -> String {
    let mut hasher = blake3::Hasher::new();
    for numbers in [&task.support.inputs, &task.support.targets, &task.query.inputs, &task.query.targets] {
        for number in numbers {
            hasher.update(&number.to_bits().to_le_bytes());
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[test]
fn tasks_have_the_recorded_bits() {
    let made: Vec<_> =
        sources().iter().map(|(name, source, _)| (*name, hash(&source.task(7, 3).unwrap()))).collect();
    let recorded: Vec<_> = sources().iter().map(|(name, _, hash)| (*name, (*hash).to_owned())).collect();
    assert_eq!(made, recorded);
}

#[test]
fn a_task_does_not_depend_on_what_was_drawn_before() {
    for (name, source, _) in sources() {
        let alone = source.task(7, 3).unwrap();
        let others: Vec<Task> = (0..5).map(|number| source.task(7, number).unwrap()).collect();
        assert_eq!(hash(&alone), hash(&others[3]), "{name}");
        assert_eq!(hash(&alone), hash(&source.task(7, 3).unwrap()), "{name}");
    }
}

#[test]
fn tasks_of_other_numbers_and_seeds_differ() {
    for (name, source, _) in sources() {
        let names = [(7, 3), (7, 4), (8, 3), (3, 7), (7 | 1 << 32, 3), (7, 3 | 1 << 32)];
        let hashes: BTreeSet<String> =
            names.iter().map(|(seed, number)| hash(&source.task(*seed, *number).unwrap())).collect();
        assert_eq!(hashes.len(), names.len(), "{name}");
    }
}

#[test]
fn tasks_have_the_shape_that_their_source_tells() {
    for (name, source, _) in sources() {
        let task = source.task(7, 3).unwrap();
        let shape = source.shape();
        for (samples, count) in [(&task.support, source.support_count()), (&task.query, source.query_count())]
        {
            assert_eq!((samples.shape, samples.count), (shape, count), "{name}");
            assert_eq!(samples.inputs.len(), count * shape.length * shape.columns, "{name}");
            assert_eq!(samples.targets.len(), count * shape.target.columns(), "{name}");
            if let Target::Class(classes) = shape.target {
                let known = |class: &f64| class.fract() == 0.0 && (0.0..classes as f64).contains(class);
                assert!(samples.targets.iter().all(known), "{name}");
            }
        }
        assert_ne!(task.support.inputs, task.query.inputs, "{name}");
    }
}

#[test]
fn images_of_a_task_are_drawn_once_and_keep_their_class() {
    let folder = folder();
    let source = ImageFolder::open(folder.path(), SETTINGS).unwrap();
    assert_eq!(source.class_names().collect::<Vec<_>>(), CLASSES);
    assert_eq!(source.bytes(), 4 * 6 * 16);
    let mut every = BTreeSet::new();
    for number in 0..200 {
        let task = source.task(1, number).unwrap();
        let mut seen = BTreeSet::new();
        let mut classes = [None; 3];
        for (samples, of_each) in [(&task.support, 2), (&task.query, 4)] {
            for n in 0..samples.count {
                let (class, image) = recognised(samples, n);
                let label = samples.target(n)[0] as usize;
                assert_eq!(label, n / of_each, "class by class");
                assert_eq!(*classes[label].get_or_insert(class), class, "a label is one class");
                assert!(seen.insert((class, image)), "drawn twice");
            }
        }
        assert_eq!(classes.iter().collect::<BTreeSet<_>>().len(), 3);
        every.insert(classes);
    }
    assert_eq!(every.len(), 4 * 3 * 2, "every choice of classes, in every order");
}

/// The class and the number of an image of [`folder`]. JPEG may be a step off.
fn recognised(samples: &Samples, n: usize) -> (u8, u8) {
    let image = samples.input(n);
    assert!(image.iter().all(|x| (x - image[0]).abs() < 0.01));
    let brightness = (image[0] * 255.0 - 20.0 + 2.0) as u8;
    (brightness / 50, brightness % 50 / 5)
}

#[test]
fn a_picture_of_the_right_size_is_kept_pixel_by_pixel() {
    let folder = pictures();
    let settings = ImageSettings { height: 9, width: 11, colours: Colours::Rgb, ..SETTINGS };
    let task = ImageFolder::open(folder.path(), settings).unwrap().task(1, 1).unwrap();
    let stored: Vec<Vec<f64>> = CLASSES
        .iter()
        .flat_map(|class| (0..IMAGES).map(move |n| format!("{class}/{n}.png")))
        .map(|file| image::open(folder.path().join(file)).unwrap().into_rgb8())
        .map(|picture| picture.as_raw().iter().map(|byte| f64::from(*byte) / 255.0).collect())
        .collect();
    for n in 0..task.query.count {
        assert!(stored.iter().any(|picture| picture == task.query.input(n)));
    }
}

/// What opening a folder says.
fn refusal(folder: &Path, settings: ImageSettings) -> Error {
    ImageFolder::open(folder, settings).unwrap_err()
}

#[test]
fn folders_that_cannot_be_drawn_from_are_refused_by_name() {
    let folder = folder();
    let path = folder.path();
    let says = |error: &Error, parts: &[&str]| {
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };

    let error = refusal(path, ImageSettings { ways: 5, ..SETTINGS });
    assert!(matches!(error, Error::TooFewImages { what: "classes", given: 4, needed: 5, .. }));
    says(&error, &[path.to_str().unwrap(), "4 classes", "5 are needed"]);

    let error = refusal(path, ImageSettings { queries: 5, ..SETTINGS });
    assert!(matches!(error, Error::TooFewImages { what: "images", given: 6, needed: 7, .. }));
    says(&error, &["ant", "6 images", "7 are needed"]);

    let error = refusal(path, ImageSettings { memory: 383, ..SETTINGS });
    assert!(matches!(error, Error::ImageMemory { needed: 384, allowed: 383, .. }));
    says(&error, &[path.to_str().unwrap(), "384", "383"]);
    assert!(ImageFolder::open(path, ImageSettings { memory: 384, ..SETTINGS }).is_ok());

    let error = refusal(&path.join("nowhere"), SETTINGS);
    assert!(matches!(error, Error::UnreadableImage { .. }));
    says(&error, &["nowhere"]);

    let empty = tempfile::tempdir().unwrap();
    let error = refusal(empty.path(), SETTINGS);
    assert!(matches!(error, Error::TooFewImages { what: "classes", given: 0, .. }));

    fs::create_dir(path.join("cow")).unwrap();
    let error = refusal(path, SETTINGS);
    assert!(matches!(error, Error::TooFewImages { what: "images", given: 0, .. }));
    says(&error, &["cow"]);
    fs::remove_dir(path.join("cow")).unwrap();

    let whole = fs::read(path.join("cat/0.png")).unwrap();
    let broken: [(&str, &[u8]); 3] = [
        ("notes.txt", b"not an image"),
        ("named.png", b"not an image"),
        ("cut.png", &whole[..whole.len() / 2]),
    ];
    for (name, bytes) in broken {
        fs::write(path.join("cat").join(name), bytes).unwrap();
        let error = refusal(path, SETTINGS);
        assert!(matches!(error, Error::UnreadableImage { .. }), "{name}");
        says(&error, &["cat", name]);
        fs::remove_file(path.join("cat").join(name)).unwrap();
    }

    fs::create_dir(path.join("cat/more")).unwrap();
    says(&refusal(path, SETTINGS), &["cat", "more"]);
}

#[test]
fn parameters_outside_their_range_are_refused_by_name() {
    fn source(source: &impl TaskSource) -> Error {
        source.task(1, 1).unwrap_err()
    }
    let (sinusoid, prototypes) = (Sinusoid::default(), Prototypes::default());
    let (memory, linear) = (KeyValue::default(), LinearRegression::default());
    let images = |settings| refusal(Path::new("never looked at"), settings);
    let refused = [
        ("shots", "0", source(&Sinusoid { shots: 0, ..sinusoid })),
        ("queries", "0", source(&Sinusoid { queries: 0, ..sinusoid })),
        ("length", "1", source(&Prototypes { length: 1, ..prototypes })),
        ("length", "0", source(&Prototypes { length: 0, ..prototypes })),
        ("width", "0", source(&Prototypes { width: 0, ..prototypes })),
        ("classes", "0", source(&Prototypes { classes: 0, ..prototypes })),
        ("signals", "0", source(&Prototypes { signals: 0, ..prototypes })),
        ("signals", "32", source(&Prototypes { signals: 32, ..prototypes })),
        ("noise", "-1", source(&Prototypes { noise: -1.0, ..prototypes })),
        ("support", "0", source(&Prototypes { support: 0, ..prototypes })),
        ("query", "0", source(&Prototypes { query: 0, ..prototypes })),
        ("pairs", "0", source(&KeyValue { pairs: 0, ..memory })),
        ("width", "0", source(&KeyValue { width: 0, ..memory })),
        ("labels", "0", source(&KeyValue { labels: 0, ..memory })),
        ("norm", "0", source(&KeyValue { norm: 0.0, ..memory })),
        ("norm", "NaN", source(&KeyValue { norm: f64::NAN, ..memory })),
        ("noise", "inf", source(&KeyValue { noise: f64::INFINITY, ..memory })),
        ("width", "0", source(&LinearRegression { width: 0, ..linear })),
        ("context", "0", source(&LinearRegression { context: 0, ..linear })),
        ("queries", "0", source(&LinearRegression { queries: 0, ..linear })),
        ("noise", "NaN", source(&LinearRegression { noise: f64::NAN, ..linear })),
        ("ways", "0", images(ImageSettings { ways: 0, ..SETTINGS })),
        ("shots", "0", images(ImageSettings { shots: 0, ..SETTINGS })),
        ("queries", "0", images(ImageSettings { queries: 0, ..SETTINGS })),
        ("height", "0", images(ImageSettings { height: 0, ..SETTINGS })),
        ("width", "100000", images(ImageSettings { width: 100_000, ..SETTINGS })),
    ];
    for (name, value, error) in refused {
        let text = error.to_string();
        assert!(
            matches!(&error, Error::TaskParameter { parameter, given, .. } if *parameter == name && given == value),
            "{name} = {value}: {text}"
        );
        assert!(text.contains(name) && text.contains("must be"), "{text}");
    }
    assert!(Prototypes { signals: 31, ..prototypes }.task(1, 1).is_ok(), "every row but the first");
}
