//! Wrong kernels, for tests that see whether they are noticed: the kernel of `cuda-fused` with mistakes that somebody
//! could make.
#![allow(unsafe_code)] // see `edit`

use crate::Edit;

const fn edit(from: &'static str, to: &'static str) -> Edit {
    // SAFETY: what is listed here changes numbers, and no address.
    unsafe { Edit::new(from, to) }
}

/// What is wrong, and the change that makes it so.
pub const WRONG: [(&str, Edit); 18] = [
    (
        "a reference is trusted whatever it gives",
        edit("good = good && sum[r][0] <= LIMIT && sum[r][1] <= LIMIT;", ""),
    ),
    (
        "a step whose reference was wrong goes on with what it found",
        edit("trusted = false; // and once more, with care", "break;"),
    ),
    ("O keeps its old reference", edit("state.out[r][n].x[2 * half] *= shrink;", "")),
    ("l keeps its old reference", edit("state.sum[r][half] *= shrink;", "")),
    (
        "large references are rounded as others are",
        edit("return !(fabsf(rounded) < LARGE);", "return false;"),
    ),
    ("lse is to base 2", edit("(rounded + log2_of(sum)) * LN_2", "rounded + log2_of(sum)")),
    (
        "key groups are added up as if they had one reference",
        edit("state.sum[r][0] += share[0] * theirs[other].y;", "state.sum[r][0] += theirs[other].y;"),
    ),
    ("columns of another key group are left out", edit("to[3] += share[1] * x.w;", "")),
    ("one key more than there are is seen", edit("(j < end && (MASKING", "(j <= end && (MASKING")),
    (
        "a window begins one key too late",
        edit("MASKING == LENGTHS || j >= first", "MASKING == LENGTHS || j > first"),
    ),
    ("all heads have the keys of the first", edit("h_kv = p.group.quotient(h);", "h_kv = 0;")),
    ("bias is left out", edit("x += p.score.bias_at<E>(at.b, at.h, i, j);", ";")),
    ("the mask is left out", edit(" && p.score.lets_see(at.b, at.h, i, j);", ";")),
    (
        "dropout drops what it should keep",
        edit("words.word[0] : words.word[2]) < p", "words.word[0] : words.word[2]) >= p"),
    ),
    ("what dropout keeps is not scaled", edit("__fdividef(float(p.score.kept), ", "__fdividef(1.0f, ")),
    (
        "what rounding took has the wrong sign",
        edit("x = {x.x - rounded.x, x.y - rounded.y};", "x = {rounded.x - x.x, rounded.y - x.y};"),
    ),
    ("what rounding took is O itself", edit("x = {x.x - rounded.x, x.y - rounded.y};", ";")),
    ("the scale is left out where scores are looked at", edit("x *= float(p.score.scale);", "")),
];

/// The same for the kernels for Hopper. None of these waits for what never comes.
pub const WRONG_ON_HOPPER: [(&str, Edit); 22] = [
    (
        "the first reference is kept whatever comes",
        edit("if ((top[0] - old[half]) * factor > ROOM) {", "if ((top[0] - old[half]) * factor > 1e30f) {"),
    ),
    ("l keeps its old reference", edit("state.sum[half] *= shrink[half];", ";")),
    ("O keeps its old reference", edit("state.out[n] *= shrink[n / 2 % 2];", ";")),
    ("what O is divided by keeps its old reference", edit("state.rounded[2 * half] *= shrink[half];", ";")),
    ("lse is to base 2", edit("(against + log2_of(sum)) * LN_2;", "against + log2_of(sum);")),
    ("large references are rounded as others are", edit("return !(fabsf(x) < LARGE);", "return false;")),
    (
        "a key before the first one is seen",
        edit(
            "(INTERVALS ? score.first_key(row + 8 * half, length) : 0) - column;",
            "(INTERVALS ? score.first_key(row + 8 * half, length) : -1) - column;",
        ),
    ),
    ("a window begins one key too late", edit("if (8 * n + c < first ||", "if (8 * n + c <= first ||")),
    ("the last key is not seen", edit("8 * n + c >= end))", "8 * n + c + 1 >= end))")),
    (
        "the last keys of a short head are others",
        edit(
            "begin_scores(s, queries(), keys(1) + BEFORE * PANEL_ROW);",
            "begin_scores(s, queries(), keys(1));",
        ),
    ),
    (
        "all heads have the keys of the first",
        edit("h_kv = p.group.quotient(h);\n        length", "h_kv = 0;\n        length"),
    ),
    (
        "the rest has the wrong sign",
        edit(
            "x -= Element<E>::to_acc(Element<E>::from_acc(x));\n                    y -= Element<E>::to_acc(Element<E>::from_acc(y));",
            "x = Element<E>::to_acc(Element<E>::from_acc(x)) - x;\n                    y = Element<E>::to_acc(Element<E>::from_acc(y)) - y;",
        ),
    ),
    (
        "few rows: a guessed reference is trusted whatever it gives",
        edit("is_odd = is_odd || !(rows.sum[0] <= LIMIT && rows.sum[1] <= LIMIT);", ";"),
    ),
    ("few rows: l keeps its old reference", edit("rows.sum[half] *= shrink[half];", ";")),
    ("few rows: O keeps its old reference", edit("  out[n] *= shrink[n / 2 % 2];", ";")),
    (
        "few rows: what O is divided by keeps its old reference",
        edit("rows.rounded[half] *= shrink[half];", ";"),
    ),
    (
        "few rows: warpgroups are added up as if they had one reference",
        edit("mine[half] = exp2_of(__fmul_rn(own.top[half], factor) - against[half]);", "mine[half] = 1;"),
    ),
    (
        "few rows: columns of the other warpgroup are left out",
        edit("fmaf(x[1], mine[half], sent[2 * half + 1] * theirs[half]);", "x[1] * mine[half];"),
    ),
    (
        "few rows: the last keys are not looked at",
        edit("if (!work.is_whole(p.score, group + 2))", "if (false)"),
    ),
    (
        "few rows: all heads have the keys of the first",
        edit("h_kv = p.group.quotient(h);\n        see(", "h_kv = 0;\n        see("),
    ),
    ("few rows: columns are written in another's place", edit("(late ? word[0] : word[2]) = x;", ";")),
    (
        "few rows: the rest has the wrong sign",
        edit("Math::pair(first - o.x, second - o.y);", "Math::pair(o.x - first, o.y - second);"),
    ),
];
