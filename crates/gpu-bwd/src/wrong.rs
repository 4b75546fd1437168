//! Wrong sweeps, for tests that see whether they are noticed: kernels of `cuda-fused` with mistakes that somebody could
//! make.
#![allow(unsafe_code)] // see `edit`

use theria_gpu_fwd::Edit;

const fn edit(from: &'static str, to: &'static str) -> Edit {
    // SAFETY: what is listed here changes numbers, and no address.
    unsafe { Edit::new(from, to) }
}

/// Sweeps over queries that no block makes once more: dQ is of δ as statistics made it.
pub const ONCE: Edit = edit("if (!REPEATS || !__syncthreads_or(!good))", "if (true)");

/// Statistics that do not know what rounding took from O and O′.
pub const WITHOUT_RESTS: Edit =
    edit("const E *beside = rest.data ? rest.at<E>(batch, h, i) : nullptr;", "const E *beside = nullptr;");

/// What is wrong, and the change that makes it so.
pub const WRONG: [(&str, Edit); 13] = [
    ("δ is left out", edit("float centred = dp - row.delta();", "float centred = dp;")),
    ("δ′ is left out", edit("p * (dp_tangent - row.delta_tangent())", "p * dp_tangent")),
    ("μ is left out", edit("p * fmaf(s_tangent, scale, -row.mu());", "p * (s_tangent * scale);")),
    ("P is held constant", edit("fmaf(p_tangent, centred, p * (", "fmaf(p_tangent, 0.0f, p * (")),
    ("dS K′ is lost", edit("add_values<WHOLE>(dq, dp, k_tangent, count);", ";")),
    ("dSᵀ Q′ is lost", edit("add_values<WHOLE>(dk, dp, q_tangent, count);", ";")),
    ("(P ∘ Z)ᵀ G′ is lost", edit("add_values<WHOLE>(dv, s, g_tangent, count);", ";")),
    ("P V′ is lost", edit("add_values<WHOLE>(state.out, s, v + ValueTile::BYTES, count);", ";")),
    ("μ is without c", edit("moved + state.centre[r][half];", "moved;")),
    (
        "what rounding took from O′ has the wrong sign",
        edit("x = {x.x - rounded.x, x.y - rounded.y};", "x = {rounded.x - x.x, rounded.y - x.y};"),
    ),
    ("dQ knows no dropout", edit("at.row(r, half), j) ? kept : 0;", "at.row(r, half), j) ? kept : kept;")),
    ("dK and dV know no dropout", edit("drops = !kept_by_dropout(p.forward.score, b, h, i, j);", ";")),
    ("only the first query head counts for shared keys", edit("total = stages * group;", "total = stages;")),
];

/// The same for kernels for Hopper. None of these waits for what never comes.
pub const WRONG_ON_HOPPER: [(&str, Edit); 22] = [
    ("JVP: Q K′ᵀ is lost", edit("multiply_keys(s_tangent, q, k_tangent, true);", ";")),
    ("JVP: μ is without c", edit("not_a_number() : whole + own.centre[half];", "not_a_number() : whole;")),
    ("JVP: O is not taken off", edit("-end.shift * o.x)", "-0.0f * o.x)")),
    (
        "JVP: a window begins one key too late",
        edit("8 * n + c < first || 8 * n + c >= end", "8 * n + c <= first || 8 * n + c >= end"),
    ),
    ("backward: δ is left out", edit("two.first_delta);", "0.0f * two.first_delta);")),
    ("backward: dK is without the scale", edit("put(dk, scale, p.dk", "put(dk, 1, p.dk")),
    (
        "backward: a window ends one query too late",
        edit(
            "x = query + 8 * n + c < width ? x : -infinity();",
            "x = query + 8 * n + c <= width ? x : -infinity();",
        ),
    ),
    ("few keys: δ is of half of the columns", edit("fmaf(lower(g >> 16),", "fmaf(0.0f,")),
    (
        "few keys: dQ is of half of the keys",
        edit("multiply_shared<E, KEYS>(dq,", "multiply_shared<E, KEYS / 2>(dq,"),
    ),
    ("few keys: dQ is without the scale", edit("dq[n] *= float(all.score.scale);", ";")),
    ("few keys: dK is without the scale", edit("put(dk[part], float(all.score.scale),", "put(dk[part], 1,")),
    ("whose turn is last has made dQ alone", edit("if (turn == 0)", "if (true)")),
    ("one strand is taken for all of dQ", edit("min_of(all.strands, seen.end", "min_of(1, seen.end")),
    ("dQ is without the scale", edit("scale * (half ? x[n].z : x[n].x)", "(half ? x[n].z : x[n].x)")),
    (
        "second order: μ is left out",
        edit("fmaf(s_tangent[e + c], scale, -known[c].x);", "s_tangent[e + c] * scale;"),
    ),
    ("second order: δ is left out", edit("dp[e + c] -= known[c].y;", ";")),
    ("second order: δ′ is left out", edit("dp[e + c], -known[c].y);", "dp[e + c], 0.0f);")),
    (
        "second order: Q K′ᵀ is lost",
        edit("multiply(s_tangent, own + K_TANGENT_AT, stage + Q_AT, true);", ";"),
    ),
    (
        "second order: G V′ᵀ is lost",
        edit("multiply(s_tangent, own + V_TANGENT_AT, stage + G_AT, true);", ";"),
    ),
    ("second order: Pᵀ G′ is lost", edit("add_product(dv, weights, stage + G_TANGENT_AT);", ";")),
    ("second order: dSᵀ Q′ is lost", edit("add_product(dk, curved, stage + Q_TANGENT_AT);", ";")),
    ("second order: dS′ᵀ Q is lost", edit("add_product(dk, curved_tangent, stage + Q_AT);", ";")),
];
