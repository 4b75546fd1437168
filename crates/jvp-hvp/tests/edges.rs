//! The edges of the JVP and the second order: enormous scores, values that are not numbers, statistics
//! that cannot be right, memory that overlaps, nothing at all.

use theria_contract::{
    Attention, Causal, Cotangent, DType, Directions, Element, Host, Inputs, Layout, Primal, Problem, Qkv,
    SavedTensor, Tangent, Tensor, TensorView,
};
use theria_jvp_hvp::{Dense, Streaming};

/// O′ and μ, the tangents of the gradients, and the gradients.
type Results = (SavedTensor<Host, f32>, Qkv<Tensor<f32>>, Qkv<Tensor<f32>>);

/// Along a fixed direction of q, k and v, with fixed G and G′, from what `forward` saved or what was
/// made of it.
fn run<B: Attention<f32, Storage = Host>>(
    backend: &B,
    problem: &Problem,
    inputs: &Inputs<'_, Host, f32>,
    spoil: impl Fn(&mut SavedTensor<Host, f32>),
) -> Results {
    let (shape, inputs) = (problem.shape(), Primal(inputs));
    let mut saved = backend.forward(problem, inputs).unwrap();
    spoil(&mut saved.0);
    let (q, k, v) = (ramp(shape.q(), 0.2), ramp(shape.k(), 0.1), ramp(shape.v(), 0.3));
    let directions =
        Tangent(Directions { q: Some(q.view()), k: Some(k.view()), v: Some(v.view()), bias: None });
    let (g, g_tangent) = (ramp(shape.output(), 0.4), ramp(shape.output(), -0.2));
    let tangent = backend.jvp(problem, inputs, saved.as_ref(), directions).unwrap();
    let g_tangent = Some(Tangent(Cotangent(g_tangent.view())));
    let second = backend
        .second_order(
            problem,
            inputs,
            saved.as_ref(),
            directions,
            tangent.as_ref(),
            Cotangent(g.view()),
            g_tangent,
            true,
        )
        .unwrap();
    (tangent.0, second.tangent.0.0, second.first.unwrap().0)
}

/// The same check on both backends.
fn on_both(check: impl Fn(&dyn Fn(&Problem, &Inputs<'_, Host, f32>) -> Results)) {
    check(&|problem, inputs| run(&Dense::new(), problem, inputs, |_| ()));
    check(&|problem, inputs| run(&Streaming::new(), problem, inputs, |_| ()));
}

fn ramp(shape: [usize; 4], step: f32) -> Tensor<f32> {
    Tensor::from_fn(shape, |[b, h, i, c]| ((7 * i + 3 * c + 5 * h + b) % 11) as f32 * step - 5.0 * step)
        .unwrap()
}

fn problem(t: usize, m: usize) -> Problem {
    Problem::builder(DType::F32).lengths(t, m).head_dims(4, 4).build().unwrap()
}

fn all<E: Element>(tensor: &Tensor<E>, test: impl Fn(f64) -> bool) -> bool {
    tensor.data().iter().all(|x| test(x.to_f64()))
}

#[test]
fn a_one_hot_row_has_no_curvature_however_large_its_scores() {
    on_both(|run| {
        for size in [1e3_f32, 1e8, 1e15] {
            // Key 2 wins by far: its score is size², the others are 0 or less.
            let q = Tensor::from_fn([1, 1, 2, 4], |_| size).unwrap();
            let k = Tensor::from_fn([1, 1, 5, 4], |[_, _, j, _]| if j == 2 { size } else { -size }).unwrap();
            let v = ramp([1, 1, 5, 4], 1.0);
            let inputs = Inputs::new(q.view(), k.view(), v.view());
            let (tangent, second, first) = run(&problem(2, 5), &inputs);
            // All that moves is the value of the winner.
            let v_tangent = ramp([1, 1, 5, 4], 0.3);
            for i in 0..2 {
                for c in 0..4 {
                    let (moved, wanted) = (tangent.output.at([0, 0, i, c]), v_tangent.at([0, 0, 2, c]));
                    assert!((moved - wanted).abs() <= 1e-6 * size * size.min(1e3), "{moved} {wanted}");
                }
            }
            assert!(all(&second.q, f64::is_finite) && all(&second.k, f64::is_finite), "{size}: {second:?}");
            assert!(all(&first.q, |x| x == 0.0));
        }
    });
}

#[test]
fn a_nan_reaches_every_derivative_of_the_queries_that_see_it_and_no_statistic_of_others() {
    on_both(|run| {
        let (q, mut k, v) = (ramp([1, 1, 6, 4], 0.3), ramp([1, 1, 6, 4], 0.2), ramp([1, 1, 6, 4], 0.1));
        k.view_mut().set([0, 0, 5, 0], f32::NAN);
        let causal = problem(6, 6).to_builder().causal(Causal::TopLeft).build().unwrap();
        let (tangent, second, _) = run(&causal, &Inputs::new(q.view(), k.view(), v.view()));
        // Only query 5 sees key 5.
        assert!(tangent.lse.data()[..5].iter().all(|x| x.is_finite()), "{:?}", tangent.lse);
        assert!(tangent.lse.data()[5].is_nan());
        assert!(tangent.output.data()[..20].iter().all(|x| x.is_finite()), "{:?}", tangent.output);
        assert!(tangent.output.data()[20..].iter().all(|x| x.is_nan()));
        assert!(second.q.data()[20..].iter().all(|x| x.is_nan()));
    });
}

#[test]
fn a_row_that_sees_keys_cannot_have_been_saved_as_one_that_sees_nothing() {
    let (q, k, v) = (ramp([1, 1, 3, 4], 0.3), ramp([1, 1, 6, 4], 0.2), ramp([1, 1, 6, 4], 0.1));
    let inputs = Inputs::new(q.view(), k.view(), v.view());
    for infinite in [f32::NEG_INFINITY, f32::INFINITY] {
        let blind = |saved: &mut SavedTensor<Host, f32>| {
            saved.lse.view_mut().set([0, 0, 1, 0], infinite);
        };
        let (tangent, second, first) = run(&Streaming::new(), &problem(3, 6), &inputs, blind);
        assert!(tangent.lse.data()[1].is_nan(), "the derivative of that row is not plausible");
        for output in [&tangent.output, &second.q, &first.q] {
            assert!(output.data()[4..8].iter().all(|x| x.is_nan()));
            assert!(output.data()[..4].iter().all(|x| x.is_finite()));
        }
        // Every key takes part in that row.
        for sum in [&second.k, &second.v, &first.k, &first.v] {
            assert!(all(sum, f64::is_nan), "{infinite}");
        }
    }
}

/// The largest difference of results, over the largest result, tensor by tensor.
fn largest_difference(a: &Results, b: &Results) -> f32 {
    let pairs = [
        (&a.0.output, &b.0.output),
        (&a.0.lse, &b.0.lse),
        (&a.1.q, &b.1.q),
        (&a.1.k, &b.1.k),
        (&a.1.v, &b.1.v),
        (&a.2.q, &b.2.q),
        (&a.2.v, &b.2.v),
    ];
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, |top, x| top.max(x.abs()));
    let of = |(a, b): (&Tensor<f32>, &Tensor<f32>)| {
        let difference = largest(&mut a.data().iter().zip(b.data()).map(|(x, y)| x - y));
        difference / largest(&mut a.data().iter().copied())
    };
    pairs.into_iter().map(of).fold(0.0, f32::max)
}

#[test]
fn the_rounding_of_a_large_lse_does_not_reach_the_derivatives_of_its_row() {
    // What the rounding of an enormous lse does to a row, made visible: its weights are 0.1 % off. One row of
    // 300 has a large lse; its block of rows takes it out again, the others have no need to.
    let (q, k, v) = (ramp([1, 1, 300, 4], 0.6), ramp([1, 1, 12, 4], 0.4), ramp([1, 1, 12, 4], 0.1));
    let bias = Tensor::from_fn([1, 1, 300, 1], |at| if at[2] == 4 { 200.0 } else { 0.0 }).unwrap();
    let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
    let problem = problem(300, 12).to_builder().bias([1, 1, 300, 1]).build().unwrap();
    let off =
        |row: usize| run(&Streaming::new(), &problem, &inputs, |saved| saved.lse.data_mut()[row] += 1e-3);
    let exact = run(&Streaming::new(), &problem, &inputs, |saved| assert!(saved.lse.data()[4] > 100.0));
    assert!(largest_difference(&exact, &off(4)) <= 2e-5, "{}", largest_difference(&exact, &off(4)));
    // The control: an lse that is wrong and not large is believed.
    assert!(largest_difference(&exact, &off(250)) > 2e-4, "{}", largest_difference(&exact, &off(250)));
}

#[test]
fn operands_and_directions_may_repeat_or_overlap_in_memory() {
    let (m, d) = (7, 4);
    // Row j starts at element j: neighbours share three of four elements.
    let memory: Vec<f32> = (0..m + d).map(|x| (x as f32 * 0.7).sin()).collect();
    let layout = |row| Layout::strided([1, 1, m, d], [0, 0, row, 1]).unwrap();
    let (sliding, repeated) =
        (TensorView::new(&memory, layout(1)).unwrap(), TensorView::new(&memory, layout(0)).unwrap());
    let q = ramp([1, 1, 5, 4], 0.3);
    let problem = problem(5, m);
    let tangent = |k, v, q_tangent: TensorView<'_, f32>| {
        let inputs = Inputs::new(q.view(), k, v);
        let backend = Streaming::new();
        let saved = backend.forward(&problem, Primal(&inputs)).unwrap();
        let directions = Directions { q: Some(q_tangent), k: Some(v), v: Some(k), ..Directions::default() };
        backend.jvp(&problem, Primal(&inputs), saved.as_ref(), Tangent(directions)).unwrap().0
    };
    let once = TensorView::new(&memory, Layout::strided([1, 1, 5, d], [0, 0, 1, 1]).unwrap()).unwrap();
    let [k, v, q_tangent] = [sliding, repeated, once].map(|view| view.to_tensor());
    assert_eq!(tangent(sliding, repeated, once), tangent(k.view(), v.view(), q_tangent.view()));
}

#[test]
fn empty_problems_have_defined_results() {
    on_both(|run| {
        for (batch, t, m) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (1 << 40, 0, 0)] {
            let problem = Problem::builder(DType::F32).batch(batch).lengths(t, m).head_dims(4, 4);
            let problem = problem.bias([1, 1, 1, 1]).build().unwrap();
            let shape = problem.shape();
            let (q, k, v) = (ramp(shape.q(), 0.1), ramp(shape.k(), 0.1), ramp(shape.v(), 0.1));
            let bias = ramp([1; 4], 0.1);
            let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
            let (tangent, second, first) = run(&problem, &inputs);
            assert!(all(&tangent.output, |x| x == 0.0) && all(&tangent.lse, |x| x == 0.0));
            for (name, tensor) in second.as_ref().named().chain(first.as_ref().named()) {
                assert!(all(tensor, |x| x == 0.0), "{name} of {shape:?}");
            }
        }
    });
}

#[test]
fn a_bias_shared_by_every_query_has_a_gradient_as_exact_as_others() {
    // One entry stands for 16 × 20000 queries. The numbers are exact in f32, so both oracles see the same.
    let (heads, t, m) = (16, 20_000, 8);
    let shared = |dtype| {
        let builder = Problem::builder(dtype).heads(heads, heads).lengths(t, m).head_dims(4, 4);
        builder.bias([1, 1, 1, m]).build().unwrap()
    };
    let noise = |shape, seed: usize| {
        let value = |[_, h, i, c]: [usize; 4]| ((h * 17 + i * 13 + c * 7 + seed) as f32 * 0.618).sin();
        Tensor::<f32>::from_fn(shape, value).unwrap()
    };
    let narrow = shared(DType::F32);
    let shape = narrow.shape();
    let (q, k, v) = (noise(shape.q(), 1), noise(shape.k(), 2), noise(shape.v(), 3));
    let (g, bias) = (noise(shape.output(), 4), noise([1, 1, 1, m], 5));
    let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
    let saved = Streaming::new().forward(&narrow, Primal(&inputs)).unwrap();
    let gradients =
        Streaming::new().backward(&narrow, Primal(&inputs), saved.as_ref(), Cotangent(g.view())).unwrap();

    let wide: [Tensor<f64>; 5] = [&q, &k, &v, &bias, &g].map(Tensor::cast);
    let [q, k, v, bias, g] = &wide;
    let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
    let problem = shared(DType::F64);
    let saved = Streaming::new().forward(&problem, Primal(&inputs)).unwrap();
    let exact = Streaming::new().backward(&problem, Primal(&inputs), saved.as_ref(), Cotangent(g.view()));
    let (found, exact) = (gradients.0.bias.unwrap(), exact.unwrap().0.bias.unwrap());
    let rms = (exact.data().iter().map(|x| x * x).sum::<f64>() / m as f64).sqrt();
    for (x, y) in found.data().iter().zip(exact.data()) {
        assert!((f64::from(*x) - y).abs() <= 5e-6 * rms, "{x} and {y} of {rms}");
    }
}
