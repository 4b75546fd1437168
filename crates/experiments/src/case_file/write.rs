//! Files that are there whole or not at all.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::NamedTempFile;
use theria_contract::{Element, Tensor};

use super::{CaseError, names};

/// A tensor on its way into a file.
#[derive(Debug)]
pub struct FileTensor {
    name: &'static str,
    dtype: &'static str,
    shape: Vec<usize>,
    /// Bytes of one element, by which the tensors of a file are aligned.
    width: usize,
    bytes: Vec<u8>,
}

impl FileTensor {
    /// A floating tensor, without its leading axes beyond `rank`.
    pub fn floating<E: Element>(name: &'static str, tensor: &Tensor<E>, rank: usize) -> Self {
        let shape = tensor.shape()[4 - rank.min(4)..].to_vec();
        Self::of_shape(name, tensor, shape)
    }

    /// A row statistic: `[B, H, T, 1]` becomes `[B, H, T]`.
    pub fn rows<E: Element>(name: &'static str, tensor: &Tensor<E>) -> Self {
        Self::of_shape(name, tensor, tensor.shape()[..3].to_vec())
    }

    /// A boolean mask.
    pub fn mask(tensor: &Tensor<u8>) -> Self {
        let packed = tensor.view().to_tensor();
        Self {
            name: names::MASK,
            dtype: "U8",
            shape: tensor.shape().to_vec(),
            width: 1,
            bytes: packed.into_vec(),
        }
    }

    /// Key lengths: `[1, 1, 1, B]` becomes `[B]`.
    pub fn key_lengths(tensor: &Tensor<i32>) -> Self {
        let bytes = tensor.view().to_tensor().bytes().to_vec();
        Self { name: names::KEY_LENGTHS, dtype: "I32", shape: tensor.shape()[3..].to_vec(), width: 4, bytes }
    }

    fn of_shape<E: Element>(name: &'static str, tensor: &Tensor<E>, shape: Vec<usize>) -> Self {
        let bytes = tensor.view().to_tensor().bytes().to_vec();
        Self { name, dtype: names::file_type(E::DTYPE), shape, width: E::DTYPE.size(), bytes }
    }
}

/// The bytes of a safetensors file. Equal tensors and metadata give equal bytes, which the map of
/// the safetensors crate would not.
pub fn encode(tensors: &[FileTensor], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut order: Vec<&FileTensor> = tensors.iter().collect();
    // Widest first, so that every tensor is aligned.
    order.sort_by_key(|tensor| (std::cmp::Reverse(tensor.width), tensor.name));
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut end = 0;
    for tensor in &order {
        let start = end;
        end += tensor.bytes.len();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.into(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for tensor in order {
        bytes.extend_from_slice(&tensor.bytes);
    }
    bytes
}

/// Where a file will be. It is opened before the work, so that a place that cannot be written to is
/// an error at once; until [`commit`](Self::commit) nothing is seen at the path.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    temporary: NamedTempFile,
}

impl Destination {
    /// Starts a file that will be at `path`.
    pub fn open(path: &Path) -> Result<Self, CaseError> {
        // A link keeps pointing to its file, which gets the new content.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match std::fs::metadata(&path) {
            Ok(present) if !present.is_file() => return Err(CaseError::NotAFile { path }),
            _ => {}
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".theria-").suffix(".tmp");
        #[cfg(unix)]
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666); // less the umask
        #[cfg(unix)]
        builder.permissions(permissions);
        match builder.tempfile_in(folder) {
            Ok(temporary) => Ok(Self { path, temporary }),
            Err(source) => Err(CaseError::Write { path, source }),
        }
    }

    /// Puts the file in its place.
    pub fn commit(mut self, bytes: &[u8]) -> Result<(), CaseError> {
        let path = self.path;
        let written = self.temporary.write_all(bytes).and_then(|()| self.temporary.as_file().sync_all());
        match written.and_then(|()| self.temporary.persist(&path).map_err(|error| error.error)) {
            Ok(_) => Ok(()),
            Err(source) => Err(CaseError::Write { path, source }),
        }
    }
}
