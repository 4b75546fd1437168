//! The list of proofs, and how each is run and judged.

use super::checked::Checked;
use super::finding::{Measured, Obstacle};
use super::{Allowed, Claim, Detail, Finding, Point, Verdict};
use super::{agreement, difference, duality, invariance, linearity, repeatability, taylor};

/// An identity that right derivatives obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Taylor, order 1: the function moves.
    ValueOrder,
    /// Taylor, order 2, through the JVP.
    JvpOrder,
    /// Taylor, order 2, through the VJP.
    VjpOrder,
    /// Taylor, order 3, through the second order.
    SecondOrder,
    /// Taylor, order 2, of the gradient.
    GradientOrder,
    /// The VJP is the adjoint of the JVP.
    Adjoint,
    /// The Hessian is symmetric.
    Symmetry,
    /// Rules are linear.
    Linearity,
    /// What u′ adds is the VJP of u′.
    CotangentTangent,
    /// Derivatives along what f does not see vanish.
    Invariance,
    /// The second order is the central difference of the gradient.
    CentralDifference,
    /// The same call gives the same bits.
    Repeatability,
    /// Every rule is that of an oracle.
    Agreement,
}

impl Proof {
    /// All of them; the last one needs an oracle.
    pub const ALL: [Self; 13] = [
        Self::ValueOrder,
        Self::JvpOrder,
        Self::VjpOrder,
        Self::SecondOrder,
        Self::GradientOrder,
        Self::Adjoint,
        Self::Symmetry,
        Self::Linearity,
        Self::CotangentTangent,
        Self::Invariance,
        Self::CentralDifference,
        Self::Repeatability,
        Self::Agreement,
    ];

    /// The name in tables and reports.
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// What it measures.
    pub fn identity(self) -> &'static str {
        self.description().identity
    }

    /// What it cannot see.
    pub fn blind_to(self) -> &'static str {
        self.description().blind_to
    }

    /// What the measured number may be.
    pub fn allowed(self) -> Allowed {
        self.description().allowed
    }

    /// Runs it. [`Agreement`](Self::Agreement) does not apply without an oracle.
    pub fn run<C: Claim + ?Sized>(self, claim: &C, point: &Point) -> Finding {
        self.judge(Checked::new(claim, point).and_then(|claim| self.measure(&claim, point)))
    }

    fn measure<C: Claim>(self, claim: &C, point: &Point) -> Measured {
        match self {
            Self::ValueOrder => taylor::value(claim, point),
            Self::JvpOrder => taylor::jvp(claim, point),
            Self::VjpOrder => taylor::vjp(claim, point),
            Self::SecondOrder => taylor::second_order(claim, point),
            Self::GradientOrder => taylor::gradient(claim, point),
            Self::Adjoint => duality::adjoint(claim, point),
            Self::Symmetry => duality::hessian(claim, point),
            Self::Linearity => linearity::linear(claim, point),
            Self::CotangentTangent => linearity::cotangent_tangent(claim, point),
            Self::Invariance => invariance::invariant(claim, point),
            Self::CentralDifference => difference::central(claim, point),
            Self::Repeatability => repeatability::repeats(claim, point),
            Self::Agreement => Err(Obstacle::NotApplicable("no oracle is given".into())),
        }
    }

    /// Runs it with an oracle at hand.
    pub fn run_against<C, O>(self, claim: &C, oracle: &O, point: &Point) -> Finding
    where
        C: Claim + ?Sized,
        O: Claim + ?Sized,
    {
        match self {
            Self::Agreement => {
                let both = Checked::new(claim, point).and_then(|c| Ok((c, Checked::new(oracle, point)?)));
                self.judge(both.and_then(|(claim, oracle)| agreement::agrees(&claim, &oracle, point)))
            }
            _ => self.run(claim, point),
        }
    }

    fn judge(self, measured: Measured) -> Finding {
        let allowed = self.allowed();
        let none = |verdict| Finding { proof: self, measured: None, allowed, verdict, detail: Detail::None };
        match measured {
            Err(Obstacle::NotApplicable(reason)) => none(Verdict::NotApplicable(reason)),
            Err(Obstacle::Invalid(reason)) => none(Verdict::Invalid(reason)),
            Ok(measurement) => {
                let verdict = match measurement.invalid {
                    Some(reason) => Verdict::Invalid(reason),
                    None if allowed.admits(measurement.measured) => Verdict::Passed,
                    None => Verdict::Failed,
                };
                let measured = Some(measurement.measured);
                Finding { proof: self, measured, allowed, verdict, detail: measurement.detail }
            }
        }
    }
}

/// Every proof of a claim at a point.
pub fn examine<C: Claim + ?Sized>(claim: &C, point: &Point) -> Vec<Finding> {
    Proof::ALL.into_iter().map(|proof| proof.run(claim, point)).collect()
}

/// Every proof of a claim at a point, with an oracle.
pub fn examine_against<C, O>(claim: &C, oracle: &O, point: &Point) -> Vec<Finding>
where
    C: Claim + ?Sized,
    O: Claim + ?Sized,
{
    Proof::ALL.into_iter().map(|proof| proof.run_against(claim, oracle, point)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_proof_is_listed_once_under_a_name_of_its_own() {
        assert_eq!(Proof::ALL.iter().collect::<HashSet<_>>().len(), Proof::ALL.len());
        assert_eq!(Proof::ALL.map(Proof::name).iter().collect::<HashSet<_>>().len(), Proof::ALL.len());
    }
}
