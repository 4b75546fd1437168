//! The door of every rule: operands are held against the problem once, so kernels need not.

use crate::{
    Attention, Checks, Directions, Element, Error, Host, Inputs, Primal, Problem, Qkv, Result, Rule, Saved,
    SavedView, SavedViewMut, Storage,
};

type View<'a, A, E, T> = <<A as Attention<E>>::Storage as Storage>::View<'a, T>;
type ViewMut<'a, A, E> = <<A as Attention<E>>::Storage as Storage>::ViewMut<'a, E>;
type Workspace<A, E> = <<A as Attention<E>>::Storage as Storage>::Workspace;

/// What every rule asks before it looks at its own operands.
pub(crate) fn open<E: Element, A: Attention<E> + ?Sized>(
    attention: &A,
    problem: &Problem,
    rule: Rule,
    Primal(given): Primal<&Inputs<'_, A::Storage, E>>,
    workspace: &Workspace<A, E>,
) -> Result<()> {
    inputs(problem, given)?;
    key_lengths(problem, given)?;
    attention.require(problem, rule)?;
    let needed = attention.workspace_bytes(problem, rule);
    let available = A::Storage::workspace_bytes(workspace);
    if available < needed {
        return Err(Error::Workspace { rule, needed, given: available });
    }
    check(attention, "q", Some(given.q), None, Expect::Input)?;
    check(attention, "k", Some(given.k), given.key_lengths, Expect::Input)?;
    check(attention, "v", Some(given.v), given.key_lengths, Expect::Input)?;
    check(attention, "bias", given.bias, None, Expect::InputOrNegInfinity)
}

/// What `Checks::Finite` demands of a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Input,
    InputOrNegInfinity,
    Output,
    OutputOrNegInfinity,
}

fn check<E: Element, A: Attention<E> + ?Sized, T: Element>(
    attention: &A,
    name: &'static str,
    view: Option<View<'_, A, E, T>>,
    row_limits: Option<View<'_, A, E, i32>>,
    expect: Expect,
) -> Result<()> {
    let (Checks::Finite, Some(view)) = (attention.checks(), view) else { return Ok(()) };
    let allow_neg_infinity = matches!(expect, Expect::InputOrNegInfinity | Expect::OutputOrNegInfinity);
    match attention.storage().count_non_finite(view, row_limits, allow_neg_infinity)? {
        0 => Ok(()),
        count => {
            let output = matches!(expect, Expect::Output | Expect::OutputOrNegInfinity);
            Err(Error::NonFinite { name, count, output })
        }
    }
}

pub(crate) fn check_input<E: Element, A: Attention<E> + ?Sized>(
    attention: &A,
    name: &'static str,
    view: Option<View<'_, A, E, E>>,
) -> Result<()> {
    check(attention, name, view, None, Expect::Input)
}

/// What an earlier rule saved is an input of this one.
pub(crate) fn check_saved_input<E: Element, A: Attention<E> + ?Sized>(
    attention: &A,
    names: [&'static str; 3],
    saved: &SavedView<'_, A::Storage, E>,
) -> Result<()> {
    check(attention, names[0], Some(saved.output), None, Expect::Input)?;
    check(attention, names[2], saved.rest, None, Expect::Input)?;
    check(attention, names[1], Some(saved.lse), None, Expect::InputOrNegInfinity)
}

pub(crate) fn check_directions<E: Element, A: Attention<E> + ?Sized>(
    attention: &A,
    inputs: &Inputs<'_, A::Storage, E>,
    directions: &Directions<View<'_, A, E, E>>,
) -> Result<()> {
    check_input(attention, "q_tangent", directions.q)?;
    check(attention, "k_tangent", directions.k, inputs.key_lengths, Expect::Input)?;
    check(attention, "v_tangent", directions.v, inputs.key_lengths, Expect::Input)?;
    check_input(attention, "bias_tangent", directions.bias)
}

pub(crate) fn check_saved<E: Element, A: Attention<E> + ?Sized>(
    attention: &A,
    names: [&'static str; 3],
    saved: &SavedViewMut<'_, A::Storage, E>,
) -> Result<()> {
    check(attention, names[0], Some(A::Storage::reborrow(&saved.output)), None, Expect::Output)?;
    let rest = saved.rest.as_ref().map(|rest| A::Storage::reborrow(rest));
    check(attention, names[2], rest, None, Expect::Output)?;
    check(attention, names[1], Some(A::Storage::reborrow(&saved.lse)), None, Expect::OutputOrNegInfinity)
}

pub(crate) fn check_gradients<E: Element, A: Attention<E> + ?Sized>(
    attention: &A,
    names: [&'static str; 4],
    gradients: &Qkv<ViewMut<'_, A, E>>,
) -> Result<()> {
    let views = [Some(&gradients.q), Some(&gradients.k), Some(&gradients.v), gradients.bias.as_ref()];
    names.into_iter().zip(views).try_for_each(|(name, view)| {
        check(attention, name, view.map(|view| A::Storage::reborrow(view)), None, Expect::Output)
    })
}

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
    names: [&'static str; 3],
    problem: &Problem,
    saved: &Saved<S::View<'_, E>, S::View<'_, E::Acc>>,
) -> Result<()> {
    if let Some(rest) = &saved.rest {
        expect(names[2], shape::<S, E>(rest), problem.shape().output())?;
    }
    expect(names[0], shape::<S, E>(&saved.output), problem.shape().output())?;
    expect(names[1], shape::<S, E::Acc>(&saved.lse), problem.shape().rows())
}

pub(crate) fn saved_out<S: Storage, E: Element>(
    names: [&'static str; 3],
    problem: &Problem,
    saved: &Saved<S::ViewMut<'_, E>, S::ViewMut<'_, E::Acc>>,
) -> Result<()> {
    if let Some(rest) = &saved.rest {
        expect(names[2], S::layout_mut(rest).shape(), problem.shape().output())?;
    }
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
        self.key_lengths.map_or(Ok(m), |lengths| in_range(lengths.at([0, 0, 0, batch]), batch, m))
    }
}

fn in_range(given: i32, batch: usize, m: usize) -> Result<usize> {
    match usize::try_from(given) {
        Ok(length) if length <= m => Ok(length),
        _ => Err(Error::KeyLength { batch, given, m }),
    }
}

/// Every key length is in range. They are read where they lie: lengths on a device, which cannot be
/// read for nothing, are its kernels' to clamp.
pub(crate) fn key_lengths<S: Storage, E: Element>(
    problem: &Problem,
    inputs: &Inputs<'_, S, E>,
) -> Result<()> {
    let (Some(lengths), shape) = (&inputs.key_lengths, problem.shape()) else { return Ok(()) };
    (0..shape.batch)
        .map_while(|b| Some((b, S::peek(lengths, [0, 0, 0, b])?)))
        .try_for_each(|(b, given)| in_range(given, b, shape.m).map(drop))
}
