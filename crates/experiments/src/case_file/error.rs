//! What can be wrong with a file.

use std::io;
use std::path::PathBuf;

use safetensors::SafeTensorError;
use theria_contract::DType;

/// An error of a case file or of a result file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A path names a folder or a device.
    #[error("{} is not a regular file; give the path of a safetensors file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("cannot write {}; give an output path in a folder that exists and may be written to", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Too short to say how long its header is.
    #[error(
        "the file has {bytes} bytes, but a safetensors file starts with 8 bytes for the length of its header; is it complete?"
    )]
    TooShort {
        /// Bytes there are.
        bytes: usize,
    },
    /// The header does not fit into the file.
    #[error(
        "the header should have {given} bytes, but only {available} follow: the file is truncated, or is no safetensors file"
    )]
    HeaderBeyondEnd {
        /// The length in the first eight bytes.
        given: u64,
        /// Bytes after them.
        available: usize,
    },
    /// No case needs a header of this length.
    #[error(
        "the header should have {given} bytes, but at most {largest} are read; a case needs a few thousand"
    )]
    HeaderTooLarge {
        /// The length in the first eight bytes.
        given: u64,
        /// The limit.
        largest: u64,
    },
    /// The header is not what safetensors headers are.
    #[error("not a valid safetensors file: {source}")]
    Header {
        /// What the parser says.
        source: SafeTensorError,
    },
    /// Tensors overlap, leave gaps, or do not end where the file ends.
    #[error(
        "the header promises tensor data that the file's {available} bytes of data do not match ({source}): the file is truncated or damaged"
    )]
    Data {
        /// Bytes after the header.
        available: usize,
        /// What the parser says.
        source: SafeTensorError,
    },
    /// A tensor that the format does not know.
    #[error("unknown tensor '{name}'; known: {known}")]
    UnknownTensor {
        /// The name in the file.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A tensor that every case needs.
    #[error(
        "the tensor '{name}' is missing; a case needs q [B, Hq, T, D], k [B, Hkv, M, D] and v [B, Hkv, M, Dv]"
    )]
    MissingTensor {
        /// The tensor.
        name: &'static str,
    },
    /// An optional tensor whose companion is not there.
    #[error(
        "'{name}' is given, but '{needs}' is not: it would have no meaning; add '{needs}' or leave it out"
    )]
    Without {
        /// The tensor or metadata given.
        name: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// The wrong number of axes.
    #[error("'{name}' has shape {given:?}, but must have {expected}")]
    Rank {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        given: Vec<usize>,
        /// What its axes are.
        expected: &'static str,
    },
    /// Another shape than the rest of the case says.
    #[error("'{name}' has shape {given:?}, but this case needs {expected:?}")]
    TensorShape {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        given: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// An element type that this tensor cannot have.
    #[error("'{name}' is {given}, but must be {allowed}")]
    ElementType {
        /// The tensor.
        name: &'static str,
        /// Its type.
        given: String,
        /// The types it may have.
        allowed: &'static str,
    },
    /// Floating tensors of different types.
    #[error(
        "'{name}' is {given}, but 'q' is {expected}: all floating tensors of a case share one type; convert them before writing"
    )]
    MixedTypes {
        /// The tensor.
        name: &'static str,
        /// Its type.
        given: DType,
        /// The type of q.
        expected: DType,
    },
    /// A metadata key that the format does not know.
    #[error("unknown metadata key '{key}'; known: {known}")]
    UnknownMetadata {
        /// The key in the file.
        key: String,
        /// The keys there are.
        known: String,
    },
    /// A metadata value that cannot be read.
    #[error("metadata '{key}' is '{given}', but must be {expected}")]
    Metadata {
        /// The key.
        key: &'static str,
        /// Its value.
        given: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A key length is negative or longer than the keys.
    #[error("'kv_lengths' has {given} for batch entry {batch}, outside 0..={m} (M = {m})")]
    KeyLength {
        /// The batch entry.
        batch: usize,
        /// The length given.
        given: i64,
        /// The number of keys.
        m: usize,
    },
    /// Finite values became infinite when they were converted.
    #[error(
        "{count} elements of '{name}' are too large for {dtype}; scale the inputs, use a wider type, or turn checks off to let infinities propagate"
    )]
    Overflow {
        /// The tensor.
        name: &'static str,
        /// How many.
        count: usize,
        /// The type converted to.
        dtype: DType,
    },
    /// A result file without a result.
    #[error("the file has no tensors; results are named {known}")]
    NoResults {
        /// The names there are.
        known: String,
    },
    /// The tensors do not make a problem.
    #[error(transparent)]
    Problem(#[from] theria_contract::Error),
}
