//! The door of every rule: operands are held against the problem once, so kernels need not.

use crate::{Directions, Element, Error, Host, Inputs, Problem, Qkv, Result, Saved, Storage, TensorView};

/// A floating operand and the shape that the problem gives it.
fn expect(name: &'static str, given: [usize; 4], expected: [usize; 4]) -> Result<()> {
    if given == expected { Ok(()) } else { Err(Error::Shape { name, given, expected }) }
}

/// An optional operand must be there exactly when the problem declares it.
fn expect_declared(
    name: &'static str,
    given: Option<[usize; 4]>,
    declared: Option<[usize; 4]>,
) -> Result<()> {
    match (given, declared) {
        (Some(given), Some(expected)) => expect(name, given, expected),
        (None, None) => Ok(()),
        (_, declared) => Err(Error::Presence { name, declared: declared.is_some() }),
    }
}

fn shape<S: Storage, T: crate::Scalar>(view: &S::View<'_, T>) -> [usize; 4] {
    S::layout(view).shape()
}

pub(crate) fn inputs<S: Storage, E: Element>(problem: &Problem, inputs: &Inputs<'_, S, E>) -> Result<()> {
    if E::DTYPE != problem.dtype() {
        return Err(Error::ElementType { given: E::DTYPE, expected: problem.dtype() });
    }
    let sizes = problem.shape();
    expect("q", shape::<S, E>(&inputs.q), sizes.q())?;
    expect("k", shape::<S, E>(&inputs.k), sizes.k())?;
    expect("v", shape::<S, E>(&inputs.v), sizes.v())?;
    expect_declared("bias", inputs.bias.as_ref().map(shape::<S, E>), problem.bias())?;
    expect_declared("mask", inputs.mask.as_ref().map(shape::<S, u8>), problem.mask())?;
    let lengths = problem.key_lengths().then(|| sizes.key_lengths());
    expect_declared("key_lengths", inputs.key_lengths.as_ref().map(shape::<S, i32>), lengths)
}

pub(crate) fn cotangent<S: Storage, E: Element>(
    name: &'static str,
    problem: &Problem,
    view: &S::View<'_, E>,
) -> Result<()> {
    expect(name, shape::<S, E>(view), problem.shape().output())
}

pub(crate) fn directions<S: Storage, E: Element>(
    problem: &Problem,
    directions: &Directions<S::View<'_, E>>,
) -> Result<()> {
    let sizes = problem.shape();
    for (name, view, expected) in [
        ("q_tangent", &directions.q, sizes.q()),
        ("k_tangent", &directions.k, sizes.k()),
        ("v_tangent", &directions.v, sizes.v()),
    ] {
        if let Some(view) = view {
            expect(name, shape::<S, E>(view), expected)?;
        }
    }
    match (&directions.bias, problem.bias()) {
        (Some(view), Some(expected)) => expect("bias_tangent", shape::<S, E>(view), expected),
        (Some(_), None) => Err(Error::Presence { name: "bias_tangent", declared: false }),
        (None, _) => Ok(()),
    }
}

pub(crate) fn saved<S: Storage, E: Element>(
    names: [&'static str; 2],
    problem: &Problem,
    saved: &Saved<S::View<'_, E>, S::View<'_, E::Acc>>,
) -> Result<()> {
    expect(names[0], shape::<S, E>(&saved.output), problem.shape().output())?;
    expect(names[1], shape::<S, E::Acc>(&saved.lse), problem.shape().rows())
}

pub(crate) fn saved_out<S: Storage, E: Element>(
    names: [&'static str; 2],
    problem: &Problem,
    saved: &Saved<S::ViewMut<'_, E>, S::ViewMut<'_, E::Acc>>,
) -> Result<()> {
    expect(names[0], S::layout_mut(&saved.output).shape(), problem.shape().output())?;
    expect(names[1], S::layout_mut(&saved.lse).shape(), problem.shape().rows())
}

pub(crate) fn gradients_out<S: Storage, E: Element>(
    names: [&'static str; 4],
    problem: &Problem,
    gradients: &Qkv<S::ViewMut<'_, E>>,
) -> Result<()> {
    let sizes = problem.shape();
    expect(names[0], S::layout_mut(&gradients.q).shape(), sizes.q())?;
    expect(names[1], S::layout_mut(&gradients.k).shape(), sizes.k())?;
    expect(names[2], S::layout_mut(&gradients.v).shape(), sizes.v())?;
    match (&gradients.bias, problem.bias()) {
        (Some(view), Some(expected)) => expect(names[3], S::layout_mut(view).shape(), expected),
        (Some(_), None) => Err(Error::Presence { name: names[3], declared: false }),
        (None, _) => Ok(()),
    }
}

impl<E: Element> Inputs<'_, Host, E> {
    /// The number of real keys of each batch entry: what a backend on the host loops over. An
    /// error when a length is negative or longer than the keys.
    pub fn key_length(&self, problem: &Problem, batch: usize) -> Result<usize> {
        let m = problem.shape().m;
        let Some(lengths) = self.key_lengths else { return Ok(m) };
        length_of(lengths, batch, m)
    }
}

fn length_of(lengths: TensorView<'_, i32>, batch: usize, m: usize) -> Result<usize> {
    let given = lengths.at([0, 0, 0, batch]);
    match usize::try_from(given) {
        Ok(length) if length <= m => Ok(length),
        _ => Err(Error::KeyLength { batch, given, m }),
    }
}

/// Every key length is in range. Lengths on a device are its kernels' to clamp.
pub(crate) fn key_lengths<S: Storage, E: Element>(
    storage: &S,
    problem: &Problem,
    inputs: &Inputs<'_, S, E>,
) -> Result<()> {
    let Some(lengths) = inputs.key_lengths else { return Ok(()) };
    if !storage.is_host() {
        return Ok(());
    }
    let lengths = storage.download(lengths)?;
    (0..problem.shape().batch).try_for_each(|b| length_of(lengths.view(), b, problem.shape().m).map(drop))
}
