//! The mistakes, where each of them is, and where it can show.

use super::super::{Form, Optional};
use crate::{Causal, Problem, Rule};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No mistake: the wrapper itself must pass.
    None,
    /// dQ is too large by one part in a thousand.
    ScaledQueryGradient,
    /// dV is that of the keys' first row everywhere.
    RepeatedValueGradient,
    /// The output of the last query is not written.
    LastRowUnwritten,
    /// lse is in base 2.
    BinaryLse,
    /// A row that sees nothing gives NaN.
    NanInEmptyRows,
    /// The two causal masks are mixed up.
    WrongCausalCorner,
    /// The window is one key too wide.
    WindowTooWide,
    /// The bias is ignored.
    BiasIgnored,
    /// The boolean mask is ignored.
    MaskIgnored,
    /// Key lengths are ignored, and the padding is read.
    LengthsIgnored,
    /// Dropout draws from another seed.
    WrongDropoutSeed,
    /// Dropout does not scale what it keeps.
    DropoutUnscaled,
    /// The sign of the scale is lost.
    ScaleMadePositive,
    /// Strides of the query are taken for packed ones.
    StridesIgnored,
    /// Strides of the saved row statistics are taken for packed ones.
    StatisticStridesIgnored,
    /// The gradient of the bias is not written.
    BiasGradientUnwritten,
    /// Where the gradient of the bias is not wanted, that of the keys is not written.
    KeyGradientNeedsBiasGradient,
    /// The first output depends on what was in the workspace.
    ReadsWorkspace,
    /// Results change from call to call.
    NotRepeatable,
    /// Says that it supports a backward that it refuses.
    ClaimsTooMuch,
    /// Says that it refuses a backward that it computes.
    ClaimsTooLittle,
    /// O′ is not centred, P′ = P ∘ S′: the row statistics are taken for constants.
    UncentredTangent,
    /// O′ is not exactly zero, though within every bound, where no term of it is given.
    TangentOfNothing,
    /// lse′ is zero.
    LseTangentZero,
    /// V′ is ignored by the JVP.
    ValueTangentIgnored,
    /// bias′ is ignored.
    BiasTangentIgnored,
    /// Strides of K′ are taken for packed ones.
    TangentStridesIgnored,
    /// A Q′ that is not given is taken for Q.
    AbsentTangentTakenForPrimal,
    /// dQ′ is too large by one part in a thousand.
    ScaledQueryGradientTangent,
    /// V′ is ignored by the second order.
    SecondOrderIgnoresValueTangent,
    /// G′ is ignored.
    CotangentTangentIgnored,
    /// A G′ that is not given is taken for G.
    AbsentCotangentTangentTakenForCotangent,
    /// μ is taken for zero by the second order: its P′ is not centred.
    FrozenSecondOrder,
    /// O′ is taken for zero by the second order, and with it its part of δ′. Shows only in a backend
    /// that takes δ′ from the saved O′ and not from tiles, so it is not one of [`Fault::ALL`].
    OutputTangentIgnored,
    /// The first-order cotangents that the second order was asked for are not written.
    FirstOrderUnwritten,
    /// Where the first-order cotangents are not wanted, dQ′ is not written.
    TangentNeedsFirstOrder,
    /// dBias′ is not written.
    BiasGradientTangentUnwritten,
    /// Says that it supports a second order that it refuses.
    ClaimsSecondOrder,
    /// Refuses the JVP and says that it supports the second order, which starts from it.
    SecondOrderWithoutJvp,
    /// Refuses the second order for another reason than it said.
    RefusesForAnotherReason,
    /// What rounding took from O is not written.
    RestUnwritten,
    /// What rounding took from O has the wrong sign. Shows only in types that round, as the following ones do, so it
    /// is one of [`Fault::OF_ROUNDING`].
    RestNegated,
    /// What rounding took from O is more than a rounding can take.
    RestOfAnotherUnit,
    /// What rounding took from O′ is not written.
    TangentRestUnwritten,
    /// What rounding took from O′ has the wrong sign.
    TangentRestNegated,
}

impl Fault {
    /// All mistakes that show in any backend that supports every rule on every problem.
    pub const ALL: [Self; 41] = [
        Self::ScaledQueryGradient,
        Self::RepeatedValueGradient,
        Self::LastRowUnwritten,
        Self::BinaryLse,
        Self::NanInEmptyRows,
        Self::WrongCausalCorner,
        Self::WindowTooWide,
        Self::BiasIgnored,
        Self::MaskIgnored,
        Self::LengthsIgnored,
        Self::WrongDropoutSeed,
        Self::DropoutUnscaled,
        Self::ScaleMadePositive,
        Self::StridesIgnored,
        Self::StatisticStridesIgnored,
        Self::BiasGradientUnwritten,
        Self::KeyGradientNeedsBiasGradient,
        Self::ReadsWorkspace,
        Self::NotRepeatable,
        Self::ClaimsTooMuch,
        Self::ClaimsTooLittle,
        Self::UncentredTangent,
        Self::TangentOfNothing,
        Self::LseTangentZero,
        Self::ValueTangentIgnored,
        Self::BiasTangentIgnored,
        Self::TangentStridesIgnored,
        Self::AbsentTangentTakenForPrimal,
        Self::ScaledQueryGradientTangent,
        Self::SecondOrderIgnoresValueTangent,
        Self::CotangentTangentIgnored,
        Self::AbsentCotangentTangentTakenForCotangent,
        Self::FrozenSecondOrder,
        Self::FirstOrderUnwritten,
        Self::TangentNeedsFirstOrder,
        Self::BiasGradientTangentUnwritten,
        Self::ClaimsSecondOrder,
        Self::SecondOrderWithoutJvp,
        Self::RefusesForAnotherReason,
        Self::RestUnwritten,
        Self::TangentRestUnwritten,
    ];

    /// Mistakes that show in types whose results are rounded: f16 and bf16.
    pub const OF_ROUNDING: [Self; 3] = [Self::RestNegated, Self::RestOfAnotherUnit, Self::TangentRestNegated];

    /// The first rule that is wrong with it: a backend without that rule cannot show it.
    pub fn rule(self) -> Rule {
        match self {
            Self::ScaledQueryGradient
            | Self::RepeatedValueGradient
            | Self::StatisticStridesIgnored
            | Self::BiasGradientUnwritten
            | Self::KeyGradientNeedsBiasGradient
            | Self::ClaimsTooMuch
            | Self::ClaimsTooLittle => Rule::Backward,
            Self::UncentredTangent
            | Self::TangentOfNothing
            | Self::LseTangentZero
            | Self::ValueTangentIgnored
            | Self::BiasTangentIgnored
            | Self::TangentStridesIgnored
            | Self::AbsentTangentTakenForPrimal
            | Self::TangentRestUnwritten
            | Self::TangentRestNegated => Rule::Jvp,
            Self::ScaledQueryGradientTangent
            | Self::SecondOrderIgnoresValueTangent
            | Self::CotangentTangentIgnored
            | Self::AbsentCotangentTangentTakenForCotangent
            | Self::FrozenSecondOrder
            | Self::OutputTangentIgnored
            | Self::FirstOrderUnwritten
            | Self::TangentNeedsFirstOrder
            | Self::BiasGradientTangentUnwritten
            | Self::ClaimsSecondOrder
            | Self::SecondOrderWithoutJvp
            | Self::RefusesForAnotherReason => Rule::SecondOrder,
            _ => Rule::Forward,
        }
    }

    /// Whether a call in this form on this problem can show the mistake. One that fails without
    /// showing it fails for another reason, and then the control controls nothing.
    pub fn can_show(self, problem: &Problem, form: &Form) -> bool {
        match self {
            Self::None => false,
            Self::NanInEmptyRows => {
                problem.shape().m == 0
                    || problem.causal() == Causal::BottomRight
                    || problem.mask().is_some()
                    || problem.bias().is_some()
                    || problem.key_lengths()
                    || !problem.window().is_unbounded()
            }
            Self::WrongCausalCorner => problem.causal() != Causal::None,
            Self::WindowTooWide => problem.window().left.is_some(),
            Self::BiasIgnored => problem.bias().is_some(),
            Self::BiasGradientUnwritten | Self::BiasGradientTangentUnwritten => {
                problem.bias().is_some() && !form.leaves_out(Optional::BiasGradient)
            }
            Self::KeyGradientNeedsBiasGradient => {
                problem.bias().is_some() && form.leaves_out(Optional::BiasGradient)
            }
            Self::BiasTangentIgnored => problem.bias().is_some() && !form.leaves_out(Optional::BiasTangent),
            Self::MaskIgnored => problem.mask().is_some(),
            Self::LengthsIgnored => problem.key_lengths(),
            Self::WrongDropoutSeed | Self::DropoutUnscaled => problem.dropout().is_some(),
            Self::ScaleMadePositive => problem.scale() < 0.0,
            Self::StatisticStridesIgnored => form.strided,
            Self::TangentOfNothing => {
                let scores = [Optional::QueryTangent, Optional::KeyTangent];
                let of_scores = problem.scale() == 0.0 || scores.iter().all(|part| form.leaves_out(*part));
                problem.shape().m == 0 || (of_scores && form.leaves_out(Optional::ValueTangent))
            }
            Self::ValueTangentIgnored | Self::SecondOrderIgnoresValueTangent => {
                !form.leaves_out(Optional::ValueTangent)
            }
            Self::TangentStridesIgnored => !form.leaves_out(Optional::KeyTangent),
            Self::AbsentTangentTakenForPrimal => form.leaves_out(Optional::QueryTangent),
            Self::CotangentTangentIgnored => !form.leaves_out(Optional::CotangentTangent),
            Self::AbsentCotangentTangentTakenForCotangent => form.leaves_out(Optional::CotangentTangent),
            Self::RestUnwritten
            | Self::RestNegated
            | Self::RestOfAnotherUnit
            | Self::TangentRestUnwritten
            | Self::TangentRestNegated => !form.leaves_out(Optional::Rest),
            Self::FirstOrderUnwritten => !form.leaves_out(Optional::FirstOrder),
            Self::TangentNeedsFirstOrder => form.leaves_out(Optional::FirstOrder),
            _ => true,
        }
    }
}
