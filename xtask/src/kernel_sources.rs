//! The hash of the CUDA sources. What a device showed holds for the kernels that it ran, so evidence
//! of a device carries this hash, and a bundle tells its suites what it is.

use std::path::Path;

use anyhow::Result;

use crate::sources::Sources;

/// Every source and header; what else lies beside them, such as the budget, is not compiled.
const PATTERN: &str = "crates/*/kernels/**/*.cu*";

/// One hash of the names and texts of all kernels in the tree.
pub(crate) fn hash(root: &Path) -> Result<String> {
    Ok(Sources::collect(root, &[PATTERN.to_owned()])?.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::write_file;

    #[test]
    fn every_letter_and_name_of_a_kernel_counts_and_nothing_else() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        assert!(hash(root).is_err(), "a tree without kernels has no hash");
        write_file(&root.join("crates/a/kernels/one.cu"), "one")?;
        write_file(&root.join("crates/b/kernels/deep/two.cuh"), "two")?;
        let before = hash(root)?;
        write_file(&root.join("crates/a/kernels/budget.toml"), "[sm_80]\n")?;
        write_file(&root.join("crates/a/src/lib.rs"), "")?;
        assert_eq!(hash(root)?, before);
        write_file(&root.join("crates/b/kernels/deep/two.cuh"), "Two")?;
        assert_ne!(hash(root)?, before, "a letter");
        write_file(&root.join("crates/b/kernels/deep/two.cuh"), "two")?;
        assert_eq!(hash(root)?, before);
        std::fs::rename(root.join("crates/a/kernels/one.cu"), root.join("crates/a/kernels/uno.cu"))?;
        assert_ne!(hash(root)?, before, "a name");
        Ok(())
    }
}
