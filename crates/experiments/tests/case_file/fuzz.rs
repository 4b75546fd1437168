//! Files that nobody meant: whatever the bytes, an answer and never a panic.

use proptest::prelude::*;
use serde_json::{Value, json};
use theria_contract::{DType, Problem, Window};
use theria_experiments::case_file::{Candidate, Case, CaseFile};

use crate::{Draft, framed};

/// Loads a file in two types, and as a result file. What it returns is whether it is a case.
fn load(bytes: &[u8]) -> bool {
    let _ = Candidate::parse(bytes.to_vec());
    let Ok(file) = CaseFile::parse(bytes.to_vec()) else { return false };
    let _ = file.fits::<half::f16>();
    file.load::<f64>().expect("a parsed case loads");
    file.load::<half::bf16>().expect("a parsed case loads");
    true
}

fn valid() -> Vec<u8> {
    let problem = Problem::builder(DType::F32)
        .heads(2, 1)
        .lengths(2, 3)
        .head_dims(2, 2)
        .window(Window::new(2, 1))
        .bias([1, 2, 1, 3])
        .mask([1, 1, 2, 3])
        .key_lengths()
        .dropout(0.5, 9)
        .build()
        .unwrap();
    Case::<f32>::random(&problem, 2).unwrap().to_bytes().unwrap()
}

fn header_of(bytes: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

/// A value that a header may hold somewhere and should not hold elsewhere.
fn odd_value() -> impl Strategy<Value = Value> {
    let edge = prop::sample::select(vec![
        0,
        1,
        2,
        3,
        4,
        5,
        255,
        1 << 31,
        1 << 32,
        1 << 61,
        1 << 62,
        1 << 63,
        u64::MAX,
    ]);
    let dtype = prop::sample::select(vec![
        "F64", "F32", "F16", "BF16", "BOOL", "U8", "I8", "I32", "I64", "F8_E4M3", "F4", "C64", "f32", "",
    ]);
    let text = prop::sample::select(vec![
        "-1,-1",
        "nan",
        "-0",
        "1e308",
        "top-left",
        "18446744073709551616",
        "\u{0}",
        " 1 ",
    ]);
    prop_oneof![
        prop::collection::vec(edge.clone(), 0..6).prop_map(|list| json!(list)),
        (edge.clone(), edge.clone()).prop_map(|pair| json!([pair.0, pair.1])),
        edge.prop_map(|number| json!(number)),
        dtype.prop_map(|name| json!(name)),
        text.prop_map(|text| json!(text)),
        Just(Value::Null),
        Just(json!({})),
        Just(json!(-1)),
        Just(json!(0.5)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn random_bytes_are_no_case(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!load(&bytes));
    }

    #[test]
    fn random_text_behind_a_right_length_is_no_case(header in "[\\[\\]{}\":,0-9a-z_ ]{0,80}", data in prop::collection::vec(any::<u8>(), 0..16)) {
        prop_assert!(!load(&framed(header.as_bytes(), &data)));
    }

    #[test]
    fn a_case_with_any_bytes_changed_is_a_case_or_an_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        grown in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let mut bytes = valid();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(grown);
        load(&bytes);
    }

    #[test]
    fn a_case_with_any_part_of_its_header_replaced_is_a_case_or_an_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize, odd_value()), 1..4),
    ) {
        let (mut header, data) = header_of(&valid());
        for (which, field, value) in changes {
            let names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
            let name = &names[which.index(names.len())];
            match field {
                3 => header[name] = value,
                field if name == "__metadata__" => {
                    let key = ["scale", "window", "dropout"][field];
                    if let Some(metadata) = header[name].as_object_mut() {
                        metadata.insert(key.into(), value);
                    }
                }
                field => {
                    if let Some(entry) = header[name].as_object_mut() {
                        entry.insert(["dtype", "shape", "data_offsets"][field].into(), value);
                    }
                }
            }
        }
        load(&framed(header.to_string().as_bytes(), &data));
    }

    #[test]
    fn a_consistent_container_of_any_names_types_and_shapes_is_a_case_or_an_error(
        tensors in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "q", "k", "v", "bias", "mask", "kv_lengths", "dout", "q_tangent", "bias_tangent", "dout_tangent",
                    "out", "lse", "dq",
                ]),
                prop::sample::select(vec![("F32", 4), ("F64", 8), ("BF16", 2), ("BOOL", 1), ("I32", 4), ("I64", 8)]),
                prop::collection::vec(0..3_usize, 0..6),
            ),
            0..5,
        ),
        start_with_a_case in any::<bool>(),
    ) {
        let mut draft = if start_with_a_case { Draft::plain() } else { Draft { header: json!({}), data: Vec::new() } };
        let mut used = if start_with_a_case { vec!["q", "k", "v"] } else { vec![] };
        for (name, (dtype, width), shape) in tensors {
            if !used.contains(&name) {
                used.push(name);
                draft.add(name, dtype, &shape, width);
            }
        }
        load(&draft.bytes());
    }

    #[test]
    fn a_case_of_any_shapes_near_the_plain_one_is_a_case_or_an_error(
        q in prop::array::uniform4(0..4_usize), k in prop::array::uniform4(0..4_usize), v in prop::array::uniform4(0..4_usize),
    ) {
        let mut draft = Draft { header: json!({}), data: Vec::new() };
        draft.add("q", "F16", &q, 2).add("k", "F16", &k, 2).add("v", "F16", &v, 2);
        let is_case = load(&draft.bytes());
        let fits = k[0] == q[0] && v[0] == q[0] && v[1] == k[1] && v[2] == k[2] && k[3] == q[3]
            && k[1] > 0 && q[1] > 0 && q[1] % k[1].max(1) == 0 && q[3] > 0 && v[3] > 0;
        prop_assert_eq!(is_case, fits, "{:?} {:?} {:?}", q, k, v);
    }
}

#[test]
fn the_case_that_is_mutated_is_a_case() {
    assert!(load(&valid()));
    let (header, data) = header_of(&valid());
    assert!(load(&framed(header.to_string().as_bytes(), &data)));
}
