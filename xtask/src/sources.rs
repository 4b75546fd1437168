//! What a seal speaks for: the files of a phase and their hashes.
//!
//! A seal is one hash, but a stale seal should name the files that changed, so the hash of every
//! file is kept beside the evidence in `docs/results/phaseN.sources.json`. That list is not
//! trusted: its own digest has to be the `source_hash` of `phases.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use xshell::{Shell, cmd};

/// What a walk without git leaves out; with git, `.gitignore` decides.
const NEVER_WALKED: &[&str] = &["target", "gpu-bundle", "__pycache__"];

/// Hashes by path, relative to the workspace with `/` between parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sources {
    files: BTreeMap<String, String>,
}

impl Sources {
    /// Hashes the files that `patterns` name. A pattern that names nothing is an error: a seal
    /// must not lose a source to a typing mistake or a moved file.
    pub(crate) fn collect(root: &Path, patterns: &[String]) -> Result<Self> {
        let all = list_files(root)?;
        let mut files = BTreeMap::new();
        for pattern in patterns {
            let mut found = false;
            for path in all.iter().filter(|path| matches(pattern, path)) {
                found = true;
                if !files.contains_key(path) {
                    files.insert(path.clone(), hash_file(&root.join(path))?);
                }
            }
            if !found {
                bail!(
                    "source `{pattern}` names no file: create it, or correct `sources` in phases.toml \
                     (a file, a folder, or a pattern with `*` within a name and `**` across folders)"
                );
            }
        }
        Ok(Self { files })
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a list of hashes", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write_file(path, &(serde_json::to_string_pretty(self)? + "\n"))
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// One hash for all: of the lines `hash  path`, in the order of the paths.
    pub(crate) fn digest(&self) -> String {
        digest(self.files.iter().map(|(path, hash)| (path.as_str(), hash.as_str())))
    }

    /// What differs in `self` from the `sealed` state, one phrase per file.
    pub(crate) fn changes_since(&self, sealed: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (path, hash) in &self.files {
            match sealed.files.get(path) {
                None => changes.push(format!("added {path}")),
                Some(old) if old != hash => changes.push(format!("changed {path}")),
                Some(_) => {}
            }
        }
        let gone = sealed.files.keys().filter(|path| !self.files.contains_key(*path));
        changes.extend(gone.map(|path| format!("removed {path}")));
        changes
    }
}

/// The hash of named hashes.
pub(crate) fn digest<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, hash) in entries {
        hasher.update(format!("{hash}  {name}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn hash_file(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hash_bytes(&bytes))
}

/// The hash of a file's content, whatever line endings a checkout gave it: text is hashed with LF.
/// As for git, a NUL near the start means binary.
pub(crate) fn hash_bytes(bytes: &[u8]) -> String {
    let binary = bytes.iter().take(8_000).any(|&byte| byte == 0);
    if binary || !bytes.contains(&b'\r') {
        return blake3::hash(bytes).to_hex().to_string();
    }
    let mut text = Vec::with_capacity(bytes.len());
    for (index, &byte) in bytes.iter().enumerate() {
        if byte != b'\r' || bytes.get(index + 1) != Some(&b'\n') {
            text.push(byte);
        }
    }
    blake3::hash(&text).to_hex().to_string()
}

/// Files of the workspace, sorted: tracked ones and new ones that git does not ignore, or, in a
/// folder without `.git` (a source archive), everything but build outputs.
pub(crate) fn list_files(root: &Path) -> Result<Vec<String>> {
    let mut files = if root.join(".git").exists() {
        let shell = Shell::new()?;
        shell.change_dir(root);
        let listing = cmd!(shell, "git ls-files -co --exclude-standard -z").quiet().read()?;
        let named = listing.split('\0').filter(|path| !path.is_empty());
        // A file that is deleted but not yet staged is still listed.
        named.filter(|path| root.join(path).is_file()).map(str::to_owned).collect()
    } else {
        let mut files = Vec::new();
        walk(root, "", &mut files)?;
        files
    };
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() && !NEVER_WALKED.contains(&name) {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() && !has_extension(name, "pyc") {
            files.push(path);
        }
    }
    Ok(())
}

pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// A pattern names a file, a folder with all it holds, or, with `*`, every path that fits.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern = pattern.trim_end_matches('/');
    if !pattern.contains('*') {
        let rest = path.strip_prefix(pattern);
        return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    fits_folders(&pattern, &path)
}

fn fits_folders(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => (0..=path.len()).any(|skipped| fits_folders(rest, &path[skipped..])),
        (Some((name, rest)), Some((part, path))) => fits_name(name, part) && fits_folders(rest, path),
        _ => false,
    }
}

fn fits_name(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| fits_name(tail, &rest[at..]))
        }),
    }
}

/// Writes beside `path` and renames, so that an interrupted task leaves no half-written record.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    let folder: PathBuf = path.parent().map_or_else(|| ".".into(), Path::to_path_buf);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = tempfile::Builder::new().prefix(".xtask").tempfile_in(&folder)?;
    fs::write(file.path(), text)?;
    // A temporary file is private to its owner; a file of the project is not.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Vec<String> {
        list.iter().map(|&pattern| pattern.to_owned()).collect()
    }

    #[test]
    fn line_endings_do_not_change_a_hash_but_letters_do() {
        assert_eq!(hash_bytes(b"one\r\ntwo\r\n"), hash_bytes(b"one\ntwo\n"));
        assert_ne!(hash_bytes(b"one\ntwo\n"), hash_bytes(b"one\ntwO\n"));
        assert_ne!(hash_bytes(b"one\rtwo\n"), hash_bytes(b"onetwo\n"), "a lone CR is content");
        assert_ne!(hash_bytes(b"\0one\r\n"), hash_bytes(b"\0one\n"), "binary files are hashed as they are");
    }

    #[test]
    fn patterns_name_files_folders_and_families() {
        for (pattern, path, expected) in [
            ("crates/contract", "crates/contract/src/lib.rs", true),
            ("crates/contract/", "crates/contract/src/lib.rs", true),
            ("crates/contract", "crates/contract-extra/src/lib.rs", false),
            ("crates/contract/Cargo.toml", "crates/contract/Cargo.toml", true),
            ("kernels/hopper_*.cu", "kernels/hopper_forward.cu", true),
            ("kernels/hopper_*.cu", "kernels/portable_forward.cu", false),
            ("kernels/hopper_*.cu", "kernels/old/hopper_forward.cu", false),
            ("crates/**/*.rs", "crates/a/src/b/c.rs", true),
            ("crates/**/*.rs", "crates/a.rs", true),
            ("crates/**/*.rs", "crates/a/Cargo.toml", false),
            ("crates/*", "crates/a/b.rs", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn changes_are_named_file_by_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        for name in ["kept", "changed", "removed", "target/ignored"] {
            write_file(&root.join("src").join(name), "before")?;
        }
        let before = Sources::collect(root, &patterns(&["src"]))?;
        assert_eq!(before.len(), 3, "a walk without git leaves build outputs out");
        write_file(&root.join("src/changed"), "after")?;
        write_file(&root.join("src/added"), "new")?;
        fs::remove_file(root.join("src/removed"))?;
        let after = Sources::collect(root, &patterns(&["src"]))?;
        assert_ne!(before.digest(), after.digest());
        assert_eq!(
            after.changes_since(&before),
            ["added src/added", "changed src/changed", "removed src/removed"]
        );
        assert_eq!(before.changes_since(&before), [""; 0]);
        Ok(())
    }

    #[test]
    fn a_source_that_names_nothing_is_an_error() -> Result<()> {
        let folder = tempfile::tempdir()?;
        write_file(&folder.path().join("src/lib.rs"), "")?;
        let error = Sources::collect(folder.path(), &patterns(&["src", "scr"])).expect_err("`scr` is a slip");
        assert!(error.to_string().contains("`scr` names no file"), "{error}");
        Ok(())
    }

    #[test]
    fn moving_content_between_files_changes_the_digest() {
        let swapped = [("a", "1"), ("b", "2")];
        let straight = [("a", "2"), ("b", "1")];
        assert_ne!(digest(swapped.into_iter()), digest(straight.into_iter()));
    }
}
