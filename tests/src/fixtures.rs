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
    let case = folder().join(format!("{name}.case.safetensors"));
    let expected = folder().join(format!("{name}.expected.safetensors"));
    Fixture {
        case: CaseFile::read(&case).unwrap_or_else(|error| panic!("{name}: {error}")),
        expected: results(&std::fs::read(&expected).unwrap_or_else(|error| panic!("{name}: {error}"))),
        name,
    }
}

/// The tensors of a result file in binary64.
fn results(bytes: &[u8]) -> Vec<(Output, Tensor<f64>)> {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let tensor = |output: Output| {
        let stored = file.tensor(output.name()).ok()?;
        assert_eq!(stored.dtype(), Dtype::F64, "results of the independent system are binary64");
        let values =
            stored.data().chunks_exact(8).map(|x| f64::from_le_bytes(x.try_into().expect("eight bytes")));
        // A row statistic is [B, H, T] in a file and [B, H, T, 1] here.
        let axis = |n: usize| stored.shape().get(n).copied().unwrap_or(1);
        let shape = [axis(0), axis(1), axis(2), axis(3)];
        Some((output, Tensor::from_vec(values.collect(), shape).expect("as many values as the shape says")))
    };
    Output::ALL.into_iter().filter_map(tensor).collect()
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

    /// How far a result is from what is expected; `None` when nothing is expected of it.
    pub fn compare<E: Element, R: Element>(
        &self,
        case: &Case<E>,
        output: Output,
        result: &Tensor<R>,
    ) -> Option<Comparison> {
        let magnitudes = case.magnitudes(self.expected(Output::Out)?);
        let natural = magnitudes.natural_size(self.case.problem(), output);
        Some(compare(result.view(), self.expected(output)?.view(), natural))
    }
}
