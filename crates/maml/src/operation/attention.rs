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
use crate::machine::{AttendedOf, AttendedView, AttendedViewMut, Machine, TensorOf};
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
type Spare<M> = [Option<<M as Machine>::Tensor>; 3];

/// Tensors as attention computes with them, where it computes in another type than they are in; made when they are wanted
/// first.
type Copies<M, const N: usize> = [Option<AttendedOf<M>>; N];

/// What a call needs beside its operands. It is made when it is wanted first and stays as it is from then on: recorded
/// work names it.
struct Room<M: Machine> {
    lse: TensorOf<M>,
    mu: TensorOf<M>,
    /// What rounding took from the result and from its tangent, where attention keeps it.
    rests: [Option<AttendedOf<M>>; 2],
    /// Enough for every rule.
    workspace: Scratch<M>,
    /// Those of machines that needed less, which recordings of theirs name.
    outgrown: Vec<Scratch<M>>,
    /// Places for tangents of cotangents that nobody wants, or for cotangents where these are all there is.
    spare: Spare<M>,
    /// Places for cotangents beside those.
    spare_first: Spare<M>,
    /// Operands and the result, as the value was made of them.
    x: Copies<M, 4>,
    /// Their tangents, as they were pushed forward.
    x_tangent: Copies<M, 4>,
    /// The cotangent and its tangent.
    g: Copies<M, 2>,
    /// What is made for places of operands, and for those of cotangents beside those.
    made: Copies<M, 3>,
    made_first: Copies<M, 3>,
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

/// What the forward made of a call.
type Made<'a, M> =
    Saved<AttendedView<'a, M>, <<M as Machine>::Storage as Storage>::View<'a, <M as Machine>::Element>>;

/// Operands and the result, as the value was made of them.
fn call<'a, M: Machine>(
    machine: &M,
    x: &[&'a M::Tensor],
    y: &'a M::Tensor,
    copies: &'a mut Copies<M, 4>,
    (lse, rest): (&'a TensorOf<M>, &'a Option<AttendedOf<M>>),
) -> Result<(Inputs<'a, M::Storage, M::Attended>, Made<'a, M>)> {
    let [q, k, v, output] = copies;
    let inputs = Inputs::new(
        machine.attended(x[0], q, true)?,
        machine.attended(x[1], k, true)?,
        machine.attended(x[2], v, true)?,
    );
    let saved = Saved {
        output: machine.attended(y, output, true)?,
        lse: M::Storage::view(lse),
        rest: rest.as_ref().map(M::Storage::view),
    };
    Ok((inputs, saved))
}

/// Directions of the operands that move.
fn directions<'a, M: Machine>(
    machine: &M,
    x_tangent: &[Option<&'a M::Tensor>],
    copies: &'a mut [Option<AttendedOf<M>>],
    already: bool,
) -> Result<Tangent<Directions<AttendedView<'a, M>>>> {
    let mut views = [None, None, None];
    for ((view, x), copy) in views.iter_mut().zip(x_tangent).zip(copies) {
        *view = x.map(|x| machine.attended(x, copy, already)).transpose()?;
    }
    let [q, k, v] = views;
    Ok(Tangent(Directions { q, k, v, bias: None }))
}

/// Places of operands that are wanted, spare ones for the others, and what attention writes for them.
struct Outputs<'a, 'p, M: Machine> {
    into: &'a mut Into<'p, M>,
    spare: &'a mut Spare<M>,
    made: &'a mut Copies<M, 3>,
}

impl<M: Machine> Outputs<'_, '_, M> {
    /// Views of all three.
    fn views(&mut self, problem: &Problem, machine: &M) -> Result<Qkv<AttendedViewMut<'_, M>>> {
        let shape = problem.shape();
        let shapes = [shape.q(), shape.k(), shape.v()];
        let each = self.into.iter_mut().zip(self.spare.iter_mut()).zip(self.made.iter_mut());
        let mut views = Vec::with_capacity(3);
        for (((into, spare), made), shape) in each.zip(shapes) {
            let to = if let Some(place) = into {
                place.add = true;
                &mut *place.to
            } else {
                if spare.is_none() {
                    *spare = Some(machine.allocate(Layout::heads_inside(shape)?, machine.between())?);
                }
                let Some(spare) = spare else { unreachable!("it was made") };
                spare
            };
            views.push(machine.attended_mut(to, made)?);
        }
        let [q, k, v] = <[_; 3]>::try_from(views).unwrap_or_else(|_| unreachable!("three operands"));
        Ok(Qkv { q, k, v, bias: None })
    }

    /// What was written, into the places that are wanted.
    fn take(self, machine: &M) -> Result<()> {
        for (into, made) in self.into.iter_mut().zip(self.made) {
            if let Some(place) = into {
                machine.take_attended(made.as_ref(), place.to)?;
            }
        }
        Ok(())
    }
}

impl<M: Machine> Attention<M> {
    /// The problem, and room enough for a call of a rule.
    fn ready(&mut self, machine: &M, rule: Rule) -> Result<(&Problem, &mut Room<M>)> {
        let storage = machine.storage();
        let of_rule = |rule| machine.attention().workspace_bytes(&self.problem, rule);
        // Where work is recorded, the first call makes room for all.
        let all = Rule::ALL.iter().filter(|other| M::RECORDS || **other == rule);
        let bytes = all.map(|rule| of_rule(*rule)).max().unwrap_or(0);
        let statistic = || storage.allocate(Layout::contiguous(self.problem.shape().rows())?);
        let keeps_rest = machine.attention().keeps_rest(&self.problem);
        let rest = || {
            let layout = Layout::heads_inside(self.problem.shape().output())?;
            if keeps_rest { storage.allocate(layout).map(Some) } else { Ok(None) }
        };
        let room = match self.room.take() {
            Some(room) if M::Storage::workspace_bytes(&room.workspace) >= bytes => room,
            Some(mut room) => {
                let outgrown = std::mem::replace(&mut room.workspace, storage.workspace(bytes)?);
                room.outgrown.extend(M::RECORDS.then_some(outgrown));
                room
            }
            None => Room {
                lse: statistic()?,
                mu: statistic()?,
                rests: [rest()?, rest()?],
                workspace: storage.workspace(bytes)?,
                outgrown: Vec::new(),
                spare: [None, None, None],
                spare_first: [None, None, None],
                x: [None, None, None, None],
                x_tangent: [None, None, None, None],
                g: [None, None],
                made: [None, None, None],
                made_first: [None, None, None],
            },
        };
        Ok((&self.problem, self.room.insert(room)))
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

    fn value(&mut self, machine: &M, x: &[&M::Tensor], y: &mut M::Tensor) -> Result<()> {
        let (problem, room) = self.ready(machine, Rule::Forward)?;
        let [q, k, v, output] = &mut room.x;
        let inputs = Inputs::new(
            machine.attended(x[0], q, false)?,
            machine.attended(x[1], k, false)?,
            machine.attended(x[2], v, false)?,
        );
        let saved = Saved {
            output: machine.attended_mut(y, output)?,
            lse: M::Storage::view_mut(&mut room.lse),
            rest: room.rests[0].as_mut().map(M::Storage::view_mut),
        };
        machine.attention().forward_into(problem, Primal(&inputs), Primal(saved), &mut room.workspace)?;
        machine.take_attended(room.x[3].as_ref(), y)
    }

    fn push(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        x_tangent: &[Option<&M::Tensor>],
        y: &M::Tensor,
        y_tangent: &mut M::Tensor,
    ) -> Result<()> {
        let (problem, room) = self.ready(machine, Rule::Jvp)?;
        let [rest, rest_tangent] = &mut room.rests;
        let (inputs, saved) = call(machine, x, y, &mut room.x, (&room.lse, rest))?;
        let (of_operands, of_result) = room.x_tangent.split_at_mut(3);
        let along = directions(machine, x_tangent, of_operands, false)?;
        let made = Saved {
            output: machine.attended_mut(y_tangent, &mut of_result[0])?,
            lse: M::Storage::view_mut(&mut room.mu),
            rest: rest_tangent.as_mut().map(M::Storage::view_mut),
        };
        machine.attention().jvp_into(
            problem,
            Primal(&inputs),
            Primal(saved),
            along,
            Tangent(made),
            &mut room.workspace,
        )?;
        machine.take_attended(room.x_tangent[3].as_ref(), y_tangent)
    }

    fn pull(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        y: &M::Tensor,
        g: &M::Tensor,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        let (problem, room) = self.ready(machine, Rule::Backward)?;
        let (inputs, saved) = call(machine, x, y, &mut room.x, (&room.lse, &room.rests[0]))?;
        let mut outputs = Outputs { into, spare: &mut room.spare, made: &mut room.made };
        machine.attention().backward_into(
            problem,
            Primal(&inputs),
            Primal(saved),
            Cotangent(machine.attended(g, &mut room.g[0], false)?),
            Cotangent(outputs.views(problem, machine)?),
            &mut room.workspace,
        )?;
        outputs.take(machine)
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
        let [rest, rest_tangent] = &room.rests;
        let (inputs, saved) = call(machine, at.x, at.y, &mut room.x, (&room.lse, rest))?;
        let (of_operands, of_result) = room.x_tangent.split_at_mut(3);
        let along = directions(machine, at.x_tangent, of_operands, true)?;
        let pushed = Saved {
            output: machine.attended(y_tangent, &mut of_result[0], true)?,
            lse: M::Storage::view(&room.mu),
            rest: rest_tangent.as_ref().map(M::Storage::view),
        };
        let [of_g, of_g_tangent] = &mut room.g;
        let g_tangent = at.g_tangent.map(|g| machine.attended(g, of_g_tangent, false)).transpose()?;
        let mut outputs = Outputs { into, spare: &mut room.spare, made: &mut room.made };
        let mut firsts = Outputs { into: first, spare: &mut room.spare_first, made: &mut room.made_first };
        let made = SecondOrder {
            tangent: Tangent(Cotangent(outputs.views(problem, machine)?)),
            first: if wants_first { Some(Cotangent(firsts.views(problem, machine)?)) } else { None },
        };
        machine.attention().second_order_into(
            problem,
            Primal(&inputs),
            Primal(saved),
            along,
            Tangent(pushed),
            Cotangent(machine.attended(g, of_g, false)?),
            g_tangent.map(|g| Tangent(Cotangent(g))),
            made,
            &mut room.workspace,
        )?;
        outputs.take(machine)?;
        if wants_first { firsts.take(machine) } else { Ok(()) }
    }
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
        let dtype = <M::Attended as Element>::DTYPE;
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
