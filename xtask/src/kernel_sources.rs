//! The hash of the CUDA sources. What a device showed holds for the kernels that it ran, so evidence
//! of a device carries this hash, and a bundle tells its suites what it is.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::sources::Sources;

/// One hash of the names and texts of the kernels of these crates. Every source and header counts; what
/// else lies beside them, such as the budget, is not compiled. A crate may have none, but not all of them.
pub(crate) fn hash(root: &Path, crates: &[String]) -> Result<String> {
    let folder = |name: &String| name.strip_prefix("theria-").unwrap_or(name).to_owned();
    let folders = crates.iter().map(|name| format!("crates/{}/kernels", folder(name)));
    let there = folders.filter(|folder| root.join(folder).is_dir());
    let patterns: Vec<String> = there.map(|folder| format!("{folder}/**/*.cu*")).collect();
    ensure!(!patterns.is_empty(), "none of {} has kernels", crates.join(", "));
    Ok(Sources::collect(root, &patterns)?.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::write_file;

    #[test]
    fn every_letter_and_name_of_a_kernel_counts_and_nothing_else() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        let both = ["theria-a".to_owned(), "theria-b".to_owned()];
        assert!(hash(root, &both).is_err(), "a tree without kernels has no hash");
        write_file(&root.join("crates/a/kernels/one.cu"), "one")?;
        write_file(&root.join("crates/b/kernels/deep/two.cuh"), "two")?;
        write_file(&root.join("crates/c/kernels/three.cu"), "three")?;
        let before = hash(root, &both)?;
        assert_ne!(hash(root, &both[..1])?, before, "a crate");
        write_file(&root.join("crates/a/kernels/budget.toml"), "[sm_80]\n")?;
        write_file(&root.join("crates/a/src/lib.rs"), "")?;
        write_file(&root.join("crates/c/kernels/three.cu"), "a crate of another phase")?;
        assert_eq!(hash(root, &both)?, before);
        let more = [both.to_vec(), vec!["theria-without".to_owned()]].concat();
        assert_eq!(hash(root, &more)?, before, "a crate without kernels");
        assert!(hash(root, &more[2..]).is_err(), "and nothing else");
        write_file(&root.join("crates/b/kernels/deep/two.cuh"), "Two")?;
        assert_ne!(hash(root, &both)?, before, "a letter");
        write_file(&root.join("crates/b/kernels/deep/two.cuh"), "two")?;
        assert_eq!(hash(root, &both)?, before);
        std::fs::rename(root.join("crates/a/kernels/one.cu"), root.join("crates/a/kernels/uno.cu"))?;
        assert_ne!(hash(root, &both)?, before, "a name");
        Ok(())
    }
}
