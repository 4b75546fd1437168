//! Every way in which a file can be wrong has its own error.

use serde_json::json;
use theria_contract::Error;
use theria_experiments::case_file::{CaseError, CaseFile};

use crate::{Draft, framed};

#[track_caller]
fn error(bytes: Vec<u8>) -> CaseError {
    CaseFile::parse(bytes).expect_err("a wrong file")
}

fn of(change: impl FnOnce(&mut Draft)) -> CaseError {
    let mut draft = Draft::plain();
    change(&mut draft);
    error(draft.bytes())
}

#[test]
fn the_plain_case_is_right() {
    CaseFile::parse(Draft::plain().bytes()).unwrap();
}

#[test]
fn a_file_that_is_cut_anywhere_is_truncated() {
    let whole = Draft::plain().bytes();
    for length in 0..whole.len() {
        let error = error(whole[..length].to_vec());
        let named = matches!(
            error,
            CaseError::TooShort { .. } | CaseError::HeaderBeyondEnd { .. } | CaseError::Data { .. }
        );
        assert!(named, "{length}: {error}");
    }
}

#[test]
fn bytes_after_the_last_tensor_are_refused() {
    let mut bytes = Draft::plain().bytes();
    bytes.push(0);
    assert!(matches!(error(bytes), CaseError::Data { .. }));
}

#[test]
fn headers_that_are_no_headers_are_refused() {
    assert!(matches!(error(b"PK\x03\x04 some archive".to_vec()), CaseError::HeaderBeyondEnd { .. }));
    assert!(matches!(error(vec![0xff; 64]), CaseError::HeaderBeyondEnd { .. }));
    let huge = [&(2_u64 << 20).to_le_bytes()[..], &vec![b' '; 3 << 20]].concat();
    assert!(matches!(error(huge), CaseError::HeaderTooLarge { given: 2_097_152, .. }));
    for header in [&b""[..], b"[]", b"null", b"{", b"{}}", b"\xff\xfe", b"{\"q\":1}", b"{\"q\":{}}"] {
        assert!(matches!(error(framed(header, b"")), CaseError::Header { .. }), "{header:?}");
    }
}

#[test]
fn a_deeply_nested_header_is_an_error_and_no_stack_overflow() {
    let nested = "[".repeat(500_000);
    assert!(matches!(error(framed(nested.as_bytes(), b"")), CaseError::Header { .. }));
}

#[test]
fn tensors_that_overlap_or_leave_gaps_are_refused() {
    let overlap = of(|draft| draft.header["k"]["data_offsets"] = json!([0, 96]));
    assert!(matches!(overlap, CaseError::Data { .. }), "{overlap}");
    let gap = of(|draft| {
        draft.data.extend([0; 4]);
        draft.header["v"]["data_offsets"] = json!([196, 292]);
    });
    assert!(matches!(gap, CaseError::Data { .. }), "{gap}");
    let backwards = of(|draft| draft.header["v"]["data_offsets"] = json!([288, 192]));
    assert!(matches!(backwards, CaseError::Data { .. }), "{backwards}");
}

#[test]
fn shapes_that_overflow_or_contradict_their_bytes_are_refused() {
    let largest = u64::MAX;
    for shape in [json!([largest, largest, 2, 2]), json!([1_u64 << 62, 4, 4, 4]), json!([1, 2, 3, 5])] {
        let error = of(|draft| draft.header["v"]["shape"] = shape.clone());
        assert!(matches!(error, CaseError::Header { .. }), "{shape}: {error}");
    }
    for shape in [json!([-1, 2, 3, 4]), json!([1.5, 2, 3, 4]), json!("1"), json!(null)] {
        let error = of(|draft| draft.header["v"]["shape"] = shape.clone());
        assert!(matches!(error, CaseError::Header { .. }), "{shape}: {error}");
    }
}

#[test]
fn an_empty_batch_of_absurd_lengths_is_an_error_and_no_overflow() {
    let mut draft = Draft { header: json!({}), data: Vec::new() };
    for name in ["q", "k", "v"] {
        draft.header[name] = json!({"dtype": "F32", "shape": [0, 1, 1_u64 << 62, 1], "data_offsets": [0, 0]});
    }
    let error = error(draft.bytes());
    assert!(
        matches!(error, CaseError::Problem(Error::TooLarge { .. }) | CaseError::Header { .. }),
        "{error}"
    );
}

#[test]
fn unknown_names_come_with_the_known_ones() {
    let error = of(|draft| {
        draft.add("query", "F32", &[1], 4);
    });
    assert!(matches!(&error, CaseError::UnknownTensor { name, .. } if name == "query"));
    assert!(error.to_string().contains("kv_lengths"), "{error}");
    let error = of(|draft| {
        draft.metadata(&[("sclae", "1")]);
    });
    assert!(matches!(&error, CaseError::UnknownMetadata { key, .. } if key == "sclae"));
    assert!(error.to_string().contains("dropout_seed"), "{error}");
}

#[test]
fn every_case_needs_q_and_k_and_v() {
    for missing in ["q", "k", "v"] {
        let mut draft = Draft { header: json!({}), data: Vec::new() };
        for name in ["q", "k", "v"].into_iter().filter(|name| *name != missing) {
            draft.add(name, "F32", &[1, 2, 3, 4], 4);
        }
        let error = error(draft.bytes());
        assert!(matches!(error, CaseError::MissingTensor { name } if name == missing), "{error}");
    }
}

#[test]
fn companions_must_be_there() {
    let bias = of(|draft| {
        draft.add("bias_tangent", "F32", &[1, 1, 3, 3], 4);
    });
    assert!(matches!(bias, CaseError::Without { name: "bias_tangent", needs: "bias" }), "{bias}");
    let dout = of(|draft| {
        draft.add("dout_tangent", "F32", &[1, 2, 3, 4], 4);
    });
    assert!(matches!(dout, CaseError::Without { name: "dout_tangent", needs: "dout" }), "{dout}");
    for alone in [("dropout", "0.5"), ("dropout_seed", "1")] {
        let error = of(|draft| {
            draft.metadata(&[alone]);
        });
        assert!(matches!(error, CaseError::Without { .. }), "{error}");
    }
}

#[test]
fn element_types_are_checked() {
    let mut integers = Draft { header: json!({}), data: Vec::new() };
    for name in ["q", "k", "v"] {
        integers.add(name, "I32", &[1, 2, 3, 4], 4);
    }
    let integers = error(integers.bytes());
    assert!(matches!(integers, CaseError::ElementType { name: "q", .. }), "{integers}");
    let mixed = of(|draft| {
        draft.add("dout", "F64", &[1, 2, 3, 4], 8);
    });
    assert!(matches!(mixed, CaseError::MixedTypes { name: "dout", .. }), "{mixed}");
    let mask = of(|draft| {
        draft.add("mask", "F32", &[1, 1, 3, 3], 4);
    });
    assert!(matches!(mask, CaseError::ElementType { name: "mask", .. }), "{mask}");
    let lengths = of(|draft| {
        draft.add("kv_lengths", "F32", &[1], 4);
    });
    assert!(matches!(lengths, CaseError::ElementType { name: "kv_lengths", .. }), "{lengths}");
}

#[test]
fn shapes_are_checked() {
    let rank = of(|draft| draft.header["q"]["shape"] = json!([2, 3, 4]));
    assert!(matches!(rank, CaseError::Rank { name: "q", .. }), "{rank}");
    let bias = of(|draft| {
        draft.add("bias", "F32", &[1, 1, 1, 1, 1], 4);
    });
    assert!(matches!(bias, CaseError::Rank { name: "bias", .. }), "{bias}");
    let bias = of(|draft| {
        draft.add("bias", "F32", &[1, 1, 2, 3], 4);
    });
    assert!(matches!(bias, CaseError::Problem(Error::NotBroadcastable { name: "bias", .. })), "{bias}");
    let head_dim = of(|draft| draft.header["k"]["shape"] = json!([1, 2, 4, 3]));
    assert!(matches!(head_dim, CaseError::Problem(Error::Inconsistent { .. })), "{head_dim}");
    let tangent = of(|draft| {
        draft.add("q_tangent", "F32", &[1, 2, 4, 3], 4);
    });
    assert!(matches!(tangent, CaseError::TensorShape { name: "q_tangent", .. }), "{tangent}");
    let lengths = of(|draft| {
        draft.add("kv_lengths", "I32", &[2], 4);
    });
    assert!(matches!(lengths, CaseError::TensorShape { name: "kv_lengths", .. }), "{lengths}");
    let heads = of(|draft| {
        for name in ["k", "v"] {
            draft.header[name]["shape"] = json!([1, 0, 3, 4]);
            draft.header[name]["data_offsets"] = json!([96, 96]);
        }
        draft.data.truncate(96);
    });
    assert!(matches!(heads, CaseError::Problem(Error::ZeroDimension { .. })), "{heads}");
}

#[test]
fn metadata_that_cannot_be_read_says_what_it_must_be() {
    let error = |entries: &[(&str, &str)]| {
        of(|draft| {
            draft.metadata(entries);
        })
    };
    assert!(matches!(error(&[("scale", "large")]), CaseError::Metadata { key: "scale", .. }));
    for infinite in ["nan", "inf", "1e999"] {
        assert!(matches!(error(&[("scale", infinite)]), CaseError::Problem(Error::NonFiniteScale { .. })));
    }
    let seed = [("dropout", "0.5"), ("dropout_seed", "-1")];
    assert!(matches!(error(&seed), CaseError::Metadata { key: "dropout_seed", .. }));
    for p in ["1", "-0.1", "nan"] {
        let dropout = error(&[("dropout", p), ("dropout_seed", "1")]);
        assert!(matches!(dropout, CaseError::Problem(Error::DropoutProbability { .. })), "{dropout}");
    }
    for wrong in [("causal", "yes"), ("window", "3"), ("window", "-2,0")] {
        assert!(matches!(error(&[wrong]), CaseError::Problem(Error::UnknownName { .. })));
    }
    let number = of(|draft| draft.header["__metadata__"] = json!({"scale": 0.5}));
    assert!(matches!(number, CaseError::Header { .. }), "metadata are strings: {number}");
}

#[test]
fn key_lengths_outside_the_keys_are_named() {
    for (dtype, bytes) in [
        ("I32", (-1_i32).to_le_bytes().to_vec()),
        ("I32", 4_i32.to_le_bytes().to_vec()),
        ("I64", (1_i64 << 40).to_le_bytes().to_vec()),
        ("I64", i64::MIN.to_le_bytes().to_vec()),
    ] {
        let mut draft = Draft::plain();
        draft.add("kv_lengths", dtype, &[1], bytes.len());
        let start = draft.data.len() - bytes.len();
        draft.data[start..].copy_from_slice(&bytes);
        let error = error(draft.bytes());
        assert!(matches!(error, CaseError::KeyLength { batch: 0, m: 3, .. }), "{error}");
    }
}

#[test]
fn metadata_of_other_writers_is_let_be() {
    let mut draft = Draft::plain();
    draft.metadata(&[("format", "pt"), ("scale", "-0.5")]);
    assert_eq!(CaseFile::parse(draft.bytes()).unwrap().problem().scale(), -0.5);
}
