//! The backward is the derivative of the forward: by Taylor slopes, which a wrong rule cannot fit.

use theria_contract::conformance::{CaseData, Suite};
use theria_contract::{Attention, Cotangent, Host, Inputs, Primal, Qkv, Tensor};
use theria_reference::{Dense, Streaming};

type F64<'a> = Inputs<'a, Host, f64>;

fn inputs<'a>(data: &'a CaseData<f64>, primal: &'a Qkv<Tensor<f64>>) -> F64<'a> {
    Inputs {
        bias: primal.bias.as_ref().map(Tensor::view),
        mask: data.mask.as_ref().map(Tensor::view),
        key_lengths: data.key_lengths.as_ref().map(Tensor::view),
        ..Inputs::new(primal.q.view(), primal.k.view(), primal.v.view())
    }
}

fn inner(a: &Tensor<f64>, b: &Tensor<f64>) -> f64 {
    let (a, b) = (a.view().to_tensor(), b.view().to_tensor());
    // Padding and hidden bias entries have no direction.
    a.data().iter().zip(b.data()).filter(|(a, b)| a.is_finite() && b.is_finite()).map(|(a, b)| a * b).sum()
}

/// φ(x + h v) = ⟨G, O(x + h v)⟩
fn along<B: Attention<f64, Storage = Host>>(backend: &B, data: &CaseData<f64>, h: f64) -> f64 {
    let moved = |x: &Tensor<f64>, v: &Tensor<f64>| {
        let (x, v) = (x.view().to_tensor(), v.view().to_tensor());
        Tensor::from_fn(x.shape(), |at| x.at(at) + h * v.at(at)).unwrap()
    };
    let (primal, tangents) = (&data.primal, &data.tangents);
    let primal = Qkv {
        q: moved(&primal.q, &tangents.q),
        k: moved(&primal.k, &tangents.k),
        v: moved(&primal.v, &tangents.v),
        bias: primal.bias.as_ref().zip(tangents.bias.as_ref()).map(|(x, v)| moved(x, v)),
    };
    let saved = backend.forward(&data.problem, Primal(&inputs(data, &primal))).unwrap().0;
    inner(&saved.output, &data.cotangent)
}

/// ⟨dφ, v⟩ by the backward rule.
fn pulled_back<B: Attention<f64, Storage = Host>>(backend: &B, data: &CaseData<f64>) -> f64 {
    let inputs = inputs(data, &data.primal);
    let saved = backend.forward(&data.problem, Primal(&inputs)).unwrap();
    let g = Cotangent(data.cotangent.view());
    let gradients = backend.backward(&data.problem, Primal(&inputs), saved.as_ref(), g).unwrap().0;
    gradients.as_ref().named().zip(data.tangents.as_ref().named()).map(|((_, d), (_, v))| inner(d, v)).sum()
}

/// Least-squares slope of log |remainder| over log h, from h = 1/256 in five halvings.
fn slope(remainder: impl Fn(f64) -> f64) -> f64 {
    let points: Vec<(f64, f64)> =
        (8..=13).map(|n| 0.5_f64.powi(n)).map(|h| (h.ln(), remainder(h).abs().ln())).collect();
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    covariance / points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>()
}

fn data(name: &str) -> CaseData<f64> {
    let suite = Suite::standard();
    let case = suite.cases.iter().find(|case| case.name == name).expect("a standard case");
    // Directions of a tenth: the expansion is in its asymptotic range from the first step on.
    let mut data = CaseData::<f64>::of(case).unwrap().widen();
    let shrink = |v: &Tensor<f64>| Tensor::from_fn(v.shape(), |at| 0.1 * v.at(at)).unwrap();
    data.tangents = data.tangents.as_ref().map(shrink);
    data
}

const CASES: [&str; 9] = [
    "plain",
    "ragged lengths",
    "causal",
    "window",
    "mask",
    "bias for each head",
    "dropout",
    "grouped heads",
    "everything",
];

fn assert_slopes<B: Attention<f64, Storage = Host>>(backend: &B) {
    for name in CASES {
        let data = data(name);
        let (here, first) = (along(backend, &data, 0.0), pulled_back(backend, &data));
        let zeroth = slope(|h| along(backend, &data, h) - here);
        assert!((0.95..1.05).contains(&zeroth), "{name}: slope {zeroth} without the derivative");
        let with_first = slope(|h| along(backend, &data, h) - here - h * first);
        assert!((1.95..2.05).contains(&with_first), "{name}: slope {with_first} with the derivative");
        // The control: a derivative that is wrong by one part in a thousand is seen.
        let wrong = slope(|h| along(backend, &data, h) - here - h * first * 1.001);
        assert!(!(1.95..2.05).contains(&wrong), "{name}: a wrong derivative has slope {wrong}");
    }
}

#[test]
fn taylor_remainders_of_dense_fall_with_slopes_one_and_two() {
    assert_slopes(&Dense::new());
}

#[test]
fn taylor_remainders_of_streaming_fall_with_slopes_one_and_two() {
    assert_slopes(&Streaming::new());
}
