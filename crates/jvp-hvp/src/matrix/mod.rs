//! Which proof catches which mistake.
//!
//! Every [`Proof`] is run on every operator of [`variant`](crate::variant), each broken in one known
//! way, and on two right operators in the wrong hands. A proof that catches nothing is not tested; a
//! mistake that nothing catches can be shipped. The matrix shows both, and that no proof does the
//! work of another.
//!
//! ```
//! use theria_jvp_hvp::matrix::Matrix;
//! use theria_jvp_hvp::proof::Proof;
//!
//! let matrix = Matrix::run(1)?;
//! // A backward that takes δ for a constant is right to first order, and its Hessian is not symmetric.
//! assert!(!matrix.catches(Proof::Adjoint, "frozen-delta"));
//! assert!(matrix.catches(Proof::Symmetry, "frozen-delta"));
//! # Ok::<(), theria_contract::Error>(())
//! ```

mod mistakes;
mod subject;
mod table;

use theria_contract::{Attention, Host, Result};

use crate::proof::{AttentionClaim, Claim, Finding, Proof, examine_against};
use crate::variant::{Variant, Varied};
use crate::{Dense, Streaming};
use mistakes::{Clipped, RedrawnEachCall};
use subject::Subject;
pub use table::proofs_to_markdown;

/// What all proofs found about one operator.
#[derive(Clone, Debug)]
pub struct Row {
    /// The operator's name, unique in a matrix.
    pub name: String,
    /// What is wrong with it, in a line.
    pub summary: String,
    /// Whether it is right, and every proof ought to pass.
    pub right: bool,
    /// One finding for each of [`Proof::ALL`].
    pub findings: Vec<Finding>,
}

impl Row {
    /// What one proof found.
    pub fn finding(&self, proof: Proof) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.proof == proof)
    }

    /// The proofs that found a mistake.
    pub fn caught_by(&self) -> Vec<Proof> {
        self.findings
            .iter()
            .filter(|finding| finding.verdict.is_failed())
            .map(|finding| finding.proof)
            .collect()
    }
}

/// Every proof of every operator.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// One row for each operator: backends, variants, and operators in the wrong hands.
    pub rows: Vec<Row>,
}

impl Matrix {
    /// Examines every operator at one point.
    pub fn run(seed: u64) -> Result<Self> {
        let subject = Subject::new(seed)?;
        let dense = Dense::new();
        let oracle = subject.claim(&dense)?;
        let mut rows = vec![
            // One line for each exact backend.
            backend(&subject, &oracle, "Dense", &dense)?,
            backend(&subject, &oracle, "Streaming", &Streaming::new())?,
        ];
        for variant in Variant::ALL {
            let varied = Varied { variant: *variant };
            let right = *variant == Variant::Exact;
            let claim = subject.claim(&varied)?;
            rows.push(row(&subject, &oracle, [variant.name(), variant.summary()], right, &claim));
        }
        let redrawn = RedrawnEachCall::new(&subject, &dense);
        rows.push(row(
            &subject,
            &oracle,
            ["redrawn-each-call", "every call draws other dropout weights"],
            false,
            &redrawn,
        ));
        let clipped = Clipped::new(&oracle);
        rows.push(row(
            &subject,
            &oracle,
            ["clipped", "the backward cuts its gradients to length 1"],
            false,
            &clipped,
        ));
        Ok(Self { rows })
    }

    /// The row of an operator.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Whether a proof finds an operator wrong.
    pub fn catches(&self, proof: Proof, name: &str) -> bool {
        self.row(name).and_then(|row| row.finding(proof)).is_some_and(|finding| finding.verdict.is_failed())
    }

    /// What a proof catches.
    pub fn caught(&self, proof: Proof) -> Vec<&str> {
        self.rows.iter().map(|row| row.name.as_str()).filter(|name| self.catches(proof, name)).collect()
    }
}

/// The row of a backend that vouches for its rules.
fn backend<A: Attention<f64, Storage = Host>>(
    subject: &Subject,
    oracle: &AttentionClaim<'_, Dense>,
    name: &str,
    attention: &A,
) -> Result<Row> {
    Ok(row(subject, oracle, [name, "nothing: a backend"], true, &subject.claim(attention)?))
}

fn row<C: Claim>(
    subject: &Subject,
    oracle: &AttentionClaim<'_, Dense>,
    [name, summary]: [&str; 2],
    right: bool,
    claim: &C,
) -> Row {
    let findings = examine_against(claim, oracle, &oracle.point(subject.seed()));
    Row { name: name.into(), summary: summary.into(), right, findings }
}
