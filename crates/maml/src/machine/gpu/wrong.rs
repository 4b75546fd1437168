//! Wrong functions of rows, updates and sums, for tests that see whether they are noticed: kernels with mistakes that
//! somebody could make.

use theria_gpu_fwd::Edit;

const fn edit(from: &'static str, to: &'static str) -> Edit {
    // SAFETY: what is listed here changes numbers, leaves some of them out, or takes another row of the same operand; none
    // of it comes to an address that the right kernel does not come to.
    unsafe { Edit::new(from, to) }
}

/// What is wrong, and the change that makes it so.
pub const WRONG: [(&str, Edit); 28] = [
    (
        "the derivative of gelu has a wrong sign",
        edit("normal.below + at * normal.density", "normal.below - at * normal.density"),
    ),
    (
        "a density is too high by one in ten thousand",
        edit("R(0.39894228040143267794)", "R(0.39898217462944594)"),
    ),
    ("a density does not move", edit("-(x.value * slope)", "R(0)")),
    ("a distribution has no other half", edit("x < R(0) ? tail : R(1) - tail", "tail")),
    ("a product drops a tangent", edit("a.tangent * b.value + a.value * b.tangent", "a.tangent * b.value")),
    ("a quotient forgets what is below", edit("(a.tangent - value * b.tangent)", "a.tangent")),
    ("the sums of the last block are left out", edit("own = (many - depth +", "own = (many - 1 - depth +")),
    ("sums of blocks replace what they are added to", edit("all && of.add", "false")),
    (
        "the sums of the first blocks are taken for all",
        edit("row = from + first + depth", "row = from + depth"),
    ),
    (
        "sums of one block replace what they are added to",
        edit("rows.chunks == 1 && of.add, sums", "false, sums"),
    ),
    ("a counter is left as it is", edit("*tickets = 0;", "")),
    ("half of the rows of a block are lost", edit("depth >= half && depth < 2 * half", "depth == half")),
    (
        "what is added to a row replaces what is there",
        edit(
            "                if (add) {\n                    add_vector(wide",
            "                if (false) {\n                    add_vector(wide",
        ),
    ),
    ("what is added to a number replaces what is there", edit("*at = add ? *at + x : x;", "*at = x;")),
    (
        "chunks add up the rows of the next turn",
        edit("member * rows.groups + group", "member * rows.groups + (group + 1) % rows.groups"),
    ),
    ("the next row of a turn is taken", edit("cyclic ? by.remainder(r)", "cyclic ? by.remainder(r + 1)")),
    (
        "the last column is left out",
        edit(
            "if (j < there) {\n                to[j] = load",
            "if (j < there - 1) {\n                to[j] = load",
        ),
    ),
    (
        "a thread keeps its last row alone",
        edit("sums[place] = sums[place] + kept(x);", "sums[place] = kept(x);"),
    ),
    ("a sum is that of one warp", edit("warp < lanes / WARP", "warp < 1")),
    (
        "what lies outside of a row counts",
        edit("column(place) < width ? all + f(place) : all", "all + f(place)"),
    ),
    ("a variance is without its ε", edit("root_of(variance + N(epsilon))", "root_of(variance)")),
    ("the 2 of a squared error is lost", edit("N(2 * weight) * g(0)", "N(weight) * g(0)")),
    ("a cross-entropy forgets the class", edit("N(n == hit ? 1 : 0)", "N(0)")),
    ("rows that are picked again are not added", edit("left != 0; left &= left - 1", "left != 0; left = 0")),
    (
        "a later change counts from the first one",
        edit("(long long)(blockIdx.x - all.first[which])", "(long long)blockIdx.x"),
    ),
    (
        "what is narrow is cut off and not rounded",
        edit("Element<bf16>::from_acc(float(x))", "{(unsigned short)(__float_as_uint(float(x)) >> 16)}"),
    ),
    ("what is narrow is not added to", edit("R(Element<bf16>::to_acc(there)) + x", "x")),
    ("the 2 of Adam's squares is lost", edit("R(2) * (R(1) - R(second)) * g", "(R(1) - R(second)) * g")),
];

#[cfg(test)]
mod tests {
    use theria_gpu_fwd::{Architecture, Compiler, Error};

    use super::*;
    use crate::machine::kernels;

    /// Where there is a compiler, what was changed compiles: a text that does not is no wrong kernel.
    #[test]
    fn every_change_is_of_something_that_is_there_once() {
        let kernels = kernels();
        let compiler = Compiler::open();
        assert!(matches!(&compiler, Ok(_) | Err(Error::NoCompiler)), "{compiler:?}");
        for (what, edit) in WRONG {
            let changed = kernels.iter().find_map(|kernel| Some((kernel, kernel.source.edited(edit)?)));
            let (kernel, source) = changed.unwrap_or_else(|| panic!("{what}: {edit:?}"));
            if let Ok(compiler) = &compiler {
                let made = compiler.compile(source, Architecture::SM_90A, &kernel.options());
                assert!(made.is_ok(), "{what}: {:?}", made.err());
            }
        }
    }
}
