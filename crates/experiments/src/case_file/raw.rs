//! The container: a safetensors file taken apart, before its tensors mean anything.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::CaseError;

/// A case has at most a dozen tensors; a longer header is an accident or an attack.
const LARGEST_HEADER: u64 = 1 << 20;
/// Bytes of the length of the header.
const PREFIX: usize = 8;

// Tensors are little-endian in the file and are copied as they lie.
const _: () = assert!(cfg!(target_endian = "little"), "case files are read on little-endian machines");

/// One tensor of the container.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    range: Range<usize>,
}

/// A file whose header is sound and whose tensors lie inside it.
#[derive(Debug)]
pub(super) struct Container {
    bytes: Vec<u8>,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// The bytes of a regular file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CaseError> {
    let unreadable = |source| CaseError::Read { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(CaseError::NotAFile { path: path.to_owned() });
    }
    std::fs::read(path).map_err(unreadable)
}

impl Container {
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, CaseError> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
            return Err(CaseError::TooShort { bytes: bytes.len() });
        };
        let given = u64::from_le_bytes(*prefix);
        if usize::try_from(given).is_ok_and(|given| given > rest.len()) {
            return Err(CaseError::HeaderBeyondEnd { given, available: rest.len() });
        }
        if given > LARGEST_HEADER {
            return Err(CaseError::HeaderTooLarge { given, largest: LARGEST_HEADER });
        }
        let data = PREFIX + given as usize;
        let available = bytes.len() - data;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|source| match source {
            SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidOffset(_) => {
                CaseError::Data { available, source }
            }
            source => CaseError::Header { source },
        })?;
        let entries = header
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let range = data + info.data_offsets.0..data + info.data_offsets.1;
                (name, Entry { dtype: info.dtype, shape: info.shape.clone(), range })
            })
            .collect();
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { bytes, entries, metadata })
    }

    /// The elements of a tensor, packed. `T` must be what the entry's type says.
    pub(super) fn elements<T: bytemuck::Pod>(&self, entry: &Entry) -> Vec<T> {
        let bytes = &self.bytes[entry.range.clone()];
        // A copy, because a tensor may lie at any address of the file.
        let mut elements = vec![T::zeroed(); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut elements).copy_from_slice(bytes);
        elements
    }
}
