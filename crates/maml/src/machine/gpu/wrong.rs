//! Wrong functions of rows, updates and sums, for tests that see whether they are noticed: kernels with mistakes that
//! somebody could make.

use theria_gpu_fwd::Edit;

const fn edit(from: &'static str, to: &'static str) -> Edit {
    // SAFETY: what is listed here changes numbers, leaves some of them out, or takes another row of the same operand; none
    // of it comes to an address that the right kernel does not come to.
    unsafe { Edit::new(from, to) }
}

/// What is wrong, and the change that makes it so.
pub const WRONG: [(&str, Edit); 20] = [
    (
        "the derivative of gelu has a wrong sign",
        edit("normal(at) + at * density(at)", "normal(at) - at * density(at)"),
    ),
    ("erf rises too fast by one in ten thousand", edit("R(1.12837916709551257390)", "R(1.12849200500)")),
    ("a product drops a tangent", edit("a.tangent * b.value + a.value * b.tangent", "a.tangent * b.value")),
    ("a quotient forgets what is below", edit("(a.tangent - value * b.tangent)", "a.tangent")),
    (
        "the last chunk of a sum is left out",
        edit("chunk < all.chunks; chunk +=", "chunk < all.chunks - 1; chunk +="),
    ),
    (
        "sums of chunks replace what they are added to",
        edit("all.add ? *to + sums[threadIdx.x] : sums[threadIdx.x]", "sums[threadIdx.x]"),
    ),
    (
        "what is added replaces what is there",
        edit("add ? load_written<R>(to, narrow, n) + kept(x) : kept(x)", "kept(x)"),
    ),
    (
        "chunks add up the rows of the next turn",
        edit("begin * rows.shared.n + group", "begin * rows.shared.n + (group + 1) % rows.shared.n"),
    ),
    ("the next row of a turn is taken", edit("cyclic ? r % unsigned(n)", "cyclic ? (r + 1) % unsigned(n)")),
    ("the last column is left out", edit("if (begin + lane < width) {", "if (begin + lane < width - 1) {")),
    (
        "a lane keeps its last row alone",
        edit("sums[operand] += kept(value);", "sums[operand] = kept(value);"),
    ),
    (
        "sums of one warp replace what they are added to",
        edit("rows.chunks == 1 && of.add ? to[n] + sums[k] : sums[k]", "sums[k]"),
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
    (
        "what is narrow is not added to",
        edit("R(Element<bf16>::to_acc(static_cast<const bf16 *>(from)[n]))", "R(0)"),
    ),
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
