//! What mistakes leave in the outputs of a backend that made none.

use super::Fault;
use crate::{
    Cotangent, Element, Host, Problem, Qkv, Result, SavedView, SavedViewMut, SecondOrder, Tangent, Tensor,
    TensorView, TensorViewMut,
};

/// What a forward call found before it ran.
pub(super) struct Before<E> {
    /// The output's memory.
    pub(super) output: Tensor<E>,
    /// The first byte of the workspace.
    pub(super) garbage: u8,
    /// Whether it is an even call of this backend.
    pub(super) even: bool,
}

pub(super) fn in_saved<E: Element>(
    fault: Fault,
    problem: &Problem,
    before: &Before<E>,
    saved: &mut SavedViewMut<'_, Host, E>,
) {
    if let Some(rest) = &mut saved.rest {
        match fault {
            Fault::RestUnwritten => unwrite(rest),
            Fault::RestNegated => each(rest, |x| -x),
            Fault::RestOfAnotherUnit => each(rest, |x| 4.0 * x),
            _ => {}
        }
    }
    let [batch, heads, rows, columns] = saved.output.shape();
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..rows {
                let lse = saved.lse.at([b, h, i, 0]);
                match fault {
                    Fault::LastRowUnwritten if i + 1 == rows => {
                        saved.output.row_mut(b, h, i).copy_from_slice(before.output.view().row(b, h, i));
                    }
                    Fault::BinaryLse => {
                        let binary = lse.to_f64() * std::f64::consts::LOG2_E;
                        saved.lse.set([b, h, i, 0], Element::from_f64(binary));
                    }
                    Fault::ReadsWorkspace if columns > 0 && before.garbage == 0x3F => {
                        saved.output.row_mut(b, h, i)[0] = E::default();
                    }
                    Fault::NanInEmptyRows if lse.to_f64() == f64::NEG_INFINITY => {
                        saved.output.row_mut(b, h, i).fill(E::from_f64(f64::NAN));
                    }
                    Fault::DropoutUnscaled => {
                        let kept = problem.dropout().map_or(1.0, |dropout| dropout.kept_weight());
                        for x in saved.output.row_mut(b, h, i) {
                            *x = E::from_f64(x.to_f64() / kept);
                        }
                    }
                    Fault::NotRepeatable if columns > 0 => {
                        // The smallest change that the type can show.
                        let row = saved.output.row_mut(b, h, i);
                        let grain = if before.even { 1.0 } else { -1.0 };
                        row[0] = E::from_f64(row[0].to_f64() * (1.0 + grain * f64::from(f32::EPSILON)));
                    }
                    _ => {}
                }
            }
        }
    }
}

pub(super) fn in_saved_tangent<E: Element>(
    fault: Fault,
    saved: &SavedView<'_, Host, E>,
    Tangent(saved_tangent): &mut Tangent<SavedViewMut<'_, Host, E>>,
) -> Result<()> {
    match fault {
        Fault::UncentredTangent => {
            let (output, mu) = (saved_tangent.output.view(), saved_tangent.lse.view());
            let uncentred = Tensor::from_fn(output.shape(), |at| {
                let mu = mu.at([at[0], at[1], at[2], 0]).to_f64();
                E::from_f64(output.at(at).to_f64() + mu * saved.output.at(at).to_f64())
            })?;
            saved_tangent.output.copy_from(uncentred.view())
        }
        Fault::TangentOfNothing => {
            let output = saved_tangent.output.view();
            let shifted = Tensor::from_fn(output.shape(), |at| E::from_f64(output.at(at).to_f64() + 1e-20))?;
            saved_tangent.output.copy_from(shifted.view())
        }
        Fault::TangentRestUnwritten => {
            saved_tangent.rest.iter_mut().for_each(unwrite);
            Ok(())
        }
        Fault::TangentRestNegated => {
            saved_tangent.rest.iter_mut().for_each(|rest| each(rest, |x| -x));
            Ok(())
        }
        Fault::LseTangentZero => {
            saved_tangent.lse.fill(E::Acc::default());
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(super) fn in_gradients<E: Element>(
    fault: Fault,
    has_bias: bool,
    Cotangent(gradients): &mut Cotangent<Qkv<TensorViewMut<'_, E>>>,
) -> Result<()> {
    match fault {
        Fault::BiasGradientUnwritten => gradients.bias.iter_mut().for_each(unwrite),
        Fault::KeyGradientNeedsBiasGradient if has_bias && gradients.bias.is_none() => {
            unwrite(&mut gradients.k);
        }
        Fault::ScaledQueryGradient => scale(&mut gradients.q)?,
        Fault::RepeatedValueGradient => {
            let packed = gradients.v.view().to_tensor();
            let repeated = Tensor::from_fn(packed.shape(), |[b, h, _, c]| packed.at([b, h, 0, c]))?;
            gradients.v.copy_from(repeated.view())?;
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn in_second_order<E: Element>(
    fault: Fault,
    outputs: &mut SecondOrder<TensorViewMut<'_, E>>,
) -> Result<()> {
    let tangent = &mut outputs.tangent.0.0;
    match (fault, &mut outputs.first) {
        (Fault::ScaledQueryGradientTangent, _) => scale(&mut tangent.q)?,
        (Fault::BiasGradientTangentUnwritten, _) => tangent.bias.iter_mut().for_each(unwrite),
        (Fault::FirstOrderUnwritten, Some(first)) => {
            first.0.as_mut().named().for_each(|(_, gradient)| unwrite(gradient));
        }
        (Fault::TangentNeedsFirstOrder, None) => unwrite(&mut tangent.q),
        _ => {}
    }
    Ok(())
}

/// As if nobody had written it: the suite's outputs hold NaN before.
fn unwrite<E: Element>(gradient: &mut TensorViewMut<'_, E>) {
    gradient.fill(E::from_f64(f64::NAN));
}

fn each<E: Element>(tensor: &mut TensorViewMut<'_, E>, change: impl Fn(f64) -> f64) {
    let right = tensor.view().to_tensor();
    let changed = Tensor::from_fn(right.shape(), |at| E::from_f64(change(right.at(at).to_f64())));
    changed.and_then(|changed| tensor.copy_from(changed.view())).expect("a tensor of the same shape");
}

fn scale<E: Element>(gradient: &mut TensorViewMut<'_, E>) -> Result<()> {
    let right = gradient.view();
    let scaled = Tensor::from_fn(right.shape(), |at| E::from_f64(right.at(at).to_f64() * 1.001))?;
    gradient.copy_from(scaled.view())
}

/// The same memory through packed strides.
pub(super) fn packed<T: Copy>(view: TensorView<'_, T>) -> TensorView<'_, T> {
    TensorView::contiguous(view.data(), view.shape()).expect("packed strides reach no further")
}
