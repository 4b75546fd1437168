//! Floating-point operations of a rule, in units of `2 · B · H · T · M · D`.

use theria_contract::{Causal, Problem, Rule};

/// Units of a rule. The second order takes two more with a tangent of the cotangent.
pub fn units(rule: Rule, cotangent_tangent: bool) -> f64 {
    match rule {
        Rule::Forward => 2.0,
        Rule::Backward => 5.0,
        Rule::Jvp => 6.0,
        Rule::SecondOrder if cotangent_tangent => 12.0,
        Rule::SecondOrder => 10.0,
    }
}

/// Operations of that many units; a causal mask halves them.
pub fn flops(problem: &Problem, units: f64) -> f64 {
    let visible = if problem.causal() == Causal::None { 1.0 } else { 0.5 };
    units * visible * problem.shape().unit_flops()
}

#[cfg(test)]
mod tests {
    use theria_contract::DType;

    use super::*;

    #[test]
    fn a_causal_mask_halves_the_count() {
        let plain = Problem::builder(DType::F32).lengths(64, 64).head_dims(8, 8).build().unwrap();
        let causal = plain.to_builder().causal(Causal::TopLeft).build().unwrap();
        assert_eq!(flops(&plain, 2.0), 2.0 * 2.0 * 64.0 * 64.0 * 8.0);
        assert_eq!(flops(&causal, 10.0), 0.5 * flops(&plain, 10.0));
    }
}
