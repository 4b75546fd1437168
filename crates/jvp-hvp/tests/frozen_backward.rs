//! The variants that freeze something in the backward are what automatic differentiation makes of a
//! backward whose `lse` or δ is a constant to it.

#[allow(dead_code, unused_imports)] // each test file differentiates in its own way
mod autodiff;
mod cases;

use autodiff::Operands;
use cases::{Rules, cases, data};
use num_dual::{Dual64, DualNum};
use theria_contract::conformance::CaseData;
use theria_jvp_hvp::variant::{Variant, Varied};

/// The value without its derivative, if it is frozen.
fn hold(x: Dual64, frozen: bool) -> Dual64 {
    if frozen { Dual64::from_re(x.re) } else { x }
}

/// dQ, dK, dV of a case without features, in dual numbers.
fn backward(
    data: &CaseData<f64>,
    x: &Operands<Dual64>,
    g: &[Dual64],
    lse_frozen: bool,
    delta_frozen: bool,
) -> [Vec<Dual64>; 3] {
    let shape = data.problem.shape();
    let (t, m, d, dv) = (shape.t, shape.m, shape.d, shape.dv);
    let scale = data.problem.scale();
    let zeros = |shape: [usize; 4]| vec![Dual64::from_re(0.0); shape.iter().product()];
    let mut gradients = [zeros(shape.q()), zeros(shape.k()), zeros(shape.v())];
    for (b, h) in (0..shape.batch).flat_map(|b| (0..shape.heads_q).map(move |h| (b, h))) {
        let (head, kv) = (b * shape.heads_q + h, b * shape.heads_kv + shape.head_kv(h));
        let q = |i, c| (head * t + i) * d + c;
        let k = |j, c| (kv * m + j) * d + c;
        let v = |j, c| (kv * m + j) * dv + c;
        let o = |i, c| (head * t + i) * dv + c;
        for i in 0..t {
            let score = |j| (0..d).map(|c| x.q()[q(i, c)] * x.k()[k(j, c)]).sum::<Dual64>() * scale;
            let s: Vec<Dual64> = (0..m).map(score).collect();
            let lse = s.iter().map(DualNum::exp).sum::<Dual64>().ln();
            let probabilities = |lse: Dual64| s.iter().map(|s| (*s - lse).exp()).collect::<Vec<_>>();
            // O is what the forward made, and moves with all of it.
            let moving = probabilities(lse);
            let output = |c| (0..m).map(|j| moving[j] * x.v()[v(j, c)]).sum::<Dual64>();
            let delta = hold((0..dv).map(|c| g[o(i, c)] * output(c)).sum(), delta_frozen);
            let p = probabilities(hold(lse, lse_frozen));
            for j in 0..m {
                let dp: Dual64 = (0..dv).map(|c| g[o(i, c)] * x.v()[v(j, c)]).sum();
                let ds = p[j] * (dp - delta);
                for c in 0..d {
                    gradients[0][q(i, c)] += ds * x.k()[k(j, c)] * scale;
                    gradients[1][k(j, c)] += ds * x.q()[q(i, c)] * scale;
                }
                for c in 0..dv {
                    gradients[2][v(j, c)] += p[j] * g[o(i, c)];
                }
            }
        }
    }
    gradients
}

/// The largest difference of the derivatives of that backward to those of a variant, over their size.
fn distance(variant: Variant, lse_frozen: bool, delta_frozen: bool) -> f64 {
    let data = data(&cases()[0]);
    let along = [&data.tangents.q, &data.tangents.k, &data.tangents.v];
    let x = Operands::seeded(&data, |operand, i, x| Dual64::new(x, along[operand].data()[i]));
    let g = data.cotangent.data().iter().zip(data.cotangent_tangent.data());
    let g: Vec<Dual64> = g.map(|(g, tangent)| Dual64::new(*g, *tangent)).collect();
    let wanted = backward(&data, &x, &g, lse_frozen, delta_frozen).concat();
    let given = Rules::of(&Varied::new(variant), &data).second_order.concat();
    let worst = given.iter().zip(&wanted).map(|(x, y)| (x - y.eps).abs()).fold(0.0, f64::max);
    worst / wanted.iter().map(|y| y.eps.abs()).fold(0.0, f64::max)
}

#[test]
fn each_frozen_variant_is_the_derivative_of_the_backward_that_freezes_the_same_and_of_no_other() {
    let table = [
        (Variant::Exact, false, false),
        (Variant::FrozenLse, true, false),
        (Variant::FrozenDelta, false, true),
        (Variant::FrozenBoth, true, true),
    ];
    for (variant, ..) in table {
        for (frozen, lse, delta) in table {
            let distance = distance(variant, lse, delta);
            if variant == frozen {
                assert!(distance < 1e-13, "{variant}: {distance:e}");
            } else {
                assert!(distance > 1e-2, "{variant} against {frozen}: {distance:e}");
            }
        }
    }
}
