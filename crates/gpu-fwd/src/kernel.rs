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

impl Source {
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
