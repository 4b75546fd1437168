//! The edges: enormous scores, values that are not numbers, memory that overlaps.

use theria_contract::{
    Attention, Causal, Checks, Cotangent, DType, Error, Host, Inputs, Layout, Primal, Problem, Qkv,
    SavedTensor, Tensor, TensorView,
};
use theria_reference::streaming::Operand;
use theria_reference::{Dense, Streaming};

type Gradients = Qkv<Tensor<f32>>;

fn run<B: Attention<f32, Storage = Host>>(
    backend: &B,
    problem: &Problem,
    inputs: &Inputs<'_, Host, f32>,
) -> Result<(SavedTensor<Host, f32>, Gradients), Error> {
    let saved = backend.forward(problem, Primal(inputs))?;
    let g = Tensor::from_fn(problem.shape().output(), |[_, _, i, c]| (i + 2 * c) as f32 / 8.0 - 1.0)?;
    let gradients = backend.backward(problem, Primal(inputs), saved.as_ref(), Cotangent(g.view()))?;
    Ok((saved.0, gradients.0))
}

/// The same check on both backends.
fn on_both(check: impl Fn(&dyn Fn(&Problem, &Inputs<'_, Host, f32>) -> (SavedTensor<Host, f32>, Gradients))) {
    check(&|problem, inputs| run(&Dense::new(), problem, inputs).unwrap());
    check(&|problem, inputs| run(&Streaming::new(), problem, inputs).unwrap());
}

fn ramp(shape: [usize; 4], step: f32) -> Tensor<f32> {
    Tensor::from_fn(shape, |[b, h, i, c]| ((7 * i + 3 * c + 5 * h + b) % 11) as f32 * step - 5.0 * step)
        .unwrap()
}

fn problem(t: usize, m: usize) -> Problem {
    Problem::builder(DType::F32).lengths(t, m).head_dims(4, 4).build().unwrap()
}

fn all_finite(gradients: &Gradients) -> bool {
    gradients.as_ref().named().all(|(_, tensor)| tensor.data().iter().all(|x| x.is_finite()))
}

#[test]
fn enormous_scores_give_one_hot_rows_and_no_overflow() {
    on_both(|run| {
        for size in [1e3_f32, 1e8, 1e17] {
            // Key 2 wins by far: its score is size², the others are 0 or less.
            let q = Tensor::from_fn([1, 1, 2, 4], |_| size).unwrap();
            let k = Tensor::from_fn([1, 1, 5, 4], |[_, _, j, _]| if j == 2 { size } else { -size }).unwrap();
            let v = ramp([1, 1, 5, 4], 1.0);
            let (saved, gradients) = run(&problem(2, 5), &Inputs::new(q.view(), k.view(), v.view()));
            assert_eq!(saved.output.view().row(0, 0, 1), v.view().row(0, 0, 2));
            assert!(saved.lse.data().iter().all(|lse| lse.is_finite()));
            assert!(all_finite(&gradients), "scores of size {size}²");
            assert!(gradients.q.data().iter().all(|x| *x == 0.0), "a one-hot row has no derivative");
        }
    });
}

#[test]
fn a_nan_reaches_the_output_of_every_query_that_sees_it() {
    on_both(|run| {
        let (q, mut k, v) = (ramp([1, 1, 3, 4], 0.3), ramp([1, 1, 6, 4], 0.2), ramp([1, 1, 6, 4], 0.1));
        k.view_mut().set([0, 0, 4, 1], f32::NAN);
        let (saved, gradients) = run(&problem(3, 6), &Inputs::new(q.view(), k.view(), v.view()));
        assert!(saved.output.data().iter().all(|x| x.is_nan()));
        assert!(gradients.q.data().iter().all(|x| x.is_nan()));
    });
}

#[test]
fn a_nan_key_that_causality_hides_from_early_queries_leaves_their_scores_alone() {
    on_both(|run| {
        let (q, mut k, v) = (ramp([1, 1, 6, 4], 0.3), ramp([1, 1, 6, 4], 0.2), ramp([1, 1, 6, 4], 0.1));
        k.view_mut().set([0, 0, 5, 0], f32::NAN);
        let causal = problem(6, 6).to_builder().causal(Causal::TopLeft).build().unwrap();
        let (saved, _) = run(&causal, &Inputs::new(q.view(), k.view(), v.view()));
        assert!(saved.lse.data()[..5].iter().all(|x| x.is_finite()));
        assert!(saved.output.data()[..20].iter().all(|x| x.is_finite()));
        assert!(saved.output.data()[20..].iter().all(|x| x.is_nan()));
    });
}

#[test]
fn a_hidden_key_stays_hidden_whatever_its_bias_is() {
    on_both(|run| {
        let (q, k, v) = (ramp([1, 1, 4, 4], 0.3), ramp([1, 1, 4, 4], 0.2), ramp([1, 1, 4, 4], 0.1));
        let causal = problem(4, 4).to_builder().causal(Causal::TopLeft).bias([1, 1, 1, 4]).build().unwrap();
        let with = |last| {
            let bias = Tensor::from_vec(vec![0.1, 0.2, 0.3, last], [1, 1, 1, 4]).unwrap();
            run(&causal, &Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) }).0
        };
        let plain = with(0.4);
        for odd in [f32::NAN, f32::INFINITY] {
            let saved = with(odd);
            // Queries 0 to 2 do not see key 3.
            assert_eq!(saved.output.data()[..12], plain.output.data()[..12]);
            assert!(saved.output.data()[12..].iter().all(|x| x.is_nan()));
        }
    });
}

#[test]
fn an_infinite_score_gives_nan_not_a_plausible_number() {
    on_both(|run| {
        let (q, k, v) = (ramp([1, 1, 2, 4], 0.3), ramp([1, 1, 3, 4], 0.2), ramp([1, 1, 3, 4], 0.1));
        let bias = Tensor::from_vec(vec![0.0, f32::INFINITY, 0.0], [1, 1, 1, 3]).unwrap();
        let biased = problem(2, 3).to_builder().bias([1, 1, 1, 3]).build().unwrap();
        let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
        let (saved, _) = run(&biased, &inputs);
        assert!(saved.output.data().iter().all(|x| x.is_nan()));
    });
}

#[test]
fn a_row_whose_scores_all_overflow_is_not_taken_for_one_that_sees_nothing() {
    on_both(|run| {
        let q = Tensor::from_vec(vec![1e30, 1.0], [1, 1, 2, 1]).unwrap();
        let k = Tensor::from_vec(vec![-1e30; 3], [1, 1, 3, 1]).unwrap();
        let v = ramp([1, 1, 3, 1], 0.5);
        let problem = Problem::builder(DType::F32).lengths(2, 3).head_dims(1, 1);
        let overflowing = problem.build().unwrap();
        let (saved, gradients) = run(&overflowing, &Inputs::new(q.view(), k.view(), v.view()));
        assert!(saved.output.data()[0].is_nan() && saved.lse.data()[0].is_nan());
        assert!(gradients.q.data()[0].is_nan());
        // Its neighbour is well, and so is the same row when its keys are hidden.
        assert!(saved.output.data()[1].is_finite());
        let bias = Tensor::from_vec(vec![f32::NEG_INFINITY; 3], [1, 1, 1, 3]).unwrap();
        let hidden = overflowing.to_builder().bias([1, 1, 1, 3]).build().unwrap();
        let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
        let (saved, gradients) = run(&hidden, &inputs);
        assert_eq!(saved.output.data(), [0.0, 0.0]);
        assert_eq!(saved.lse.data(), [f32::NEG_INFINITY; 2]);
        assert_eq!(gradients.q.data(), [0.0, 0.0]);
    });
}

#[test]
fn checks_turn_overflow_and_bad_inputs_into_errors() {
    let problem = problem(2, 3);
    let (q, k, v) = (ramp([1, 1, 2, 4], 1e30), ramp([1, 1, 3, 4], 1e30), ramp([1, 1, 3, 4], 0.1));
    let inputs = Inputs::new(q.view(), k.view(), v.view());
    for error in [
        run(&Dense::new().with_checks(Checks::Finite), &problem, &inputs).unwrap_err(),
        run(&Streaming::new().with_checks(Checks::Finite), &problem, &inputs).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NonFinite { name: "out", output: true, .. }), "{error}");
    }
    let nan = Tensor::from_vec(vec![f32::NAN; 12], [1, 1, 3, 4]).unwrap();
    let inputs = Inputs::new(q.view(), nan.view(), v.view());
    let error = run(&Streaming::new().with_checks(Checks::Finite), &problem, &inputs).unwrap_err();
    assert!(matches!(error, Error::NonFinite { name: "k", count: 12, output: false }), "{error}");
}

#[test]
fn operands_may_repeat_or_overlap_in_memory() {
    on_both(|run| {
        let (m, d) = (7, 4);
        // Row j of k starts at element j: neighbours share three of four elements. v repeats one row.
        let memory: Vec<f32> = (0..m + d).map(|x| (x as f32 * 0.7).sin()).collect();
        let k = TensorView::new(&memory, Layout::strided([1, 1, m, d], [0, 0, 1, 1]).unwrap()).unwrap();
        let v = TensorView::new(&memory, Layout::strided([1, 1, m, d], [0, 0, 0, 1]).unwrap()).unwrap();
        let q = ramp([1, 1, 5, 4], 0.3);
        let (saved, gradients) = run(&problem(5, m), &Inputs::new(q.view(), k, v));
        let (k, v) = (k.to_tensor(), v.to_tensor());
        let (packed, others) = run(&problem(5, m), &Inputs::new(q.view(), k.view(), v.view()));
        assert_eq!(saved.output, packed.output);
        assert_eq!(gradients, others);
    });
}

/// Every operand of an empty problem, with a bias of the shape of the scores, in one element type.
fn empty_in<E: Operand>(sizes: [usize; 3])
where
    E::Acc: Operand,
{
    let problem = problem_of::<E>(sizes);
    let shape = problem.shape();
    let zeros = |shape| Tensor::<E>::zeros(shape).unwrap();
    let (q, k, v, bias) = (zeros(shape.q()), zeros(shape.k()), zeros(shape.v()), zeros(shape.scores()));
    let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
    let g = zeros(shape.output());
    let check = |gradients: Qkv<Tensor<E>>| {
        for (name, tensor) in gradients.as_ref().named() {
            assert!(tensor.data().iter().all(|x| x.to_f64() == 0.0), "d{name} of {shape:?} in {}", E::DTYPE);
        }
    };
    let dense = Dense::new();
    let saved = dense.forward(&problem, Primal(&inputs)).unwrap();
    check(dense.backward(&problem, Primal(&inputs), saved.as_ref(), Cotangent(g.view())).unwrap().0);
    let streaming = Streaming::new();
    let saved = streaming.forward(&problem, Primal(&inputs)).unwrap();
    check(streaming.backward(&problem, Primal(&inputs), saved.as_ref(), Cotangent(g.view())).unwrap().0);
}

fn problem_of<E: Operand>([batch, t, m]: [usize; 3]) -> Problem {
    let builder = Problem::builder(E::DTYPE).batch(batch).lengths(t, m).head_dims(4, 3);
    builder.bias([batch, 1, t, m]).build().unwrap()
}

#[test]
fn empty_problems_are_empty_in_every_element_type() {
    // A batch of 2^40 with neither queries nor keys is backed by no memory at all, and must cost none.
    for sizes in [[0, 3, 4], [2, 0, 4], [2, 129, 0], [0, 0, 0], [1 << 40, 0, 0]] {
        empty_in::<f64>(sizes);
        empty_in::<f32>(sizes);
        empty_in::<half::f16>(sizes);
        empty_in::<half::bf16>(sizes);
    }
}

#[test]
fn a_row_that_sees_keys_cannot_have_been_saved_as_one_that_sees_nothing() {
    let (q, k, v) = (ramp([1, 1, 3, 4], 0.3), ramp([1, 1, 6, 4], 0.2), ramp([1, 1, 6, 4], 0.1));
    let (problem, inputs) = (problem(3, 6), Inputs::new(q.view(), k.view(), v.view()));
    let mut saved = Streaming::new().forward(&problem, Primal(&inputs)).unwrap();
    saved.0.lse.view_mut().set([0, 0, 1, 0], f32::NEG_INFINITY);
    let g = ramp([1, 1, 3, 4], 0.4);
    for infinite in [f32::NEG_INFINITY, f32::INFINITY] {
        saved.0.lse.view_mut().set([0, 0, 1, 0], infinite);
        let (inputs, g) = (Primal(&inputs), Cotangent(g.view()));
        let gradients = Streaming::new().backward(&problem, inputs, saved.as_ref(), g).unwrap().0;
        let dq = gradients.q.data();
        assert!(dq[4..8].iter().all(|x| x.is_nan()), "the derivative of that row is not plausible");
        assert!(dq[..4].iter().all(|x| x.is_finite()));
        // Every key takes part in that row.
        assert!(gradients.k.data().iter().chain(gradients.v.data()).all(|x| x.is_nan()), "{infinite}");
    }
}

#[test]
fn long_sums_into_one_row_are_as_exact_as_others() {
    let problem =
        Problem::builder(DType::F32).heads(129, 1).lengths(1000, 1).head_dims(7, 8).build().unwrap();
    let shape = problem.shape();
    let noise = |shape, seed: usize| {
        let value =
            |[b, h, i, c]: [usize; 4]| ((b * 31 + h * 17 + i * 13 + c * 7 + seed) as f32 * 0.618).sin();
        Tensor::<f32>::from_fn(shape, value).unwrap()
    };
    let (q, k, v, g) =
        (noise(shape.q(), 1), noise(shape.k(), 2), noise(shape.v(), 3), noise(shape.output(), 4));
    let inputs = Inputs::new(q.view(), k.view(), v.view());
    let saved = Streaming::new().forward(&problem, Primal(&inputs)).unwrap();
    let dv = Streaming::new()
        .backward(&problem, Primal(&inputs), saved.as_ref(), Cotangent(g.view()))
        .unwrap()
        .0
        .v;
    // One key: every probability is one, so dV is the plain sum of G.
    for c in 0..8 {
        let exact: f64 =
            (0..129).flat_map(|h| (0..1000).map(move |i| [0, h, i, c])).map(|at| f64::from(g.at(at))).sum();
        let size: f64 = 359.0; // the root of the number of terms: what independent terms sum to
        assert!(
            (f64::from(dv.at([0, 0, 0, c])) - exact).abs() < 2e-6 * size,
            "{} and {exact}",
            dv.at([0, 0, 0, c])
        );
    }
}

#[test]
fn empty_problems_have_defined_results() {
    on_both(|run| {
        for (batch, t, m) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
            let problem = Problem::builder(DType::F32).batch(batch).lengths(t, m).head_dims(4, 4);
            let problem = problem.bias([1, 1, 1, 1]).build().unwrap();
            let shape = problem.shape();
            let (q, k, v) = (ramp(shape.q(), 0.1), ramp(shape.k(), 0.1), ramp(shape.v(), 0.1));
            let bias = ramp([1; 4], 0.1);
            let inputs = Inputs { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
            let (saved, gradients) = run(&problem, &inputs);
            assert!(saved.output.data().iter().all(|x| *x == 0.0));
            assert!(saved.lse.data().iter().all(|x| *x == f32::NEG_INFINITY));
            for (name, tensor) in gradients.as_ref().named() {
                assert!(tensor.data().iter().all(|x| *x == 0.0), "d{name} of {shape:?}");
            }
        }
    });
}
