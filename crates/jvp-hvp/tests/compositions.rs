//! Each composition is the derivative that it says, held against differences of first-order rules;
//! and each differs where a term is left out.

mod cases;

use approx::{assert_abs_diff_eq, assert_relative_eq};
use cases::{cases, data, directions, elsewhere, inputs, packed};
use theria_contract::conformance::CaseData;
use theria_contract::{
    Attention, Cotangent, Directions, Host, Primal, Qkv, Result, Tangent, Tensor, TensorView,
};
use theria_jvp_hvp::Dense;
use theria_jvp_hvp::composition::{
    DoubleBackward, Lent, Linear, Loss, ReverseOverForward, double_backward, hvp, reverse_over_forward,
};
use theria_jvp_hvp::variant::{Variant, Varied};

/// L(O) = Σ (O³/3 - target · O): its Hessian is not constant.
struct Cubic {
    target: Tensor<f64>,
}

fn combine(
    a: TensorView<'_, f64>,
    b: TensorView<'_, f64>,
    entry: fn(f64, f64) -> f64,
) -> Result<Tensor<f64>> {
    Tensor::from_fn(a.shape(), |at| entry(a.at(at), b.at(at)))
}

impl Loss<Host, f64> for Cubic {
    fn cotangent(&self, output: Primal<TensorView<'_, f64>>) -> Result<Cotangent<Lent<'_, Tensor<f64>>>> {
        let gradient = combine(output.0, self.target.view(), |o, target| o * o - target)?;
        Ok(Cotangent(Lent::Made(gradient)))
    }

    fn cotangent_tangent(
        &self,
        output: Primal<TensorView<'_, f64>>,
        output_tangent: Tangent<TensorView<'_, f64>>,
    ) -> Result<Option<Tangent<Cotangent<Tensor<f64>>>>> {
        let tangent = combine(output.0, output_tangent.0, |o, o_tangent| 2.0 * o * o_tangent)?;
        Ok(Some(Tangent(Cotangent(tangent))))
    }
}

/// The same loss by somebody who takes its gradient for a constant.
struct Forgetful(Cubic);

impl Loss<Host, f64> for Forgetful {
    fn cotangent(&self, output: Primal<TensorView<'_, f64>>) -> Result<Cotangent<Lent<'_, Tensor<f64>>>> {
        self.0.cotangent(output)
    }

    fn cotangent_tangent(
        &self,
        _output: Primal<TensorView<'_, f64>>,
        _output_tangent: Tangent<TensorView<'_, f64>>,
    ) -> Result<Option<Tangent<Cotangent<Tensor<f64>>>>> {
        Ok(None)
    }
}

/// The case with its operands moved by `step` along its tangents.
fn moved(data: &CaseData<f64>, step: f64) -> CaseData<f64> {
    let shift = |x: &mut Tensor<f64>, along: &Tensor<f64>| {
        x.data_mut().iter_mut().zip(along.data()).for_each(|(x, along)| *x += step * along);
    };
    let mut other = data.clone();
    let pairs = other.primal.as_mut().named().zip(data.tangents.as_ref().named());
    pairs.for_each(|((_, x), (_, along))| shift(x, along));
    other
}

/// Central differences of a function of the case along its tangents.
fn difference(data: &CaseData<f64>, f: impl Fn(&CaseData<f64>) -> Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let step = 1e-5;
    let (after, before) = (f(&moved(data, step)), f(&moved(data, -step)));
    let entry = |(after, before): (&f64, &f64)| (after - before) / (2.0 * step);
    after.iter().zip(&before).map(|(a, b)| a.iter().zip(b).map(entry).collect()).collect()
}

fn relative_error(given: &[Vec<f64>], wanted: &[Vec<f64>]) -> f64 {
    let (given, wanted) = (given.concat(), wanted.concat());
    assert_eq!(given.len(), wanted.len());
    let worst = given.iter().zip(&wanted).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    worst / wanted.iter().map(|y| y.abs()).fold(f64::MIN_POSITIVE, f64::max)
}

fn inner(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.concat().iter().zip(b.concat()).map(|(a, b)| a * b).sum()
}

/// ∇L of a loss of the output.
fn gradient(data: &CaseData<f64>, loss: &impl Loss<Host, f64>) -> Vec<Vec<f64>> {
    let (dense, inputs) = (Dense::new(), inputs(data));
    let saved = dense.forward(&data.problem, Primal(&inputs)).unwrap();
    let g = loss.cotangent(saved.as_ref().map(|saved| saved.output.view())).unwrap();
    let g = g.as_ref().map(|g| g.as_ref().view());
    packed(dense.backward(&data.problem, Primal(&inputs), saved.as_ref(), g).unwrap().0)
}

/// Gradient and Hessian-vector product along the tangents of the case.
fn product(data: &CaseData<f64>, loss: &impl Loss<Host, f64>) -> [Vec<Vec<f64>>; 2] {
    let (dense, inputs) = (Dense::new(), inputs(data));
    let saved = dense.forward(&data.problem, Primal(&inputs)).unwrap();
    let along = Tangent(directions(data));
    let made = hvp(&dense, &data.problem, Primal(&inputs), saved.as_ref(), along, loss).unwrap();
    [packed(made.gradient.0), packed(made.product.0.0)]
}

#[test]
fn a_hessian_vector_product_is_the_derivative_of_the_gradient_of_the_loss() {
    for case in cases() {
        let data = data(&case);
        let loss = Cubic { target: data.cotangent_tangent.clone() };
        let [first, second] = product(&data, &loss);
        assert_eq!(first, gradient(&data, &loss), "{}", case.name);
        let wanted = difference(&data, |data| gradient(data, &loss));
        assert_abs_diff_eq!(relative_error(&second, &wanted), 0.0, epsilon = 1e-8);

        // A loss whose curvature is forgotten is another loss.
        let [_, forgotten] = product(&data, &Forgetful(loss));
        assert!(relative_error(&forgotten, &wanted) > 1e-2, "{}", case.name);
    }
}

#[test]
fn the_hessian_vector_product_of_a_linear_loss_is_the_tangent_of_the_backward() {
    for case in cases() {
        let data = data(&case);
        let loss = Linear(Cotangent(&data.cotangent));
        let [first, second] = product(&data, &loss);
        assert_eq!(first, gradient(&data, &loss), "{}", case.name);
        let wanted = difference(&data, |data| gradient(data, &Linear(Cotangent(&data.cotangent))));
        assert_abs_diff_eq!(relative_error(&second, &wanted), 0.0, epsilon = 1e-8);
    }
}

#[test]
fn the_hessian_of_a_whole_loss_is_symmetric() {
    for case in cases() {
        let data = data(&case);
        let other = elsewhere(&case);
        let loss = Cubic { target: data.cotangent_tangent.clone() };
        let (u, v) = (packed(data.tangents.clone()), packed(other.tangents.clone()));
        let (uhv, vhu) = (inner(&u, &product(&other, &loss)[1]), inner(&v, &product(&data, &loss)[1]));
        assert_relative_eq!(uhv, vhu, max_relative = 1e-11);
    }
}

/// Double backward of the case: G is its cotangent, its tangents have arrived on the gradients.
fn twice(
    attention: &impl Attention<f64, Storage = Host>,
    data: &CaseData<f64>,
) -> DoubleBackward<Tensor<f64>> {
    let inputs = inputs(data);
    let saved = attention.forward(&data.problem, Primal(&inputs)).unwrap();
    let g = Cotangent(data.cotangent.view());
    let on_gradients = Cotangent(Cotangent(directions(data)));
    double_backward(attention, &data.problem, Primal(&inputs), saved.as_ref(), g, on_gradients).unwrap()
}

/// ⟨a, (dQ, dK, dV, dBias)⟩: what double backward differentiates. a are the tangents of `arrived`.
fn paired(data: &CaseData<f64>, arrived: &CaseData<f64>) -> f64 {
    inner(&packed(arrived.tangents.clone()), &gradient(data, &Linear(Cotangent(&data.cotangent))))
}

#[test]
fn double_backward_is_the_gradient_of_what_reads_the_gradients() {
    for case in cases() {
        let data = data(&case);
        let made = twice(&Dense::new(), &data);
        // Move the operands, then G, along directions of their own.
        let along = elsewhere(&case);
        let wanted = difference(&along, |moved| vec![vec![paired(moved, &data)]])[0][0];
        let given = inner(&packed(made.inputs.0), &packed(along.tangents.clone()));
        assert_relative_eq!(given, wanted, max_relative = 1e-6);

        // The backward is linear in G: the gradients at G + G′ less those at G.
        let mut other = data.clone();
        other.cotangent =
            combine(data.cotangent.view(), data.cotangent_tangent.view(), |g, h| g + h).unwrap();
        let wanted = paired(&other, &data) - paired(&data, &data);
        let on_g = inner(&[made.cotangent.0.0.into_vec()], &[data.cotangent_tangent.clone().into_vec()]);
        assert_relative_eq!(on_g, wanted, max_relative = 1e-10);

        let broken = packed(twice(&Varied::new(Variant::FrozenLse), &data).inputs.0);
        assert!((inner(&broken, &packed(along.tangents.clone())) - given).abs() > 1e-3 * given.abs());
    }
}

/// Reverse over forward of the case: its cotangent has arrived on O′, its G′ on O if `on_output`.
fn pulled(data: &CaseData<f64>, on_output: bool) -> ReverseOverForward<Tensor<f64>> {
    let (dense, inputs) = (Dense::new(), inputs(data));
    let inputs = Primal(&inputs);
    let saved = dense.forward(&data.problem, inputs).unwrap();
    let along = Tangent(directions(data));
    let pushed = dense.jvp(&data.problem, inputs, saved.as_ref(), along).unwrap();
    let on_o = on_output.then(|| Cotangent(data.cotangent_tangent.view()));
    let on_o_tangent = Cotangent(Tangent(data.cotangent.view()));
    let (saved, pushed) = (saved.as_ref(), pushed.as_ref());
    reverse_over_forward(&dense, &data.problem, inputs, saved, along, pushed, on_o, on_o_tangent).unwrap()
}

/// ⟨gO, O⟩ + ⟨gO′, O′⟩ along the given directions.
fn read(data: &CaseData<f64>, along: &Qkv<Tensor<f64>>) -> f64 {
    let (dense, inputs) = (Dense::new(), inputs(data));
    let saved = dense.forward(&data.problem, Primal(&inputs)).unwrap();
    let along = Tangent(Directions::from(along.as_ref().map(Tensor::view)));
    let pushed = dense.jvp(&data.problem, Primal(&inputs), saved.as_ref(), along).unwrap();
    let with = |a: &Tensor<f64>, b: Tensor<f64>| inner(&[a.clone().into_vec()], &[b.into_vec()]);
    with(&data.cotangent_tangent, saved.0.output) + with(&data.cotangent, pushed.0.output)
}

#[test]
fn reverse_over_forward_is_the_gradient_of_what_reads_the_output_and_its_tangent() {
    for case in cases() {
        let data = data(&case);
        let along = elsewhere(&case);
        let other = packed(along.tangents.clone());
        let made = pulled(&data, true);

        let wanted = difference(&along, |moved| vec![vec![read(moved, &data.tangents)]])[0][0];
        let given = inner(&packed(made.inputs.0), &other);
        assert_relative_eq!(given, wanted, max_relative = 1e-6);
        let without = inner(&packed(pulled(&data, false).inputs.0), &other);
        assert!((without - wanted).abs() > 1e-3 * wanted.abs(), "{}: gO is left out", case.name);

        // O′ is linear in the directions.
        let mut sum = data.clone();
        for ((_, x), (_, y)) in sum.tangents.as_mut().named().zip(along.tangents.as_ref().named()) {
            *x = combine(x.view(), y.view(), |x, y| x + y).unwrap();
        }
        let wanted = read(&data, &sum.tangents) - read(&data, &data.tangents);
        assert_relative_eq!(inner(&packed(made.directions.0.0), &other), wanted, max_relative = 1e-10);
    }
}
