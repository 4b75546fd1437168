//! A rule ready to be called: sets of operands in the memory of a backend, outputs, scratch.

use theria_contract::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Problem, Qkv, Result, Rule, SavedTensor,
    SecondOrder, Storage, Tangent, Tensor, saved_mut, saved_view,
};

use super::{draw, poison};

/// Beyond the second-level cache of any device: operands that are rotated through as many bytes come
/// from memory.
const BEYOND_CACHE: usize = 128 << 20;
const MOST_SETS: usize = 16;

type TensorOf<A, E, T> = <<A as Attention<E>>::Storage as Storage>::Tensor<T>;
type SavedOf<A, E> = SavedTensor<<A as Attention<E>>::Storage, E>;

/// Operands of one call.
struct Set<E: Element, A: Attention<E>> {
    primal: Qkv<TensorOf<A, E, E>>,
    direction: Option<Qkv<TensorOf<A, E, E>>>,
    cotangent: Option<TensorOf<A, E, E>>,
    saved: Option<SavedOf<A, E>>,
    saved_tangent: Option<SavedOf<A, E>>,
}

/// What calls write, one after the other.
pub(super) enum Outputs<E: Element, A: Attention<E>> {
    Saved(SavedOf<A, E>),
    Gradients(Qkv<TensorOf<A, E, E>>),
}

/// The first set, on the host: what the check of a result starts from.
pub(super) struct Drawn<E> {
    pub(super) primal: Qkv<Tensor<E>>,
    pub(super) direction: Option<Qkv<Tensor<E>>>,
    pub(super) cotangent: Option<Tensor<E>>,
}

impl<E: Element> Drawn<E> {
    fn new(problem: &Problem, rule: Rule, seed: u64, set: usize) -> Result<Self> {
        let shape = problem.shape();
        let first = 8 * set as u32;
        let draw = |number: u32, shape| draw::normal::<E>(seed, first + number, shape);
        let three = |number: u32| -> Result<Qkv<Tensor<E>>> {
            Ok(Qkv {
                q: draw(number, shape.q())?,
                k: draw(number + 1, shape.k())?,
                v: draw(number + 2, shape.v())?,
                bias: None,
            })
        };
        let higher = matches!(rule, Rule::Jvp | Rule::SecondOrder);
        let backwards = matches!(rule, Rule::Backward | Rule::SecondOrder);
        Ok(Self {
            primal: three(0)?,
            direction: higher.then(|| three(3)).transpose()?,
            cotangent: backwards.then(|| draw(6, shape.output())).transpose()?,
        })
    }
}

/// Bytes of the operands of one call, those that an earlier rule makes left out.
fn operand_bytes(problem: &Problem, rule: Rule) -> usize {
    let shape = problem.shape();
    let count = |shape: [usize; 4]| shape.iter().product::<usize>();
    let three = count(shape.q()) + count(shape.k()) + count(shape.v());
    let elements = match rule {
        Rule::Forward => three,
        Rule::Backward => three + count(shape.output()),
        Rule::Jvp => 2 * three,
        Rule::SecondOrder => 2 * three + count(shape.output()),
    };
    elements * problem.dtype().size()
}

/// Sets through which calls rotate.
pub(super) fn sets(problem: &Problem, rule: Rule) -> usize {
    BEYOND_CACHE.div_ceil(operand_bytes(problem, rule).max(1)).clamp(1, MOST_SETS)
}

pub(super) struct Stage<'a, E: Element, A: Attention<E>> {
    backend: &'a A,
    problem: &'a Problem,
    rule: Rule,
    sets: Vec<Set<E, A>>,
    outputs: Outputs<E, A>,
    workspace: <A::Storage as Storage>::Workspace,
}

impl<'a, E: Element, A: Attention<E>> Stage<'a, E, A> {
    /// Draws and uploads operands, runs what the rule builds on, and poisons the outputs. The first set
    /// comes back too.
    pub(super) fn new(
        backend: &'a A,
        problem: &'a Problem,
        rule: Rule,
        seed: u64,
    ) -> Result<(Self, Drawn<E>)> {
        let first = Drawn::new(problem, rule, seed, 0)?;
        let mut sets = vec![set(backend, problem, rule, &first)?];
        for number in 1..self::sets(problem, rule) {
            sets.push(set(backend, problem, rule, &Drawn::new(problem, rule, seed, number)?)?);
        }
        let outputs = match rule {
            // What anybody's forward makes.
            Rule::Forward => Outputs::Saved(poison::saved(backend, problem, false)?),
            Rule::Jvp => Outputs::Saved(poison::saved(backend, problem, backend.keeps_rest(problem))?),
            Rule::Backward | Rule::SecondOrder => {
                Outputs::Gradients(poison::gradients(backend, problem.shape())?)
            }
        };
        let workspace = scratch(backend, problem, rule)?;
        Ok((Self { backend, problem, rule, sets, outputs, workspace }, first))
    }

    /// How many sets there are.
    pub(super) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Whether this is a forward that can keep what rounding takes from O, for the rules that start from it.
    pub(super) fn can_keep_rest(&self) -> bool {
        self.rule == Rule::Forward && self.backend.keeps_rest(self.problem)
    }

    /// From now on it does.
    pub(super) fn keep_rest(&mut self) -> Result<()> {
        self.outputs = Outputs::Saved(poison::saved(self.backend, self.problem, true)?);
        Ok(())
    }

    /// What the last call wrote.
    pub(super) fn outputs(&self) -> &Outputs<E, A> {
        &self.outputs
    }

    /// One call, on the set whose turn it is.
    pub(super) fn call(&mut self, number: usize) -> Result<()> {
        let Self { backend, problem, rule, sets, outputs, workspace } = self;
        let set = &sets[number % sets.len()];
        let inputs = set.inputs();
        let inputs = Primal(&inputs);
        match (rule, outputs) {
            (Rule::Forward, Outputs::Saved(out)) => {
                backend.forward_into(problem, inputs, Primal(saved_mut::<A::Storage, E>(out)), workspace)
            }
            (Rule::Jvp, Outputs::Saved(out)) => backend.jvp_into(
                problem,
                inputs,
                Primal(saved_view::<A::Storage, E>(made(set.saved.as_ref()))),
                set.directions(),
                Tangent(saved_mut::<A::Storage, E>(out)),
                workspace,
            ),
            (Rule::Backward, Outputs::Gradients(out)) => backend.backward_into(
                problem,
                inputs,
                Primal(saved_view::<A::Storage, E>(made(set.saved.as_ref()))),
                Cotangent(A::Storage::view(made(set.cotangent.as_ref()))),
                Cotangent(out.as_mut().map(A::Storage::view_mut)),
                workspace,
            ),
            (Rule::SecondOrder, Outputs::Gradients(out)) => backend.second_order_into(
                problem,
                inputs,
                Primal(saved_view::<A::Storage, E>(made(set.saved.as_ref()))),
                set.directions(),
                Tangent(saved_view::<A::Storage, E>(made(set.saved_tangent.as_ref()))),
                Cotangent(A::Storage::view(made(set.cotangent.as_ref()))),
                None,
                SecondOrder {
                    tangent: Tangent(Cotangent(out.as_mut().map(A::Storage::view_mut))),
                    first: None,
                },
                workspace,
            ),
            _ => unreachable!("`new` chose the outputs by the rule"),
        }
    }
}

/// An operand that a set of this rule has.
fn made<T>(operand: Option<&T>) -> &T {
    operand.expect("`set` made what its rule needs")
}

fn scratch<E: Element, A: Attention<E>>(
    backend: &A,
    problem: &Problem,
    rule: Rule,
) -> Result<<A::Storage as Storage>::Workspace> {
    let storage = backend.storage();
    let mut workspace = storage.workspace(backend.workspace_bytes(problem, rule))?;
    storage.fill_workspace(&mut workspace, 0xFF)?;
    Ok(workspace)
}

fn set<E: Element, A: Attention<E>>(
    backend: &A,
    problem: &Problem,
    rule: Rule,
    drawn: &Drawn<E>,
) -> Result<Set<E, A>> {
    let storage = backend.storage();
    let three = |operands: &Qkv<Tensor<E>>| -> Result<_> {
        Ok(Qkv {
            q: storage.upload(&operands.q)?,
            k: storage.upload(&operands.k)?,
            v: storage.upload(&operands.v)?,
            bias: None,
        })
    };
    let mut set = Set {
        primal: three(&drawn.primal)?,
        direction: drawn.direction.as_ref().map(three).transpose()?,
        cotangent: drawn.cotangent.as_ref().map(|cotangent| storage.upload(cotangent)).transpose()?,
        saved: None,
        saved_tangent: None,
    };
    if rule != Rule::Forward {
        set.saved = Some(backend.forward(problem, Primal(&set.inputs()))?.into_inner());
    }
    if rule == Rule::SecondOrder {
        let saved = Primal(made(set.saved.as_ref()));
        let tangent = backend.jvp(problem, Primal(&set.inputs()), saved, set.directions())?;
        set.saved_tangent = Some(tangent.into_inner());
    }
    Ok(set)
}

impl<E: Element, A: Attention<E>> Set<E, A> {
    fn inputs(&self) -> Inputs<'_, A::Storage, E> {
        let Qkv { q, k, v, .. } = &self.primal;
        Inputs::new(A::Storage::view(q), A::Storage::view(k), A::Storage::view(v))
    }

    fn directions(&self) -> Tangent<Directions<<A::Storage as Storage>::View<'_, E>>> {
        let Qkv { q, k, v, .. } = made(self.direction.as_ref());
        Tangent(Directions {
            q: Some(A::Storage::view(q)),
            k: Some(A::Storage::view(k)),
            v: Some(A::Storage::view(v)),
            bias: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::*;
    use theria_contract::DType;

    #[test]
    fn operands_rotate_through_more_than_a_cache_or_sixteen_sets() {
        let sets = |shape, rule| sets(&Shape::plain(shape).problem(DType::Bf16).unwrap(), rule);
        assert_eq!(sets([2, 8, 512, 64], Rule::Forward), 16);
        assert_eq!(sets([64, 12, 197, 64], Rule::Forward), 3);
        assert_eq!(sets([4, 16, 4096, 128], Rule::SecondOrder), 1);
    }
}
