//! Every derivative that a rule claims to be, by dual and hyper-dual numbers.

use num_dual::{Dual64, HyperDual64};
use theria_contract::conformance::CaseData;

use super::{Detached, Operands, attention};

/// Tensors of one rule, packed, in the order q, k, v, bias.
pub(crate) type Packed = Vec<Vec<f64>>;

/// What autodiff makes of a case.
pub(crate) struct Derivatives {
    /// O′ and lse′.
    pub(crate) jvp: Packed,
    /// dQ, dK, dV, dBias.
    pub(crate) backward: Packed,
    /// dQ′, dK′, dV′, dBias′ with G′.
    pub(crate) second_order: Packed,
    /// The same with G′ = 0.
    pub(crate) without_cotangent_tangent: Packed,
}

impl Derivatives {
    /// Differentiates the case along its tangents and against its cotangents.
    pub(crate) fn of(data: &CaseData<f64>, detached: Detached) -> Self {
        let packed = |tensor: &theria_contract::Tensor<f64>| tensor.view().to_tensor().into_vec();
        let along: Packed = data.tangents.as_ref().named().map(|(_, tensor)| packed(tensor)).collect();
        let (g, g_tangent) = (packed(&data.cotangent), packed(&data.cotangent_tangent));

        let moved = Operands::seeded(data, |operand, i, x| Dual64::new(x, along[operand][i]));
        let (output, lse) = attention(data, &moved, detached);
        let jvp = [output, lse].map(|tensor| tensor.iter().map(|x| x.eps).collect()).into();

        let mut all = Self { jvp, backward: vec![], second_order: vec![], without_cotangent_tangent: vec![] };
        for (operand, tangent) in along.iter().enumerate() {
            let (mut first, mut second, mut without) = (vec![], vec![], vec![]);
            for position in 0..tangent.len() {
                // One direction is this element, the other one the tangents of the case.
                let x = Operands::seeded(data, |of, i, x| {
                    let here = f64::from(u8::from((of, i) == (operand, position)));
                    HyperDual64::new(x, here, along[of][i], 0.0)
                });
                let (output, _) = attention(data, &x, detached);
                let against = |g: &[f64], part: fn(&HyperDual64) -> f64| -> f64 {
                    output.iter().zip(g).map(|(o, g)| part(o) * g).sum()
                };
                first.push(against(&g, |o| o.eps1));
                without.push(against(&g, |o| o.eps1eps2));
                second.push(against(&g, |o| o.eps1eps2) + against(&g_tangent, |o| o.eps1));
            }
            all.backward.push(first);
            all.second_order.push(second);
            all.without_cotangent_tangent.push(without);
        }
        all
    }
}
