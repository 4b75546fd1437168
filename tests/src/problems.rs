//! Random problems over every feature.

use proptest::prelude::*;
use theria_contract::conformance::{Amplitude, Case, MaskPattern, Memory};
use theria_contract::{Causal, DType, Problem, Window};

/// Axes of a broadcast shape: each is 1 or that of the scores.
fn broadcast(scores: [usize; 4], keep: [bool; 4]) -> [usize; 4] {
    std::array::from_fn(|axis| if keep[axis] { scores[axis] } else { 1 })
}

/// Any combination of features, with head dimensions up to `widest`.
///
/// # Panics
/// If it makes a problem that is none.
pub fn any_case(widest: usize) -> impl Strategy<Value = Case> {
    let sizes = (0_usize..3, 1_usize..3, 1_usize..4, 0_usize..300, 0_usize..600, 1..=widest, 1..=widest);
    let masks = (
        prop::sample::select(vec![Causal::None, Causal::TopLeft, Causal::BottomRight]),
        prop::option::weighted(0.3, 0_usize..80),
        prop::option::weighted(0.3, 0_usize..80),
        prop::option::weighted(0.3, prop::array::uniform4(prop::bool::ANY)),
        prop::option::weighted(0.3, prop::array::uniform4(prop::bool::ANY)),
    );
    let others = (
        prop::bool::weighted(0.3),
        prop::option::weighted(0.2, 0.0_f64..0.9),
        prop::option::weighted(0.3, -0.5_f64..0.5),
        prop::sample::select(vec![Memory::Contiguous, Memory::HeadsInside, Memory::Padded]),
        0_u32..120,
        prop::collection::vec(0_u32..1000, 3),
    );
    (sizes, masks, others).prop_map(|(sizes, masks, others)| {
        let (batch, heads_kv, group, t, m, d, dv) = sizes;
        let (causal, left, right, bias, mask) = masks;
        let (lengths, dropout, scale, memory, hidden_by_bias, shares) = others;
        let mut builder = Problem::builder(DType::F64)
            .batch(batch)
            .heads(heads_kv * group, heads_kv)
            .lengths(t, m)
            .head_dims(d, dv)
            .causal(causal)
            .window(Window { left, right });
        let scores = [batch, heads_kv * group, t, m];
        if let Some(keep) = bias {
            builder = builder.bias(broadcast(scores, keep));
        }
        if let Some(keep) = mask {
            builder = builder.mask(broadcast(scores, keep));
        }
        if lengths {
            builder = builder.key_lengths();
        }
        if let Some(p) = dropout {
            builder = builder.dropout(p, 11);
        }
        if let Some(scale) = scale {
            builder = builder.scale(scale);
        }
        Case {
            amplitude: Amplitude::Moderate,
            memory,
            mask: MaskPattern::Random,
            key_lengths: (0..batch).map(|b| (shares[b] as usize * m / 999) as i32).collect(),
            hidden_by_bias,
            ..Case::new("random problem", builder.build().expect("a valid problem"))
        }
    })
}
