//! Wrong kernels, and whether the suite notices them: the control of the suites on a device.
//!
//! Each one is the kernel of `cuda-fused` with a mistake that somebody could make. None of them touches memory
//! that the right one does not.

use half::bf16;
use theria_contract::conformance::{Amplitude, Case, MaskPattern, Suite};
use theria_contract::{Attention, Causal, Host, Window};
use theria_gpu_fwd::Edit;

use crate::device::conform;
use crate::evidence::Row;
use crate::on_device::{named, sized};

/// What is wrong, and the change that makes it so.
pub const WRONG: [(&str, Edit); 16] = [
    (
        "a reference is trusted whatever it gives",
        Edit { from: "good = good && sum[r][0] <= LIMIT && sum[r][1] <= LIMIT;", to: "" },
    ),
    (
        "a step whose reference was wrong goes on with what it found",
        Edit { from: "trusted = false; // and once more, with care", to: "break;" },
    ),
    ("O keeps its old reference", Edit { from: "state.out[r][n].x[2 * half] *= shrink;", to: "" }),
    ("l keeps its old reference", Edit { from: "state.sum[r][half] *= shrink;", to: "" }),
    (
        "large references are rounded as others are",
        Edit { from: "return !(fabsf(rounded) < LARGE);", to: "return false;" },
    ),
    ("lse is to base 2", Edit { from: "(rounded + log2_of(sum)) * LN_2", to: "rounded + log2_of(sum)" }),
    (
        "key groups are added up as if they had one reference",
        Edit {
            from: "state.sum[r][0] += share[0] * theirs[other].y;",
            to: "state.sum[r][0] += theirs[other].y;",
        },
    ),
    ("columns of another key group are left out", Edit { from: "to[3] += share[1] * x.w;", to: "" }),
    (
        "one key more than there are is seen",
        Edit { from: "(j < end && (MASKING", to: "(j <= end && (MASKING" },
    ),
    (
        "a window begins one key too late",
        Edit { from: "MASKING == LENGTHS || j >= first", to: "MASKING == LENGTHS || j > first" },
    ),
    ("all heads have the keys of the first", Edit { from: "h_kv = p.group.quotient(h);", to: "h_kv = 0;" }),
    ("bias is left out", Edit { from: "x += p.score.bias_at<E>(at.b, at.h, i, j);", to: ";" }),
    ("the mask is left out", Edit { from: " && p.score.lets_see(at.b, at.h, i, j);", to: ";" }),
    (
        "dropout drops what it should keep",
        Edit { from: "words.word[0] : words.word[2]) < p", to: "words.word[0] : words.word[2]) >= p" },
    ),
    (
        "what dropout keeps is not scaled",
        Edit { from: "__fdividef(float(p.score.kept), ", to: "__fdividef(1.0f, " },
    ),
    ("the scale is left out where scores are looked at", Edit { from: "x *= float(p.score.scale);", to: "" }),
];

/// Cases that between them notice every mistake.
fn suite() -> Suite {
    let room = |t, m| sized(2, [2, 1], t, m, 64, 64);
    let case = |name: &str, builder| named(name.to_owned(), builder);
    let rising = |case| Case { amplitude: Amplitude::Rising, ..case };
    let lengths = vec![150, 37];
    let everything =
        room(40, 150).causal(Causal::BottomRight).bias([1, 2, 40, 150]).mask([2, 1, 1, 150]).dropout(0.2, 5);
    let cases = vec![
        case("plain", room(40, 150)),
        case("heads that share keys", sized(1, [4, 2], 40, 150, 64, 64)),
        rising(case("rising beyond what f32 holds", room(40, 700).scale(16.0))),
        rising(case("rising", room(40, 700).scale(1.0))),
        rising(case("rising, causal", room(300, 300).causal(Causal::TopLeft).scale(1.0))),
        Case { key_lengths: lengths, ..case("key lengths", room(40, 150).key_lengths()) },
        case("window", room(140, 150).window(Window::new(20, 13))),
        Case { mask: MaskPattern::Random, ..case("everything", everything) },
        Case {
            lowest_keys: 80,
            ..case("padding hidden by the lowest number", room(40, 150).bias([1, 1, 1, 150]))
        },
    ];
    Suite { cases, precision: None }
}

/// The same for the sweeps of the other rules.
pub const WRONG_SWEEPS: [(&str, Edit); 12] = [
    ("δ is left out", Edit { from: "float centred = dp - row.delta();", to: "float centred = dp;" }),
    ("δ′ is left out", Edit { from: "p * (dp_tangent - row.delta_tangent())", to: "p * dp_tangent" }),
    (
        "μ is left out",
        Edit { from: "p * fmaf(s_tangent, scale, -row.mu());", to: "p * (s_tangent * scale);" },
    ),
    (
        "P is held constant",
        Edit { from: "fmaf(p_tangent, centred, p * (", to: "fmaf(p_tangent, 0.0f, p * (" },
    ),
    ("dS K′ is lost", Edit { from: "add_values<WHOLE>(dq, dp, k_tangent, count);", to: ";" }),
    ("dSᵀ Q′ is lost", Edit { from: "add_values<WHOLE>(dk, dp, q_tangent, count);", to: ";" }),
    ("(P ∘ Z)ᵀ G′ is lost", Edit { from: "add_values<WHOLE>(dv, s, g_tangent, count);", to: ";" }),
    ("P V′ is lost", Edit { from: "add_values<WHOLE>(state.out, s, v + ValueTile::BYTES, count);", to: ";" }),
    ("μ is without c", Edit { from: "shift + state.centre[r][half];", to: "shift;" }),
    (
        "dQ knows no dropout",
        Edit { from: "at.row(r, half), j) ? kept : 0;", to: "at.row(r, half), j) ? kept : kept;" },
    ),
    (
        "dK and dV know no dropout",
        Edit { from: "drops = !kept_by_dropout(p.forward.score, b, h, i, j);", to: ";" },
    ),
    (
        "only the first query head counts for shared keys",
        Edit { from: "total = stages * group;", to: "total = stages;" },
    ),
];

/// Cases that between them notice every mistake of a sweep.
fn suite_of_sweeps() -> Suite {
    let kept = ["plain", "heads that share keys", "everything"];
    suite().only(|name| kept.contains(&name))
}

/// Runs the right forward kernel and every wrong one; the wrong ones must fail somewhere.
pub fn noticed<B, O>(right: &B, wrong: impl Fn(Edit) -> B, oracle: &O) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host>,
{
    hold(&WRONG, "forward", &suite(), right, wrong, oracle)
}

/// The same for the sweeps of the other rules.
pub fn noticed_sweeps<B, O>(right: &B, wrong: impl Fn(Edit) -> B, oracle: &O) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host>,
{
    hold(&WRONG_SWEEPS, "second-order", &suite_of_sweeps(), right, wrong, oracle)
}

fn hold<B, O>(
    list: &[(&str, Edit)],
    rule: &str,
    suite: &Suite,
    right: &B,
    wrong: impl Fn(Edit) -> B,
    oracle: &O,
) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host>,
{
    let mut rows = conform::<bf16, _, _>(suite, right, oracle);
    for (what, edit) in list {
        let found = conform::<bf16, _, _>(suite, &wrong(*edit), oracle);
        let failed: Vec<&Row> = found.iter().filter(|row| row.verdict == "failed").collect();
        // A kernel that does not compile is no wrong result.
        let broken = failed.iter().find(|row| row.reason.starts_with("returned"));
        let by: Vec<&str> = failed.iter().map(|row| row.name.as_str()).collect();
        let by = broken.map_or_else(|| format!("by {}", by.join("; ")), |row| row.reason.clone());
        let (name, holds) = (format!("noticed: {what}"), broken.is_none() && !failed.is_empty());
        rows.push(Row::statement(name, rule, "cuda-fused", "bf16", holds, by));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{WRONG, WRONG_SWEEPS};
    use theria_gpu_fwd::forward::kernels;
    use theria_gpu_fwd::{Architecture, Source};

    #[test]
    fn every_change_is_of_something_that_is_there_once() {
        let kernels = kernels(Architecture::SM_90A);
        let fused: Source = kernels.iter().find(|kernel| kernel.name.starts_with("fused")).unwrap().source;
        for (what, edit) in WRONG {
            assert!(fused.edited(edit).is_some(), "{what}: {:?}", edit.from);
        }
    }

    #[test]
    fn every_change_of_a_sweep_is_of_something_that_is_there_once() {
        let kernels = theria_gpu_bwd::kernels(Architecture::SM_90A);
        let starts = ["fused-jvp", "fused-queries", "fused-keys"];
        let sources = starts.map(|start| kernels.iter().find(|k| k.name.starts_with(start)).unwrap().source);
        for (what, edit) in WRONG_SWEEPS {
            let changed = sources.iter().filter(|source| source.edited(edit).is_some()).count();
            assert!(changed > 0, "{what}: {:?}", edit.from);
        }
    }
}
