//! A kernel as data: what decides its code, and what a launch of it needs.

/// CUDA C++, with the headers that it includes: nothing else is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name, as errors of the compiler say it.
    pub name: &'static str,
    /// The text.
    pub text: &'static str,
    /// Names and texts of the headers.
    pub headers: &'static [(&'static str, &'static str)],
}

/// A change of a source's text. Tests make kernels wrong with it, and see whether it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    from: &'static str,
    to: &'static str,
}

impl Edit {
    /// A change of a text that is there once.
    ///
    /// # Safety
    /// Kernels that are changed by it touch no other memory than before.
    #[allow(unsafe_code)] // kernels vouch for what they touch, and this changes them
    pub const unsafe fn new(from: &'static str, to: &'static str) -> Self {
        Self { from, to }
    }
}

impl Source {
    /// This source with a change in its text or in that of a header. `None` unless what is changed is there once.
    /// The new text is never released.
    pub fn edited(self, Edit { from, to }: Edit) -> Option<Self> {
        let texts = self.headers.iter().map(|(_, text)| *text).chain([self.text]);
        let found: usize = texts.map(|text| text.matches(from).count()).sum();
        let change = |text: &'static str| -> &'static str {
            if text.contains(from) { text.replace(from, to).leak() } else { text }
        };
        let headers: Vec<_> = self.headers.iter().map(|(name, text)| (*name, change(text))).collect();
        (found == 1).then(|| Self { text: change(self.text), headers: headers.leak(), ..self })
    }

    /// Everything of it that decides what is compiled.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let headers = self.headers.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
        std::iter::once(self.text.as_bytes()).chain(headers)
    }
}

/// One instance of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSpec {
    /// Says every choice, so that no two instances share it: `fused-forward-bf16-d64-…`.
    pub name: String,
    /// The source.
    pub source: Source,
    /// What the source leaves open.
    pub defines: Vec<(&'static str, String)>,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl KernelSpec {
    /// The name of the function in every source.
    pub const ENTRY: &'static str = "kernel";

    /// The compiler's options.
    pub fn options(&self) -> Vec<String> {
        self.defines.iter().map(|(name, value)| format!("-D{name}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_what_is_there_once_in_a_text_or_a_header() {
        let source =
            Source { name: "a.cu", text: "one two two", headers: &[("b.cuh", "three"), ("c.cuh", "four")] };
        let edited = |from| source.edited(Edit { from, to: "six" });
        assert_eq!(edited("one").unwrap().text, "six two two");
        assert_eq!(edited("three").unwrap().headers, [("b.cuh", "six"), ("c.cuh", "four")]);
        assert_eq!(edited("three").unwrap().text, source.text);
        assert_eq!([edited("two"), edited("five"), edited("o")], [None; 3]);
    }
}
