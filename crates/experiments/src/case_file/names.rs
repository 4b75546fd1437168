//! The names in case files and result files.

use safetensors::Dtype;
use theria_contract::DType;
use theria_contract::judge::Output;

/// Floating tensors of a case; all share one element type.
pub const FLOATING: [&str; 10] =
    ["q", "k", "v", "bias", "dout", "q_tangent", "k_tangent", "v_tangent", "bias_tangent", "dout_tangent"];
/// The boolean mask: BOOL or U8, nonzero = visible.
pub const MASK: &str = "mask";
/// Real keys of each batch entry: I32 or I64.
pub const KEY_LENGTHS: &str = "kv_lengths";

/// Metadata of a case that says something about the problem.
pub const METADATA: [&str; 5] = ["scale", "causal", "window", "dropout", "dropout_seed"];
/// Metadata that other writers of safetensors leave behind; it says nothing about attention.
pub const FOREIGN_METADATA: [&str; 1] = ["format"];

/// The format's own spelling of `name`, if it is a tensor of a case.
pub fn case_tensor(name: &str) -> Option<&'static str> {
    FLOATING.into_iter().chain([MASK, KEY_LENGTHS]).find(|known| *known == name)
}

/// Every tensor of a case, for messages.
pub fn case_tensors() -> String {
    FLOATING.into_iter().chain([MASK, KEY_LENGTHS]).collect::<Vec<_>>().join(", ")
}

/// The result of that name.
pub fn result_tensor(name: &str) -> Option<Output> {
    Output::ALL.into_iter().find(|output| output.name() == name)
}

/// Every result, for messages.
pub fn result_tensors() -> String {
    Output::ALL.map(Output::name).join(", ")
}

/// The floating type of a tensor in a file, if it is one that attention computes on.
pub fn element_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The safetensors name of a floating type.
pub fn file_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
    }
}
