//! Attention, through the operator's trait: whatever serves its rules serves models.
//!
//! | rule of the operation | rule of the operator |
//! |---|---|
//! | value | forward |
//! | push-forward | JVP |
//! | pull-back | backward |
//! | tangent of the pull-back | second order, with the pull-back in the same sweep where it is wanted |

use std::fmt;

use theria_contract::{
    Attention as _, Causal, Cotangent, Directions, Element, Inputs, Layout, Primal, Problem, Qkv, Rule,
    Saved, SecondOrder, Storage, Tangent,
};

use super::{Into, Operation, Second};
use crate::graph::{Graph, ValueId};
use crate::machine::{Machine, TensorOf};
use crate::{Error, Result};

/// How the columns of queries, keys and values are heads, and their rows sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of the queries.
    pub queries: usize,
    /// Heads of keys and values, which groups of query heads share.
    pub keys: usize,
    /// Sequences, one after the other.
    pub batch: usize,
    /// Whether a query sees the keys up to its own place.
    pub causal: bool,
}

impl Default for Heads {
    fn default() -> Self {
        Self { queries: 1, keys: 1, batch: 1, causal: false }
    }
}

type Scratch<M> = <<M as Machine>::Storage as Storage>::Workspace;

/// A place for each operand, made when it is wanted first.
type Spare<M> = [Option<TensorOf<M>>; 3];

/// What a call needs beside its operands; made when it is called first.
struct Room<M: Machine> {
    lse: TensorOf<M>,
    mu: TensorOf<M>,
    workspace: Scratch<M>,
    /// Places for tangents of cotangents that nobody wants, or for cotangents where these are all there is.
    spare: Spare<M>,
    /// Places for cotangents beside those.
    spare_first: Spare<M>,
}

struct Attention<M: Machine> {
    problem: Problem,
    room: Option<Room<M>>,
}

impl<M: Machine> fmt::Debug for Attention<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attention").field("problem", &self.problem).finish_non_exhaustive()
    }
}

/// The operands of a call.
fn inputs<'a, M: Machine>(x: &[&'a TensorOf<M>]) -> Inputs<'a, M::Storage, M::Element> {
    let view = |n: usize| M::Storage::view(x[n]);
    Inputs::new(view(0), view(1), view(2))
}

impl<M: Machine> Attention<M> {
    /// The problem, and room enough for a call of a rule.
    fn ready(&mut self, machine: &M, rule: Rule) -> Result<(&Problem, &mut Room<M>)> {
        let storage = machine.storage();
        let bytes = machine.attention().workspace_bytes(&self.problem, rule);
        let statistic = || storage.allocate(Layout::contiguous(self.problem.shape().rows())?);
        let room = match self.room.take() {
            Some(room) if M::Storage::workspace_bytes(&room.workspace) >= bytes => room,
            Some(room) => Room { workspace: storage.workspace(bytes)?, ..room },
            None => Room {
                lse: statistic()?,
                mu: statistic()?,
                workspace: storage.workspace(bytes)?,
                spare: [None, None, None],
                spare_first: [None, None, None],
            },
        };
        Ok((&self.problem, self.room.insert(room)))
    }

    /// Views of the places that are wanted, and of spare ones for the others.
    fn places<'a>(
        problem: &Problem,
        machine: &M,
        into: &'a mut Into<'_, M>,
        spare: &'a mut Spare<M>,
    ) -> Result<Qkv<<M::Storage as Storage>::ViewMut<'a, M::Element>>> {
        let shape = problem.shape();
        let shapes = [shape.q(), shape.k(), shape.v()];
        let mut views = Vec::with_capacity(3);
        for ((into, spare), shape) in into.iter_mut().zip(spare.iter_mut()).zip(shapes) {
            let to = if let Some(place) = into {
                place.add = true;
                &mut *place.to
            } else {
                if spare.is_none() {
                    *spare = Some(machine.storage().allocate(Layout::heads_inside(shape)?)?);
                }
                let Some(spare) = spare else { unreachable!("it was made") };
                spare
            };
            views.push(M::Storage::view_mut(to));
        }
        let [q, k, v] = <[_; 3]>::try_from(views).unwrap_or_else(|_| unreachable!("three operands"));
        Ok(Qkv { q, k, v, bias: None })
    }
}

impl<M: Machine> Operation<M> for Attention<M> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn writes(&self) -> bool {
        true
    }

    fn reads_value(&self) -> bool {
        true
    }

    fn value(&mut self, machine: &M, x: &[&TensorOf<M>], y: &mut TensorOf<M>) -> Result<()> {
        let (problem, room) = self.ready(machine, Rule::Forward)?;
        let saved = Saved { output: M::Storage::view_mut(y), lse: M::Storage::view_mut(&mut room.lse) };
        let inputs = inputs::<M>(x);
        Ok(machine.attention().forward_into(problem, Primal(&inputs), Primal(saved), &mut room.workspace)?)
    }

    fn push(
        &mut self,
        machine: &M,
        x: &[&TensorOf<M>],
        x_tangent: &[Option<&TensorOf<M>>],
        y: &TensorOf<M>,
        y_tangent: &mut TensorOf<M>,
    ) -> Result<()> {
        let (problem, room) = self.ready(machine, Rule::Jvp)?;
        let saved = Saved { output: M::Storage::view(y), lse: M::Storage::view(&room.lse) };
        let made = Saved { output: M::Storage::view_mut(y_tangent), lse: M::Storage::view_mut(&mut room.mu) };
        let inputs = inputs::<M>(x);
        let along = directions::<M>(x_tangent);
        let attention = machine.attention();
        Ok(attention.jvp_into(
            problem,
            Primal(&inputs),
            Primal(saved),
            along,
            Tangent(made),
            &mut room.workspace,
        )?)
    }

    fn pull(
        &mut self,
        machine: &M,
        x: &[&TensorOf<M>],
        y: &TensorOf<M>,
        g: &TensorOf<M>,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        let (problem, room) = self.ready(machine, Rule::Backward)?;
        let saved = Saved { output: M::Storage::view(y), lse: M::Storage::view(&room.lse) };
        let places = Self::places(problem, machine, into, &mut room.spare)?;
        let inputs = inputs::<M>(x);
        let (g, places) = (Cotangent(M::Storage::view(g)), Cotangent(places));
        let attention = machine.attention();
        Ok(attention.backward_into(
            problem,
            Primal(&inputs),
            Primal(saved),
            g,
            places,
            &mut room.workspace,
        )?)
    }

    fn pull_tangent(
        &mut self,
        machine: &M,
        at: &Second<'_, M>,
        into: &mut Into<'_, M>,
        first: &mut Into<'_, M>,
    ) -> Result<()> {
        let wants_first = first.iter().any(Option::is_some);
        let (Some(g), Some(y_tangent)) = (at.g, at.y_tangent) else {
            // Nothing moves but the cotangent, in which the pull-back is linear.
            if let (Some(g), true) = (at.g, wants_first) {
                self.pull(machine, at.x, at.y, g, first)?;
            }
            return at.g_tangent.map_or(Ok(()), |g_tangent| self.pull(machine, at.x, at.y, g_tangent, into));
        };
        let (problem, room) = self.ready(machine, Rule::SecondOrder)?;
        let inputs = inputs::<M>(at.x);
        let outputs = SecondOrder {
            tangent: Tangent(Cotangent(Self::places(problem, machine, into, &mut room.spare)?)),
            first: if wants_first {
                Some(Cotangent(Self::places(problem, machine, first, &mut room.spare_first)?))
            } else {
                None
            },
        };
        machine.attention().second_order_into(
            problem,
            Primal(&inputs),
            Primal(Saved { output: M::Storage::view(at.y), lse: M::Storage::view(&room.lse) }),
            directions::<M>(at.x_tangent),
            Tangent(Saved { output: M::Storage::view(y_tangent), lse: M::Storage::view(&room.mu) }),
            Cotangent(M::Storage::view(g)),
            at.g_tangent.map(|g| Tangent(Cotangent(M::Storage::view(g)))),
            outputs,
            &mut room.workspace,
        )?;
        Ok(())
    }
}

fn directions<'a, M: Machine>(
    x_tangent: &[Option<&'a TensorOf<M>>],
) -> Tangent<Directions<<M::Storage as Storage>::View<'a, M::Element>>> {
    let view = |n: usize| x_tangent[n].map(M::Storage::view);
    Tangent(Directions { q: view(0), k: view(1), v: view(2), bias: None })
}

impl<M: Machine> Graph<M>
where
    M: 'static,
{
    /// Softmax attention. Rows of queries, keys and values are the places of their sequences, `heads.batch` of them one
    /// after the other; columns are heads side by side.
    pub fn attention(&mut self, q: ValueId, k: ValueId, v: ValueId, heads: Heads) -> Result<ValueId> {
        let (shape_q, shape_k, shape_v) = (self.shape(q), self.shape(k), self.shape(v));
        let shapes = |right, needed| Error::Shapes { operation: "attention", left: shape_q, right, needed };
        let Heads { queries, keys, batch, causal } = heads;
        let divides = |(rows, columns): (usize, usize), heads: usize| {
            batch > 0 && heads > 0 && rows.is_multiple_of(batch) && columns.is_multiple_of(heads)
        };
        if !divides(shape_q, queries) || !divides(shape_k, keys) || !divides(shape_v, keys) {
            let needed = "rows that are a multiple of the batch, and columns of the heads";
            return Err(shapes(shape_k, needed));
        }
        if shape_k.0 != shape_v.0 || shape_q.1 / queries != shape_k.1 / keys {
            return Err(shapes(shape_k, "keys as wide as queries, and a value for each"));
        }
        let (t, m) = (shape_q.0 / batch, shape_k.0 / batch);
        let (d, dv) = (shape_k.1 / keys, shape_v.1 / keys);
        let dtype = <M::Element as Element>::DTYPE;
        let mut builder =
            Problem::builder(dtype).batch(batch).heads(queries, keys).lengths(t, m).head_dims(d, dv);
        if causal {
            builder = builder.causal(Causal::BottomRight);
        }
        let problem = builder.build()?;
        let shape = problem.shape();
        let layouts = [shape.q(), shape.k(), shape.v(), shape.output()].map(Layout::heads_inside);
        let made = (shape_q.0, queries * dv);
        let made = self.add(Box::new(Attention { problem, room: None }), vec![q, k, v], made);
        let [q, k, v, output] = layouts;
        self.lay_out(made, [q?, k?, v?], output?);
        Ok(made)
    }
}
