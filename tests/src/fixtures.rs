//! The stored cases of `fixtures/`: inputs and derivatives from an independent system in binary64.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use theria_contract::judge::{Comparison, Output, compare};
use theria_contract::{DType, Element, Tensor};
use theria_experiments::case_file::{Case, CaseFile};

/// One stored case.
#[derive(Debug)]
pub struct Fixture {
    /// Its name.
    pub name: String,
    /// The case.
    pub case: CaseFile,
    /// What the independent system found, in binary64 whatever the type of the case.
    expected: Vec<(Output, Tensor<f64>)>,
    /// What it found in the modes of order two that end in reverse, by name; none for most cases.
    modes: Vec<(String, Tensor<f64>)>,
}

/// The folder of the stored cases.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases")
}

/// Every stored case, by name.
///
/// # Panics
/// If the folder or a file cannot be read.
pub fn all() -> Vec<Fixture> {
    const SUFFIX: &str = ".case.safetensors";
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder of the fixtures")
        .map(|entry| entry.expect("an entry of the folder").file_name().to_string_lossy().into_owned())
        .filter_map(|file| file.strip_suffix(SUFFIX).map(str::to_owned))
        .collect();
    names.sort();
    names.into_iter().map(load).collect()
}

fn load(name: String) -> Fixture {
    let path = |kind| folder().join(format!("{name}.{kind}.safetensors"));
    let read = |kind| std::fs::read(path(kind)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = tensors(&read("expected"));
    let named = |output: Output| expected.iter().find(|(stored, _)| stored == output.name());
    Fixture {
        case: CaseFile::read(&path("case")).unwrap_or_else(|error| panic!("{name}: {error}")),
        expected: Output::ALL
            .into_iter()
            .filter_map(|output| Some((output, named(output)?.1.clone())))
            .collect(),
        modes: if path("modes").exists() { tensors(&read("modes")) } else { Vec::new() },
        name,
    }
}

/// The tensors of a result file.
fn tensors(bytes: &[u8]) -> Vec<(String, Tensor<f64>)> {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let tensor = |(name, stored): (String, safetensors::tensor::TensorView<'_>)| {
        assert_eq!(stored.dtype(), Dtype::F64, "results of the independent system are binary64");
        let values =
            stored.data().chunks_exact(8).map(|x| f64::from_le_bytes(x.try_into().expect("eight bytes")));
        let tensor = Tensor::from_vec(values.collect(), four_axes(&name, stored.shape()));
        (name, tensor.expect("as many values as the shape says"))
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// A row statistic is [B, H, T] in a file and [B, H, T, 1] here; a bias of fewer axes is broadcast
/// from the left.
fn four_axes(name: &str, shape: &[usize]) -> [usize; 4] {
    let mut axes = [1; 4];
    let start = if name.starts_with("lse") { 0 } else { 4 - shape.len() };
    axes[start..start + shape.len()].copy_from_slice(shape);
    axes
}

impl Fixture {
    /// The element type of the inputs.
    pub fn dtype(&self) -> DType {
        self.case.problem().dtype()
    }

    /// The expected tensor, if this case has it.
    pub fn expected(&self, output: Output) -> Option<&Tensor<f64>> {
        self.expected.iter().find(|(made, _)| *made == output).map(|(_, tensor)| tensor)
    }

    /// What a mode of order two gives, by its name in the file: `rr_…` for reverse over reverse,
    /// `rf_…` for reverse over forward.
    pub fn mode(&self, name: &str) -> Option<&Tensor<f64>> {
        self.modes.iter().find(|(stored, _)| stored == name).map(|(_, tensor)| tensor)
    }

    /// Whether the modes of order two are stored for this case.
    pub fn has_modes(&self) -> bool {
        !self.modes.is_empty()
    }

    /// How far a result is from what is expected; `None` when nothing is expected of it.
    pub fn compare<E: Element, R: Element>(
        &self,
        case: &Case<E>,
        output: Output,
        result: &Tensor<R>,
    ) -> Option<Comparison> {
        self.compare_with(case, output, result, self.expected(output)?)
    }

    /// How far a result of the kind of `output` is from a stored tensor.
    pub fn compare_with<E: Element, R: Element>(
        &self,
        case: &Case<E>,
        output: Output,
        result: &Tensor<R>,
        stored: &Tensor<f64>,
    ) -> Option<Comparison> {
        let magnitudes = case.magnitudes(self.expected(Output::Out)?);
        let natural = magnitudes.natural_size(self.case.problem(), output);
        Some(compare(result.view(), stored.view(), natural))
    }
}
