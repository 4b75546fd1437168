//! What lies between operations, number by number: where it is narrow, it is rounded to the nearest number of bf16, and to
//! the even one of two. Bounds of 16 bits would not see numbers that are cut off.
//!
//! ```text
//! y = z = a        loss = ½ Σ (z - t)²        y narrow, a, z and t wide
//! ȳ = z - t        ȳ′ = z′ - t′
//! ```
//!
//! The functions y and z of rows are those of a mean over one row, which change nothing.

use half::bf16;
use theria_contract::Element;
use theria_maml::{Graph, Machine, Model, Result, ValueId};

use crate::phase10::machines::{Named, download, normal, same_bits};
use theria_tests::evidence::Row;

/// Rows and columns: one number, parts of a warp and of a vector, long rows, and many.
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (1, 7), (3, 8), (37, 33), (5, 129), (2, 1031), (3000, 1), (300, 16), (16, 512)];

/// The nearest number of bf16.
fn nearest(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Numbers of f32, among them halves between two of bf16, an even one below and above, and numbers just beside them.
fn numbers(tag: u32, count: usize) -> Vec<f32> {
    let edge =
        [0x3F80_8000_u32, 0x3F81_8000, 0xBF80_8001, 0x3F81_7FFF, 0x3EFF_FFFF, 0xC07F_8000, 0x0000_0000];
    let drawn = normal(tag, count, 1.0, 0.0);
    let one = |(n, x): (usize, &f64)| match n % 3 {
        1 => f32::from_bits(edge[n / 3 % edge.len()]),
        _ => *x as f32,
    };
    drawn.iter().enumerate().map(one).collect()
}

/// What was found of a shape: z, the gradients of a and t, and the tangents of these.
struct Found {
    z: Vec<f64>,
    gradient: [Vec<f64>; 2],
    tangent: [Vec<f64>; 2],
}

/// The numbers of a, t, a′ and t′.
fn given((rows, columns): (usize, usize)) -> [Vec<f32>; 4] {
    [1, 2, 3, 4].map(|tag| numbers(tag, rows * columns))
}

fn find<M: Machine + 'static>(machine: &M, (rows, columns): (usize, usize)) -> Result<Found> {
    let mut graph = Graph::new();
    let (a, t) = (graph.parameter("a", rows, columns), graph.parameter("t", rows, columns));
    let y = graph.mean(a, 1)?;
    let z = graph.mean(y, 1)?;
    graph.keep(z);
    let loss = graph.squared_error(z, t, 0.5)?;
    let mut model = Model::new(machine, graph, loss)?;
    let plan = model.plan(&[a, t], &[a, t]);
    let of = |numbers: &[f32]| -> Vec<M::Element> {
        numbers.iter().map(|x| M::Element::from_f64(f64::from(*x))).collect()
    };
    let [at_a, at_t, a_tangent, t_tangent] = given((rows, columns));
    for (value, numbers, direction) in [(a, at_a, a_tangent), (t, at_t, t_tangent)] {
        model.write(machine, value, &of(&numbers))?;
        model.write_direction(machine, &plan, value, &of(&direction))?;
    }
    model.loss_and_gradient(machine, &plan)?;
    let read = |model: &Model<M>, value: ValueId, which: u8| -> Result<Vec<f64>> {
        let tensor = match which {
            0 => model.tensor(value),
            1 => model.gradient_of(value),
            _ => model.gradient_tangent_of(value),
        };
        tensor.map_or(Ok(Vec::new()), |tensor| download(machine, tensor))
    };
    let z = read(&model, z, 0)?;
    let gradient = [read(&model, a, 1)?, read(&model, t, 1)?];
    model.gradient_tangent(machine, &plan)?;
    Ok(Found { z, gradient, tangent: [read(&model, a, 2)?, read(&model, t, 2)?] })
}

fn wide(numbers: impl Iterator<Item = f32>) -> Vec<f64> {
    numbers.map(f64::from).collect()
}

/// Whether two lists are the same numbers: a zero may have another sign.
fn same(given: &[f64], expected: &[f64]) -> bool {
    let without_sign = |all: &[f64]| -> Vec<f64> { all.iter().map(|x| x + 0.0).collect() };
    same_bits(&without_sign(given), &without_sign(expected))
}

fn judge(named: &Named, shape: (usize, usize), found: &Found, narrow: bool) -> Vec<Row> {
    let [a, t, a_tangent, t_tangent] = given(shape);
    let between = |x: f32| if narrow { nearest(x) } else { x };
    // The kept value is a cotangent's, too: it is wide, and what comes to y of it is rounded there.
    let difference =
        |a: &[f32], t: &[f32]| -> Vec<f32> { a.iter().zip(t).map(|(a, t)| between(*a) - t).collect() };
    let (g, g_tangent) = (difference(&a, &t), difference(&a_tangent, &t_tangent));
    let rounded = |g: &[f32]| wide(g.iter().map(|x| between(*x)));
    let negative = |g: &[f32]| wide(g.iter().map(|x| -x));
    let expected = [
        ("values", &found.z, wide(a.iter().map(|x| between(*x)))),
        ("cotangents", &found.gradient[0], rounded(&g)),
        ("tangents of cotangents", &found.tangent[0], rounded(&g_tangent)),
        ("the gradient of what is wide", &found.gradient[1], negative(&g)),
        ("its tangent", &found.tangent[1], negative(&g_tangent)),
    ];
    let each = expected.into_iter();
    each.map(|(what, given, expected)| {
        let say = format!("between operations, {shape:?}: {what}");
        named.statement(say, same(given, &expected), format!("{} numbers", given.len()))
    })
    .collect()
}

/// A machine whose tensors between operations are narrow, or not, and exactly so.
pub fn between_operations<M: Machine + 'static>(named: &Named, machine: Result<M>, narrow: bool) -> Vec<Row> {
    let found = machine.and_then(|machine| {
        let mut rows = Vec::new();
        for shape in SHAPES {
            rows.extend(judge(named, shape, &find(&machine, shape)?, narrow));
        }
        Ok(rows)
    });
    named.rows("between operations", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use theria_jvp_hvp::Dense;
    use theria_maml::Host;
    use theria_tests::evidence::failures;

    use crate::phase10::in_16_bits::InBf16;

    #[test]
    fn what_is_narrow_is_rounded_to_the_nearest() {
        let named = Named { backend: "dense", ..Named::BF16 };
        let failed = failures(&between_operations(&named, Ok(InBf16::new()), true));
        assert!(failed.is_empty(), "\n{}", failed.join("\n"));
        // A machine that rounds nothing is told from it, by every shape of more than a number.
        let rows = between_operations(&named, Ok(InBf16::new()), false);
        assert!(failures(&rows).len() > 2 * (SHAPES.len() - 1));
    }

    #[test]
    fn what_is_wide_is_as_it_was() {
        let named = Named { backend: "dense", ..Named::F32 };
        let host: Host<Dense, f32> = Host::new(Dense::new());
        let failed = failures(&between_operations(&named, Ok(host), false));
        assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    }

    #[test]
    fn there_are_numbers_to_round_in_both_ways() {
        let all = numbers(1, 40);
        assert!(all.iter().any(|x| nearest(*x) > *x) && all.iter().any(|x| nearest(*x) < *x));
        let cut = |x: f32| f32::from_bits(x.to_bits() & 0xFFFF_0000);
        assert!(all.iter().any(|x| cut(*x) != nearest(*x)));
    }
}
