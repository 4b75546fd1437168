//! The matrix as Markdown. Numbers are rounded until every machine prints the same ones: slopes to
//! two decimals, errors to one digit.

use std::fmt::Write as _;

use super::Matrix;
use crate::proof::{Allowed, Finding, Proof, Verdict};

impl Matrix {
    /// A row for each operator and a column for each proof.
    pub fn to_markdown(&self) -> String {
        let mut page = String::from("| operator | what is wrong |");
        let names = Proof::ALL.map(|proof| format!(" {} |", proof.name())).concat();
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{names}\n|---|---|{}", "---|".repeat(Proof::ALL.len()));
        for row in &self.rows {
            let _ = write!(page, "| `{}` | {} |", row.name, row.summary);
            for proof in Proof::ALL {
                let _ = write!(page, " {} |", row.finding(proof).map_or_else(String::new, cell));
            }
            page.push('\n');
        }
        page
    }
}

/// What each proof measures, what it allows, and what it is blind to.
pub fn proofs_to_markdown() -> String {
    let mut page = String::from("| proof | identity | allowed | blind to |\n|---|---|---|---|\n");
    for proof in Proof::ALL {
        let (name, identity) = (proof.name(), proof.identity());
        let _ = writeln!(page, "| {name} | {identity} | {} | {} |", proof.allowed(), proof.blind_to());
    }
    page
}

fn cell(finding: &Finding) -> String {
    match &finding.verdict {
        Verdict::Passed => "·".into(),
        Verdict::Invalid(_) => "invalid".into(),
        Verdict::NotApplicable(_) => "n/a".into(),
        Verdict::Failed => match (finding.measured, finding.allowed) {
            (Some(slope), Allowed::Between(..)) if slope.is_finite() => {
                // A slope of -0.001 is one of 0.00.
                format!("**caught** {:.2}", (100.0 * slope).round() / 100.0 + 0.0)
            }
            // How many bits differ is the machine's affair.
            (Some(error), Allowed::AtMost(bound)) if bound > 0.0 && error.is_finite() => {
                format!("**caught** {error:.0e}")
            }
            _ => "**caught**".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::Detail;

    fn of(proof: Proof, measured: f64, verdict: Verdict) -> String {
        cell(&Finding {
            proof,
            measured: Some(measured),
            allowed: proof.allowed(),
            verdict,
            detail: Detail::None,
        })
    }

    #[test]
    fn a_cell_shows_a_number_only_where_something_was_caught() {
        assert_eq!(of(Proof::JvpOrder, 0.9963, Verdict::Failed), "**caught** 1.00");
        assert_eq!(of(Proof::ValueOrder, -0.001, Verdict::Failed), "**caught** 0.00");
        assert_eq!(of(Proof::JvpOrder, f64::NAN, Verdict::Failed), "**caught**");
        assert_eq!(of(Proof::Adjoint, 1.16e-5, Verdict::Failed), "**caught** 1e-5");
        assert_eq!(of(Proof::Adjoint, f64::INFINITY, Verdict::Failed), "**caught**");
        assert_eq!(of(Proof::Repeatability, 1027.0, Verdict::Failed), "**caught**");
        assert_eq!(of(Proof::JvpOrder, 2.0, Verdict::Passed), "·");
        assert_eq!(of(Proof::Symmetry, 0.0, Verdict::Invalid("zero".into())), "invalid");
        assert_eq!(of(Proof::Symmetry, 0.0, Verdict::NotApplicable("none".into())), "n/a");
    }
}
