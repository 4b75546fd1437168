//! What a differentiation of a model has to compute: decided once, before there are numbers.

use super::{Graph, ValueId};
use crate::machine::Machine;

/// Which parameters gradients are wanted of, which parameters move, and what follows from it for every value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A cotangent is wanted: it depends on what gradients are wanted of.
    pub(super) wanted: Vec<bool>,
    /// It has a tangent: it depends on what moves.
    pub(super) moves: Vec<bool>,
    /// Its cotangent has a tangent.
    pub(super) curves: Vec<bool>,
    /// Its cotangent itself is made, when tangents of cotangents are.
    pub(super) first: Vec<bool>,
}

impl Plan {
    /// For gradients of `of`, and for their tangents while `along` moves.
    pub(super) fn new<M: Machine>(graph: &Graph<M>, of: &[ValueId], along: &[ValueId]) -> Self {
        let count = graph.values.len();
        let reached = |from: &[ValueId]| {
            let mut reached = vec![false; count];
            for value in from {
                reached[value.0] = true;
            }
            for node in &graph.nodes {
                reached[node.output.0] |= node.inputs.iter().any(|value| reached[value.0]);
            }
            reached
        };
        let (wanted, moves) = (reached(of), reached(along));
        let pick =
            |all: &[bool], of: &[ValueId]| -> Vec<bool> { of.iter().map(|value| all[value.0]).collect() };

        let mut curves = vec![false; count];
        for node in graph.nodes.iter().rev().filter(|node| wanted[node.output.0]) {
            let moved = pick(&moves, &node.inputs).contains(&true) && !node.operation.is_linear();
            if moved || curves[node.output.0] {
                for value in node.inputs.iter().filter(|value| wanted[value.0]) {
                    curves[value.0] = true;
                }
            }
        }
        let mut first = vec![false; count];
        for node in graph.nodes.iter().filter(|node| wanted[node.output.0]) {
            let (moving, wanting) = (pick(&moves, &node.inputs), pick(&wanted, &node.inputs));
            let below = node.inputs.iter().any(|value| wanted[value.0] && first[value.0]);
            first[node.output.0] = below || node.operation.reads_cotangent(&moving, &wanting);
        }
        Self { wanted, moves, curves, first }
    }
}
