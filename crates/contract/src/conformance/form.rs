//! Forms of a call: what it gives, what it wants, and where saved tensors lie.
//!
//! An operand that is left out is zero, and a backend that skips its products must come to the same
//! result as one that multiplies by zeros. So the oracle is given the zeros, the backend nothing.

use crate::judge::Magnitudes;
use crate::{Problem, Rule};

use Optional::{
    BiasGradient, BiasTangent, CotangentTangent, FirstOrder, KeyTangent, QueryTangent, Rest, ValueTangent,
};

/// What a call may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional {
    /// Q′.
    QueryTangent,
    /// K′.
    KeyTangent,
    /// V′.
    ValueTangent,
    /// bias′.
    BiasTangent,
    /// G′.
    CotangentTangent,
    /// The first-order cotangents that the second order can give from the same sweep.
    FirstOrder,
    /// dBias and dBias′.
    BiasGradient,
    /// What rounding took from O and O′, which rules make and start from.
    Rest,
}

impl Optional {
    /// Whether this rule takes or makes it on this problem.
    fn belongs_to(self, rule: Rule, problem: &Problem) -> bool {
        let second = rule == Rule::SecondOrder;
        match self {
            QueryTangent | KeyTangent | ValueTangent => second || rule == Rule::Jvp,
            BiasTangent => (second || rule == Rule::Jvp) && problem.bias().is_some(),
            CotangentTangent | FirstOrder => second,
            Rest => true,
            BiasGradient => (second || rule == Rule::Backward) && problem.bias().is_some(),
        }
    }

    /// Whether it is given, not made: leaving it out changes the result.
    fn is_operand(self) -> bool {
        !matches!(self, FirstOrder | BiasGradient | Rest)
    }
}

/// One form of the calls of all rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// As in reports.
    pub name: &'static str,
    /// What is left out, in the order of [`Optional`].
    pub without: &'static [Optional],
    /// Whether saved tensors and their tangents have unused elements after every row, the row
    /// statistics among them. Otherwise statistics are packed, and outputs lie as the case says.
    pub strided: bool,
    /// Whether large cases are run in this form too.
    pub at_scale: bool,
}

/// A form in which small cases alone are run.
const fn form(name: &'static str, without: &'static [Optional]) -> Form {
    Form { name, without, strided: false, at_scale: false }
}

impl Form {
    /// Everything is given and everything is wanted.
    pub const EVERYTHING: Self = Self { at_scale: true, ..form("everything", &[]) };

    /// All forms. Where two come to the same call, the first one stands for both.
    pub const ALL: [Self; 12] = [
        Self::EVERYTHING,
        form("no direction", &[QueryTangent, KeyTangent, ValueTangent, BiasTangent]),
        form(
            "neither direction nor G′",
            &[QueryTangent, KeyTangent, ValueTangent, BiasTangent, CotangentTangent],
        ),
        // Half of these leave G′ out: without V′ and G′ there is no dP′ at all, without G′ it is V′'s alone.
        Self {
            at_scale: true,
            ..form("only Q′, no G′", &[KeyTangent, ValueTangent, BiasTangent, CotangentTangent])
        },
        form("only K′", &[QueryTangent, ValueTangent, BiasTangent]),
        Self {
            at_scale: true,
            ..form("only V′, no G′", &[QueryTangent, KeyTangent, BiasTangent, CotangentTangent])
        },
        form("only bias′", &[QueryTangent, KeyTangent, ValueTangent]),
        Self { at_scale: true, ..form("no G′", &[CotangentTangent]) },
        Self { at_scale: true, ..form("first order not wanted", &[FirstOrder]) },
        form("dBias not wanted", &[BiasGradient]),
        Self { at_scale: true, ..form("no rests", &[Rest]) },
        Self { strided: true, at_scale: true, ..form("strided statistics", &[]) },
    ];

    /// Whether a call in this form leaves something out.
    pub fn leaves_out(&self, part: Optional) -> bool {
        self.without.contains(&part)
    }

    /// The first form that is the same call of this rule on this problem: all are one to the forward
    /// rule but for the memory that it writes.
    #[must_use]
    pub fn as_seen_by(&self, rule: Rule, problem: &Problem) -> Self {
        let seen = |form: &Self| (form.strided, form.left_out(rule, problem));
        self.first_like(seen)
    }

    /// The first form that gives this rule the same operands: their results are the same.
    #[must_use]
    pub fn with_the_same_operands(&self, rule: Rule, problem: &Problem) -> Self {
        self.first_like(|form| {
            let mut left_out = form.left_out(rule, problem);
            left_out.retain(|part| part.is_operand());
            left_out
        })
    }

    fn first_like<K: PartialEq>(&self, key: impl Fn(&Self) -> K) -> Self {
        let own = key(self);
        Self::ALL.into_iter().find(|form| key(form) == own).unwrap_or(*self)
    }

    fn left_out(&self, rule: Rule, problem: &Problem) -> Vec<Optional> {
        self.without.iter().copied().filter(|part| part.belongs_to(rule, problem)).collect()
    }

    /// The magnitudes of what this form gives: what is left out is zero.
    pub fn magnitudes(&self, mut of_everything: Magnitudes) -> Magnitudes {
        for part in self.without {
            match part {
                QueryTangent => of_everything.q_tangent = 0.0,
                KeyTangent => of_everything.k_tangent = 0.0,
                ValueTangent => of_everything.v_tangent = 0.0,
                BiasTangent => of_everything.bias_tangent = 0.0,
                CotangentTangent => of_everything.dout_tangent = 0.0,
                FirstOrder | BiasGradient | Rest => {}
            }
        }
        of_everything
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn ones() -> Magnitudes {
        let [q, k, v, dout, q_tangent, k_tangent, v_tangent, bias_tangent, dout_tangent] = [1.0; 9];
        let concentration = 1.0;
        Magnitudes {
            q,
            k,
            v,
            dout,
            q_tangent,
            k_tangent,
            v_tangent,
            bias_tangent,
            dout_tangent,
            concentration,
        }
    }

    fn names(rule: Rule, problem: &Problem) -> Vec<&'static str> {
        let own = |form: &Form| form.as_seen_by(rule, problem) == *form;
        Form::ALL.iter().filter(|form| own(form)).map(|form| form.name).collect()
    }

    #[test]
    fn every_rule_is_called_in_the_forms_that_it_can_tell_apart() {
        let plain = Problem::builder(DType::F64).lengths(3, 4).head_dims(5, 6).build().unwrap();
        let biased = plain.to_builder().bias([1, 1, 3, 4]).build().unwrap();
        let memory = ["everything", "no rests", "strided statistics"];
        assert_eq!(names(Rule::Forward, &biased), memory);
        assert_eq!(names(Rule::Backward, &plain), memory);
        let of_bias = ["everything", "dBias not wanted", "no rests", "strided statistics"];
        assert_eq!(names(Rule::Backward, &biased), of_bias);
        let directions = ["everything", "no direction", "only Q′, no G′", "only K′", "only V′, no G′"];
        assert_eq!(names(Rule::Jvp, &plain)[..5], directions);
        assert_eq!(names(Rule::Jvp, &plain)[5..], ["no rests", "strided statistics"]);
        assert_eq!(names(Rule::Jvp, &biased)[5..], ["only bias′", "no rests", "strided statistics"]);
        assert_eq!(names(Rule::SecondOrder, &plain).len(), Form::ALL.len() - 2);
        assert_eq!(names(Rule::SecondOrder, &biased).len(), Form::ALL.len());
    }

    #[test]
    fn what_is_not_wanted_does_not_change_what_the_oracle_is_asked() {
        let problem = Problem::builder(DType::F64).bias([1; 4]).build().unwrap();
        for form in Form::ALL {
            let asked = form.with_the_same_operands(Rule::SecondOrder, &problem);
            assert_eq!(form.magnitudes(ones()), asked.magnitudes(ones()), "{}", form.name);
            assert!(
                !asked.strided
                    && !asked.leaves_out(FirstOrder)
                    && !asked.leaves_out(Rest)
                    && !asked.leaves_out(BiasGradient)
            );
        }
    }
}
