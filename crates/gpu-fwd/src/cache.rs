//! Compiled kernels on disk.
//!
//! A cubin is kept under a [`Key`]: a hash of everything that decided it (source, options, compiler,
//! architecture). A file is written beside its place and renamed, so that another process sees a whole
//! one or none; two that compile the same kernel at the same time write the same bytes. Each file carries
//! a hash of its content: one that does not match is compiled again and replaced, never loaded.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use tempfile::NamedTempFile;

use crate::{Architecture, Compiler, Error, Result, Source};

/// What a file of this cache starts with.
const MAGIC: &[u8; 8] = b"THERIA01";
const HASH: usize = blake3::OUT_LEN;

/// Names a cubin by what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(blake3::Hash);

impl Key {
    /// The key of a source under these options, for this architecture, by this compiler.
    pub fn new(compiler: &Compiler, source: Source, architecture: Architecture, options: &[String]) -> Self {
        Self::of(compiler.version(), source, architecture, options)
    }

    fn of(version: (u32, u32), source: Source, architecture: Architecture, options: &[String]) -> Self {
        let version = [version.0.to_le_bytes(), version.1.to_le_bytes()];
        let options = Compiler::options(architecture, options);
        let parts = source.parts().chain(version.iter().map(|number| &number[..]));
        Self(hash(parts.chain(options.iter().map(String::as_bytes))))
    }
}

/// The hash of a list.
pub(crate) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        // The length before each part: no two lists run together to the same bytes.
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

/// Writes a file of these parts in the place of an older one, and makes its folder. Another process sees the old
/// file or the new one.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.persist(path)?;
    Ok(())
}

/// Where a cubin came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was kept.
    Disk,
    /// It was compiled, and is kept now.
    Compiled,
    /// It was kept, but not as it was written; it was compiled again, and replaces the damaged one.
    Replaced,
}

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct CubinCache {
    folder: PathBuf,
}

impl CubinCache {
    /// The cache of this user: `THERIA_CACHE_DIR`, or `theria/cubins` where the system keeps caches.
    pub fn of_user() -> Result<Self> {
        if let Some(folder) = std::env::var_os("THERIA_CACHE_DIR").filter(|folder| !folder.is_empty()) {
            return Ok(Self::at(folder));
        }
        let strategy = etcetera::choose_base_strategy().map_err(|_| Error::NoCacheFolder)?;
        Ok(Self::at(strategy.cache_dir().join("theria/cubins")))
    }

    /// The cache in this folder, which is made when something is kept.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cubin of this key: the one that is kept, or what `compile` makes, which is kept from now on.
    /// A folder that cannot be written costs the next process a compilation and nothing else: the
    /// error comes beside the cubin.
    pub fn get(
        &self,
        key: Key,
        compile: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<(Vec<u8>, Origin, Option<Error>)> {
        let path = self.folder.join(format!("{}.cubin", key.0.to_hex()));
        let kept = fs::read(&path).ok();
        if let Some(cubin) = kept.as_deref().and_then(content) {
            return Ok((cubin.to_vec(), Origin::Disk, None));
        }
        let origin = if kept.is_some() { Origin::Replaced } else { Origin::Compiled };
        if origin == Origin::Replaced {
            tracing::warn!(path = %path.display(), "a compiled kernel was damaged; it is compiled again");
        }
        let cubin = compile()?;
        let kept = replace(&path, &[MAGIC, blake3::hash(&cubin).as_bytes(), &cubin]);
        Ok((cubin, origin, kept.map_err(|source| Error::Cache { path, source }).err()))
    }
}

/// The cubin of a file, if the file is as it was written.
fn content(file: &[u8]) -> Option<&[u8]> {
    let (hash, cubin) = file.strip_prefix(MAGIC)?.split_at_checked(HASH)?;
    (blake3::hash(cubin).as_bytes() == hash && !cubin.is_empty()).then_some(cubin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &'static str) -> Source {
        Source { name: "test.cu", text, headers: &[] }
    }

    fn key(text: &'static str) -> Key {
        Key::of((13, 0), source(text), Architecture::SM_90A, &[])
    }

    fn never() -> Result<Vec<u8>> {
        panic!("what is kept is not compiled again")
    }

    #[test]
    fn a_kernel_is_compiled_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path().join("made/when/needed"));
        let first = cache.get(key("a"), || Ok(vec![1, 2, 3])).unwrap();
        assert_eq!((first.0, first.1), (vec![1, 2, 3], Origin::Compiled));
        assert!(first.2.is_none(), "{:?}", first.2);
        let second = cache.get(key("a"), never).unwrap();
        assert_eq!((second.0, second.1), (vec![1, 2, 3], Origin::Disk));
    }

    #[test]
    fn everything_that_decides_a_cubin_is_in_its_key() {
        let options = |text: &str| vec![text.to_owned()];
        let keys = [
            key("a"),
            key("b"),
            Key::of((13, 0), Source { headers: &[("h", "a")], ..source("a") }, Architecture::SM_90A, &[]),
            Key::of((13, 0), Source { headers: &[("h", "b")], ..source("a") }, Architecture::SM_90A, &[]),
            Key::of((13, 1), source("a"), Architecture::SM_90A, &[]),
            Key::of((13, 0), source("a"), Architecture::SM_80, &[]),
            Key::of((13, 0), source("a"), Architecture::SM_90A, &options("-DX=1")),
            Key::of((13, 0), source("a"), Architecture::SM_90A, &[options("-DX"), options("=1")].concat()),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|b| a != b), "key {i}");
        }
        assert_eq!(key("a"), key("a"));
    }

    #[test]
    fn a_damaged_file_is_never_trusted_wherever_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path());
        cache.get(key("a"), || Ok(vec![7; 50])).unwrap();
        let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&path).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        damaged.extend((0..whole.len()).map(|n| {
            let mut file = whole.clone();
            file[n] ^= 1;
            file
        }));
        for file in damaged {
            fs::write(&path, file).unwrap();
            let (cubin, origin, _) = cache.get(key("a"), || Ok(vec![7; 50])).unwrap();
            assert_eq!((cubin, origin), (vec![7; 50], Origin::Replaced));
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_the_cache_and_not_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file");
        fs::write(&file, "in the way").unwrap();
        let (cubin, origin, error) = CubinCache::at(&file).get(key("a"), || Ok(vec![1])).unwrap();
        assert_eq!((cubin, origin), (vec![1], Origin::Compiled));
        let error = error.unwrap().to_string();
        assert!(error.contains("THERIA_CACHE_DIR"), "{error}");
    }

    #[test]
    fn a_kernel_that_does_not_compile_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path());
        cache.get(key("a"), || Err(Error::NoCompiler)).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn many_threads_that_want_one_kernel_see_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let (cubin, origin, _) = cache.get(key("a"), || Ok(vec![9; 100_000])).unwrap();
                        assert_eq!(cubin, vec![9; 100_000]);
                        assert_ne!(origin, Origin::Replaced);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
