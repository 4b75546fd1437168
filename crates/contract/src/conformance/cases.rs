//! The standard list. A new feature adds its cases here, once, for every backend.

use super::{Amplitude, Case, MaskPattern, Memory};
use crate::{Causal, DType, Problem, ProblemBuilder, Window};

/// Sizes: batch, query heads, key/value heads, T, M, D, Dv.
type Sizes = [usize; 7];

fn sized([batch, heads_q, heads_kv, t, m, d, dv]: Sizes) -> ProblemBuilder {
    Problem::builder(DType::F64).batch(batch).heads(heads_q, heads_kv).lengths(t, m).head_dims(d, dv)
}

fn case(name: &'static str, sizes: Sizes, describe: impl FnOnce(ProblemBuilder) -> ProblemBuilder) -> Case {
    let problem = describe(sized(sizes)).build();
    Case::new(name, problem.expect("the standard cases are valid problems"))
}

/// Every feature alone, the features together, and the edges.
pub fn standard_cases() -> Vec<Case> {
    [
        sizes(),
        causal_masks(),
        windows(),
        masks_and_lengths(),
        biases(),
        dropouts(),
        magnitudes(),
        memory(),
        together(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn sizes() -> Vec<Case> {
    let plain = |builder| builder;
    vec![
        case("plain", [2, 2, 2, 32, 32, 16, 16], plain),
        case("ragged lengths", [1, 2, 2, 67, 131, 40, 24], plain),
        case("many tiles", [1, 1, 1, 300, 700, 32, 32], plain),
        case("just over a tile", [1, 1, 1, 129, 257, 64, 64], plain),
        case("more queries than keys", [1, 2, 2, 150, 9, 16, 16], plain),
        case("values wider than keys", [1, 2, 2, 20, 30, 8, 48], plain),
        case("values narrower than keys", [1, 2, 2, 20, 30, 48, 8], plain),
        case("wide heads", [1, 1, 1, 40, 50, 128, 128], plain),
        case("widest heads", [1, 1, 1, 18, 22, 256, 256], plain),
        case("odd head dimension", [1, 1, 1, 33, 35, 13, 7], plain),
        case("head dimensions of one", [2, 1, 1, 10, 12, 1, 1], plain),
        case("one query", [2, 2, 2, 1, 50, 16, 16], plain),
        case("one key", [2, 2, 2, 30, 1, 16, 16], plain),
        case("one query and one key", [1, 1, 1, 1, 1, 4, 4], plain),
        case("grouped heads", [2, 6, 2, 25, 35, 16, 16], plain),
        case("one head of keys for all", [1, 5, 1, 25, 35, 16, 16], plain),
        case("empty batch", [0, 2, 2, 5, 5, 4, 4], plain),
        case("no queries", [2, 2, 2, 0, 5, 4, 4], plain),
        case("no keys", [2, 2, 2, 5, 0, 4, 4], plain),
    ]
}

fn causal_masks() -> Vec<Case> {
    vec![
        case("causal", [1, 2, 2, 70, 70, 16, 16], |b| b.causal(Causal::TopLeft)),
        case("causal top-left, more keys", [1, 2, 2, 20, 45, 16, 16], |b| b.causal(Causal::TopLeft)),
        case("causal top-left, more queries", [1, 2, 2, 45, 20, 16, 16], |b| b.causal(Causal::TopLeft)),
        case("causal bottom-right, more keys", [1, 2, 2, 20, 45, 16, 16], |b| b.causal(Causal::BottomRight)),
        case("causal bottom-right, first rows see nothing", [1, 2, 2, 45, 20, 16, 16], |b| {
            b.causal(Causal::BottomRight)
        }),
        case("causal over many tiles", [1, 2, 1, 400, 530, 32, 32], |b| b.causal(Causal::BottomRight)),
    ]
}

fn windows() -> Vec<Case> {
    let left = |n| Window { left: Some(n), right: None };
    let right = |n| Window { left: None, right: Some(n) };
    vec![
        case("window", [1, 2, 2, 60, 60, 16, 16], |b| b.window(Window::new(7, 3))),
        case("window to the left", [1, 1, 1, 40, 60, 16, 16], |b| b.window(left(5))),
        case("window to the right", [1, 1, 1, 60, 40, 16, 16], |b| b.window(right(5))),
        case("window of the query's own position", [1, 1, 1, 30, 20, 8, 8], |b| b.window(Window::new(0, 0))),
        case("causal window", [1, 2, 1, 300, 300, 16, 16], |b| b.causal(Causal::TopLeft).window(left(40))),
        case("causal bottom-right window", [1, 1, 1, 50, 33, 16, 16], |b| {
            b.causal(Causal::BottomRight).window(Window::new(9, 4))
        }),
    ]
}

fn masks_and_lengths() -> Vec<Case> {
    let mut cases = vec![
        case("mask", [2, 2, 2, 20, 30, 8, 8], |b| b.mask([2, 2, 20, 30])),
        case("mask of keys", [2, 2, 2, 20, 30, 8, 8], |b| b.mask([2, 1, 1, 30])),
        case("mask shared by all heads", [2, 4, 2, 20, 30, 8, 8], |b| b.mask([1, 1, 20, 30])),
        Case {
            mask: MaskPattern::SomeRowsEmpty,
            ..case("mask with rows that see nothing", [1, 2, 2, 40, 30, 8, 8], |b| b.mask([1, 2, 40, 30]))
        },
        Case {
            mask: MaskPattern::AllHidden,
            ..case("mask that hides everything", [1, 1, 1, 9, 11, 8, 8], |b| b.mask([1, 1, 1, 11]))
        },
    ];
    let lengths = |name, sizes, lengths: &[i32], causal| Case {
        key_lengths: lengths.to_vec(),
        ..case(name, sizes, |b| b.key_lengths().causal(causal))
    };
    cases.extend([
        lengths("key lengths", [3, 2, 2, 20, 33, 8, 8], &[33, 12, 1], Causal::None),
        lengths("a key length of zero", [2, 2, 1, 20, 33, 8, 8], &[0, 20], Causal::None),
        lengths("causal key lengths", [2, 2, 1, 40, 33, 8, 8], &[17, 33], Causal::BottomRight),
    ]);
    cases
}

fn biases() -> Vec<Case> {
    let shapes: [(&'static str, [usize; 4]); 7] = [
        ("bias", [2, 4, 20, 30]),
        ("bias for each head", [1, 4, 20, 30]),
        ("bias shared by all", [1, 1, 20, 30]),
        ("bias of keys", [2, 1, 1, 30]),
        ("bias of queries", [1, 4, 20, 1]),
        ("bias of heads", [1, 4, 1, 1]),
        ("one bias", [1, 1, 1, 1]),
    ];
    let mut cases: Vec<Case> =
        shapes.map(|(name, shape)| case(name, [2, 4, 2, 20, 30, 8, 8], |b| b.bias(shape))).into();
    cases.extend([
        case("bias over many tiles", [1, 2, 1, 300, 550, 16, 16], |b| b.bias([1, 1, 300, 550])),
        Case {
            hidden_by_bias: 64,
            ..case("bias that hides keys", [1, 2, 2, 20, 30, 8, 8], |b| b.bias([1, 2, 20, 30]))
        },
        Case {
            hidden_by_bias: 200,
            ..case("bias that hides whole rows", [1, 2, 2, 40, 4, 8, 8], |b| b.bias([1, 2, 40, 4]))
        },
        Case {
            lowest_keys: 100,
            ..case("padding hidden by the lowest number", [1, 2, 2, 20, 150, 8, 8], |b| {
                b.bias([1, 1, 1, 150])
            })
        },
    ]);
    cases
}

fn dropouts() -> Vec<Case> {
    vec![
        case("dropout", [2, 2, 2, 20, 30, 8, 8], |b| b.dropout(0.1, 42)),
        case("heavy dropout, ragged", [1, 4, 2, 33, 131, 8, 8], |b| b.dropout(0.7, (9 << 32) + 5)),
        case("causal dropout over many tiles", [1, 1, 1, 140, 530, 16, 16], |b| {
            b.causal(Causal::BottomRight).dropout(0.25, 3)
        }),
    ]
}

fn magnitudes() -> Vec<Case> {
    let with = |case: Case, amplitude| Case { amplitude, ..case };
    vec![
        case("negative scale", [1, 2, 2, 20, 30, 16, 16], |b| b.scale(-0.3)),
        case("scale of zero", [1, 2, 2, 20, 30, 16, 16], |b| b.scale(0.0)),
        with(case("large scores", [1, 2, 2, 40, 150, 16, 16], |b| b.scale(0.5)), Amplitude::Grid),
        with(
            case("large scores, negative scale", [1, 1, 1, 40, 150, 16, 16], |b| b.scale(-0.25)),
            Amplitude::Grid,
        ),
        with(
            case("scores that rise along the keys", [1, 2, 1, 40, 700, 16, 16], |b| b.scale(2.0)),
            Amplitude::Rising,
        ),
        with(
            case("scores that rise, causal", [1, 1, 1, 300, 300, 16, 16], |b| {
                b.causal(Causal::TopLeft).scale(2.0)
            }),
            Amplitude::Rising,
        ),
        with(case("nearly uniform probabilities", [1, 2, 2, 40, 150, 16, 16], |b| b), Amplitude::Tiny),
    ]
}

fn memory() -> Vec<Case> {
    let features = |b: ProblemBuilder| b.causal(Causal::TopLeft).bias([2, 1, 30, 40]).mask([1, 4, 30, 40]);
    vec![
        Case { memory: Memory::HeadsInside, ..case("heads inside rows", [2, 4, 2, 30, 40, 16, 8], features) },
        Case { memory: Memory::Padded, ..case("padded memory", [2, 4, 2, 30, 40, 16, 8], features) },
        Case {
            memory: Memory::HeadsInside,
            ..case("heads inside rows, plain", [1, 3, 3, 140, 150, 64, 64], |b| b)
        },
    ]
}

fn together() -> Vec<Case> {
    let everything = |b: ProblemBuilder| {
        b.causal(Causal::BottomRight)
            .window(Window::new(25, 2))
            .bias([1, 4, 37, 53])
            .mask([2, 1, 37, 53])
            .key_lengths()
            .dropout(0.2, 77)
            .scale(0.21)
    };
    vec![
        Case {
            key_lengths: vec![53, 31],
            hidden_by_bias: 16,
            ..case("everything", [2, 4, 2, 37, 53, 24, 12], everything)
        },
        Case {
            key_lengths: vec![0, 40],
            memory: Memory::Padded,
            mask: MaskPattern::SomeRowsEmpty,
            ..case("everything, padded", [2, 4, 1, 37, 53, 12, 24], everything)
        },
    ]
}
