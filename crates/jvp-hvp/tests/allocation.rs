//! After the first call on its threads, an `_into` call of `Streaming` allocates nothing: a hot loop
//! stays one. Counted over all threads, so this file holds a single test.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use theria_contract::{
    Attention, Causal, Cotangent, DType, Directions, Host, Inputs, Primal, Problem, ProblemBuilder, Qkv,
    Result, Rule, SavedTensor, SecondOrder, Tangent, Tensor, TensorView, Workspace, saved_mut, saved_view,
};
use theria_jvp_hvp::Streaming;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Operands, outputs and scratch of all four rules.
struct Loop {
    problem: Problem,
    primal: Qkv<Tensor<f32>>,
    tangents: Qkv<Tensor<f32>>,
    mask: Option<Tensor<u8>>,
    key_lengths: Option<Tensor<i32>>,
    g: Tensor<f32>,
    saved: SavedTensor<Host, f32>,
    saved_tangent: SavedTensor<Host, f32>,
    gradients: Qkv<Tensor<f32>>,
    gradient_tangents: Qkv<Tensor<f32>>,
    workspaces: [Workspace; 4],
}

fn wave(shape: [usize; 4], frequency: f64) -> Result<Tensor<f32>> {
    let mut n = 0.0;
    Tensor::from_fn(shape, |_| {
        n += frequency;
        f64::sin(n) as f32
    })
}

impl Loop {
    fn new(problem: Problem) -> Result<Self> {
        let shape = problem.shape();
        let backend = Streaming::new();
        let qkv = |frequency| -> Result<Qkv<Tensor<f32>>> {
            Ok(Qkv {
                q: wave(shape.q(), frequency)?,
                k: wave(shape.k(), frequency + 0.1)?,
                v: wave(shape.v(), frequency + 0.2)?,
                bias: problem.bias().map(|shape| wave(shape, frequency + 0.3)).transpose()?,
            })
        };
        let lengths = |[_, _, _, b]: [usize; 4]| (shape.m - b) as i32;
        let scratch = |rule| Workspace::new(Attention::<f32>::workspace_bytes(&backend, &problem, rule));
        Ok(Self {
            primal: qkv(1.0)?,
            tangents: qkv(2.0)?,
            mask: problem
                .mask()
                .map(|shape| Tensor::from_fn(shape, |at| u8::from(at[3] != 1)))
                .transpose()?,
            key_lengths: problem
                .key_lengths()
                .then(|| Tensor::from_fn(shape.key_lengths(), lengths))
                .transpose()?,
            g: wave(shape.output(), 3.0)?,
            saved: backend.allocate_saved(&problem)?,
            saved_tangent: backend.allocate_saved(&problem)?,
            gradients: backend.allocate_gradients(&problem)?,
            gradient_tangents: backend.allocate_gradients(&problem)?,
            workspaces: Rule::ALL.map(scratch),
            problem,
        })
    }

    /// All four rules.
    fn run(&mut self) -> Result<()> {
        let (backend, problem) = (Streaming::new(), &self.problem);
        let inputs = Inputs {
            q: self.primal.q.view(),
            k: self.primal.k.view(),
            v: self.primal.v.view(),
            bias: self.primal.bias.as_ref().map(Tensor::view),
            mask: self.mask.as_ref().map(Tensor::view),
            key_lengths: self.key_lengths.as_ref().map(Tensor::view),
        };
        let inputs = Primal(&inputs);
        let directions: Directions<TensorView<'_, f32>> = self.tangents.as_ref().map(Tensor::view).into();
        let (directions, g) = (Tangent(directions), Cotangent(self.g.view()));
        let [forward, backward, jvp, second_order] = &mut self.workspaces;
        backend.forward_into(problem, inputs, Primal(saved_mut::<Host, f32>(&mut self.saved)), forward)?;
        let saved = Primal(saved_view::<Host, f32>(&self.saved));
        let gradients = Cotangent(self.gradients.as_mut().map(Tensor::view_mut));
        backend.backward_into(problem, inputs, saved, g, gradients, backward)?;
        let saved_tangent = Tangent(saved_mut::<Host, f32>(&mut self.saved_tangent));
        backend.jvp_into(problem, inputs, saved, directions, saved_tangent, jvp)?;
        let saved_tangent = Tangent(saved_view::<Host, f32>(&self.saved_tangent));
        let outputs = SecondOrder {
            tangent: Tangent(Cotangent(self.gradient_tangents.as_mut().map(Tensor::view_mut))),
            first: Some(Cotangent(self.gradients.as_mut().map(Tensor::view_mut))),
        };
        let g_tangent = Some(Tangent(g));
        backend.second_order_into(
            problem,
            inputs,
            saved,
            directions,
            saved_tangent,
            g,
            g_tangent,
            outputs,
            second_order,
        )
    }
}

fn sized([batch, heads_q, heads_kv, t, m]: [usize; 5]) -> ProblemBuilder {
    Problem::builder(DType::F32).batch(batch).heads(heads_q, heads_kv).lengths(t, m).head_dims(24, 16)
}

/// Plain over many tiles, every feature at once, and sizes of one, whose products take another path.
fn problems() -> Result<[Problem; 3]> {
    let everything = sized([2, 4, 2, 150, 300])
        .causal(Causal::BottomRight)
        .bias([1, 4, 150, 300])
        .mask([2, 1, 1, 300])
        .key_lengths()
        .dropout(0.2, 7);
    let ones = Problem::builder(DType::F32).heads(2, 1).lengths(1, 40).head_dims(1, 1);
    Ok([sized([1, 2, 2, 500, 700]).build()?, everything.build()?, ones.build()?])
}

#[test]
fn no_rule_allocates_after_its_first_call() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("three threads");
    for problem in problems().expect("valid problems") {
        // Inside of the pool: a thread from outside enters through a queue that grows now and then.
        let (first, later, control) = pool.install(|| {
            let mut hot = Loop::new(problem.clone()).expect("memory");
            let count = |work: &mut dyn FnMut()| {
                let region = Region::new(ALLOCATOR);
                work();
                let change = region.change();
                change.allocations + change.reallocations
            };
            let first = count(&mut || hot.run().expect("every rule is supported"));
            // Which thread takes which task is chance, and each of them must have had its first product:
            // so each starts a loop of its own, whose first tasks are its own.
            for _ in 0..3 {
                rayon::broadcast(|_| {
                    Loop::new(problem.clone())
                        .and_then(|mut own| own.run())
                        .expect("every rule is supported");
                });
            }
            for _ in 0..20 {
                hot.run().expect("every rule is supported");
            }
            // And its first theft from another's queue, which comes when it comes. What a call allocates
            // by itself it allocates in every batch.
            let mut ten_rounds = || (0..10).for_each(|_| hot.run().expect("every rule is supported"));
            let later = (0..20).map(|_| count(&mut ten_rounds)).find(|made| *made == 0);
            let control = count(&mut || drop(std::hint::black_box(vec![0_u8; 100])));
            (first, later, control)
        });
        assert_eq!(later, Some(0), "every ten rounds of {problem:?} allocate; the first made {first}");
        assert_eq!(control, 1, "the counter counts");
    }
}
