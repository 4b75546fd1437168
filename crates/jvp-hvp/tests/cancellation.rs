//! `O′ = A - μ ∘ O` errs by as much as `(P ∘ (S′ - μ)) V`, also where all S′ of a row are far from zero and
//! near each other: the digits that the subtraction loses were lost when S′ was rounded.

use half::bf16;
use theria_contract::{
    Attention, Directions, Element, Host, Inputs, Primal, Problem, SavedTensor, Tangent, Tensor,
};
use theria_jvp_hvp::proof::Samples;
use theria_jvp_hvp::{Dense, Streaming};

const SHIFTS: [f64; 4] = [0.0, 10.0, 1e3, 1e5];

/// O′ along a bias′ that is `shift` plus noise. Numbers are those of f32 in either type.
fn output_tangent<E: Element>(
    backend: &impl Attention<E, Storage = Host>,
    shift: f64,
    spoil: impl FnOnce(&mut SavedTensor<Host, E>),
) -> Tensor<E> {
    let bias = [1, 2, 100, 150];
    let builder = Problem::builder(E::DTYPE).heads(2, 2).lengths(100, 150).head_dims(16, 16);
    let problem = builder.bias(bias).build().unwrap();
    let shape = problem.shape();
    let draw = |stream, of, shift: f64| {
        let numbers = Samples::new(1, stream).tensor::<f64>(of).unwrap();
        Tensor::from_fn(of, |at| E::from_f64(f64::from((numbers.at(at) + shift) as f32))).unwrap()
    };
    let (q, k, v) = (draw(0, shape.q(), 0.0), draw(1, shape.k(), 0.0), draw(2, shape.v(), 0.0));
    let (bias, bias_tangent) = (draw(3, bias, 0.0), draw(4, bias, shift));
    let inputs = Inputs::<Host, E> { bias: Some(bias.view()), ..Inputs::new(q.view(), k.view(), v.view()) };
    let mut saved = backend.forward(&problem, Primal(&inputs)).unwrap();
    spoil(&mut saved.0);
    let along = Tangent(Directions { bias: Some(bias_tangent.view()), ..Directions::default() });
    backend.jvp(&problem, Primal(&inputs), saved.as_ref(), along).unwrap().0.output
}

/// The largest error of O′ in f32, over the root mean square of O′ in f64.
fn error(
    backend: &impl Attention<f32, Storage = Host>,
    shift: f64,
    spoil: impl FnOnce(&mut SavedTensor<Host, f32>),
) -> f64 {
    let wanted = output_tangent::<f64>(&Dense::new(), shift, |_| ());
    let given = output_tangent(backend, shift, spoil);
    let rms = (wanted.data().iter().map(|x| x * x).sum::<f64>() / wanted.data().len() as f64).sqrt();
    let pairs = given.data().iter().zip(wanted.data());
    pairs.map(|(x, y)| (f64::from(*x) - y).abs()).fold(0.0, f64::max) / rms
}

#[test]
fn subtracting_the_mean_at_the_end_of_a_row_errs_by_the_same_size_as_from_every_score() {
    for shift in SHIFTS {
        let at_the_end = error(&Streaming::new(), shift, |_| ());
        let from_every_score = error(&Dense::new(), shift, |_| ());
        println!("shift {shift:e}: {at_the_end:.1e}, and {from_every_score:.1e}");
        assert!(at_the_end < 4.0 * from_every_score, "{shift}: {at_the_end:e}, {from_every_score:e}");
    }
}

#[test]
fn an_output_that_was_rounded_to_bf16_is_not_good_enough_to_be_subtracted() {
    let rounded = |saved: &mut SavedTensor<Host, f32>| {
        saved.output.data_mut().iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
    };
    for shift in &SHIFTS[1..] {
        let (exact, spoiled) =
            (error(&Streaming::new(), *shift, |_| ()), error(&Streaming::new(), *shift, rounded));
        assert!(spoiled > 100.0 * exact, "{shift}: {spoiled:e}, {exact:e}");
    }
}
