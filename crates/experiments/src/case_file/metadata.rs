//! What a case says in metadata, and how it is written.

use std::collections::BTreeMap;

use theria_contract::{Causal, Problem, ProblemBuilder};

use super::{CaseError, names};

/// Gives the builder everything that the metadata says.
pub(super) fn describe(
    mut builder: ProblemBuilder,
    metadata: &BTreeMap<String, String>,
) -> Result<ProblemBuilder, CaseError> {
    for key in metadata.keys() {
        if !names::METADATA.into_iter().chain(names::FOREIGN_METADATA).any(|known| known == key) {
            return Err(CaseError::UnknownMetadata { key: key.clone(), known: names::METADATA.join(", ") });
        }
    }
    let value = |key: &'static str| metadata.get(key).map(|text| text.trim());
    if let Some(text) = value("scale") {
        builder = builder.scale(number("scale", text, "a finite number")?);
    }
    if let Some(text) = value("causal") {
        builder = builder.causal(text.parse()?);
    }
    if let Some(text) = value("window") {
        builder = builder.window(text.parse()?);
    }
    match (value("dropout"), value("dropout_seed")) {
        (Some(p), Some(seed)) => {
            let p = number("dropout", p, "a probability in [0, 1)")?;
            Ok(builder.dropout(p, number("dropout_seed", seed, "a whole number in 0..2^64")?))
        }
        (Some(_), None) => Err(CaseError::Without { name: "dropout", needs: "dropout_seed" }),
        (None, Some(_)) => Err(CaseError::Without { name: "dropout_seed", needs: "dropout" }),
        (None, None) => Ok(builder),
    }
}

fn number<N: std::str::FromStr>(
    key: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<N, CaseError> {
    text.parse().map_err(|_| CaseError::Metadata { key, given: text.to_owned(), expected })
}

/// The metadata that poses this problem.
pub(super) fn of(problem: &Problem) -> BTreeMap<String, String> {
    // `{:?}` of a float is the shortest text that reads back as the same number.
    let mut metadata = BTreeMap::from([("scale".to_owned(), format!("{:?}", problem.scale()))]);
    if problem.causal() != Causal::None {
        metadata.insert("causal".into(), problem.causal().name().into());
    }
    if !problem.window().is_unbounded() {
        metadata.insert("window".into(), problem.window().to_string());
    }
    if let Some(dropout) = problem.dropout() {
        metadata.insert("dropout".into(), format!("{:?}", dropout.p()));
        metadata.insert("dropout_seed".into(), dropout.seed().to_string());
    }
    metadata
}
