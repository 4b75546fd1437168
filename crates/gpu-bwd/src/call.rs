//! A call of a rule: its operands, verified, and what each of its launches is given.

use theria_contract::{
    Attention, Directions, Element, Error, Inputs, Problem, Qkv, Result, Rule, SavedView, SavedViewMut,
};
use theria_gpu_fwd::forward::parameters::{Broadcast, Forward, Grid, View, whole_vectors};
use theria_gpu_fwd::forward::verify::{self, operand, output};
use theria_gpu_fwd::{Address, Cuda, CudaView, CudaViewMut, CudaWorkspace, Located};

use crate::parameters::{Own, Rules};
use crate::part::Records;

const WARP: usize = 32;

/// The tensors of a call. They are those of the problem, on the backend's device, and borrowed as long as this is
/// there: who makes one has verified them.
pub(crate) struct Call<'a, 'i, E: Element> {
    pub(crate) problem: &'a Problem,
    inputs: &'a Inputs<'i, Cuda, E>,
    saved: [View; 3],
    /// Whether all rows that kernels copy are whole vectors.
    pub(crate) vectors: bool,
    /// Where the tensors lie that are moved in boxes.
    pub(crate) moved: Moved,
    own: Own,
    /// Extents of the bias.
    entries: [usize; 4],
}

/// Where the tensors of a call lie, for kernels whose copies are made by the copy engine; none where a call has none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) q: Option<Located>,
    pub(crate) k: Option<Located>,
    pub(crate) v: Option<Located>,
    pub(crate) out: Option<Located>,
    pub(crate) rest: Option<Located>,
    pub(crate) q_tangent: Option<Located>,
    pub(crate) k_tangent: Option<Located>,
    pub(crate) v_tangent: Option<Located>,
    pub(crate) out_tangent: Option<Located>,
    pub(crate) rest_tangent: Option<Located>,
    pub(crate) g: Option<Located>,
    pub(crate) g_tangent: Option<Located>,
    pub(crate) dq: Option<Located>,
    pub(crate) dk: Option<Located>,
    pub(crate) dv: Option<Located>,
}

impl Moved {
    /// Whether every operand has a direction.
    pub(crate) fn all_move(&self) -> bool {
        ![self.q_tangent, self.k_tangent, self.v_tangent].contains(&None)
    }
}

impl<'a, 'i, E: Element> Call<'a, 'i, E> {
    /// What all rules begin with: operands, and what the forward saved.
    pub(crate) fn new(
        backend: &impl Attention<E, Storage = Cuda>,
        problem: &'a Problem,
        rule: Rule,
        inputs: &'a Inputs<'i, Cuda, E>,
        saved: &SavedView<'_, Cuda, E>,
        workspace: &CudaWorkspace,
    ) -> Result<Self> {
        verify::call::<E>(backend, problem, rule, inputs, workspace)?;
        let (cuda, shape) = (backend.storage(), problem.shape());
        operand(cuda, "out", Some(&saved.output), Some(shape.output()))?;
        operand(cuda, "lse", Some(&saved.lse), Some(shape.rows()))?;
        operand(cuda, "out_rest", saved.rest.as_ref(), saved.rest.map(|_| shape.output()))?;
        let rest = saved.rest.map_or_else(View::default, |rest| View::of(&rest));
        let mut call = Self {
            problem,
            inputs,
            saved: [View::of(&saved.output), View::of(&saved.lse), rest],
            vectors: true,
            moved: Moved {
                q: Some(Located::of(&inputs.q)),
                k: Some(Located::of(&inputs.k)),
                v: Some(Located::of(&inputs.v)),
                out: Some(Located::of(&saved.output)),
                rest: saved.rest.as_ref().map(Located::of),
                ..Moved::default()
            },
            own: Own {
                statistics: workspace.address(),
                batch: shape.batch as i32,
                heads: shape.heads_q as i32,
                ..Own::default()
            },
            entries: [0; 4],
        };
        call.copied(&inputs.q);
        call.copied(&inputs.k);
        call.copied(&inputs.v);
        call.copied(&saved.output);
        if let Some(rest) = &saved.rest {
            call.copied(rest);
        }
        Ok(call)
    }

    /// Takes a tensor whose rows kernels copy.
    fn copied(&mut self, tensor: &impl Address) -> View {
        self.vectors &= whole_vectors(size_of::<E>(), [tensor as &dyn Address]);
        View::of(tensor)
    }

    /// With directions.
    pub(crate) fn along(mut self, cuda: &Cuda, directions: &Directions<CudaView<'_, E>>) -> Result<Self> {
        let (shape, given) = (self.problem.shape(), directions);
        let declared = |view: &Option<CudaView<'_, E>>, shape| view.as_ref().map(|_| shape);
        operand(cuda, "q_tangent", given.q.as_ref(), declared(&given.q, shape.q()))?;
        operand(cuda, "k_tangent", given.k.as_ref(), declared(&given.k, shape.k()))?;
        operand(cuda, "v_tangent", given.v.as_ref(), declared(&given.v, shape.v()))?;
        operand(cuda, "bias_tangent", given.bias.as_ref(), given.bias.and(self.problem.bias()))?;
        self.own.q_tangent = given.q.map_or_else(View::default, |view| self.copied(&view));
        self.own.k_tangent = given.k.map_or_else(View::default, |view| self.copied(&view));
        self.own.v_tangent = given.v.map_or_else(View::default, |view| self.copied(&view));
        self.own.bias_tangent = Broadcast::of(given.bias.as_ref());
        let located = |view: &Option<CudaView<'_, E>>| view.as_ref().map(Located::of);
        self.moved.q_tangent = located(&given.q);
        self.moved.k_tangent = located(&given.k);
        self.moved.v_tangent = located(&given.v);
        Ok(self)
    }

    /// Making O′ and μ.
    pub(crate) fn making_tangent(mut self, cuda: &Cuda, made: &SavedViewMut<'_, Cuda, E>) -> Result<Self> {
        let shape = self.problem.shape();
        output(cuda, "out_tangent", &made.output, shape.output())?;
        output(cuda, "lse_tangent", &made.lse, shape.rows())?;
        if let Some(rest) = &made.rest {
            output(cuda, "out_tangent_rest", rest, shape.output())?;
        }
        self.tangent(&made.output, &made.lse, made.rest.as_ref());
        Ok(self)
    }

    /// With O′ and μ.
    pub(crate) fn with_tangent(mut self, cuda: &Cuda, made: &SavedView<'_, Cuda, E>) -> Result<Self> {
        let shape = self.problem.shape();
        operand(cuda, "out_tangent", Some(&made.output), Some(shape.output()))?;
        operand(cuda, "lse_tangent", Some(&made.lse), Some(shape.rows()))?;
        if let Some(rest) = &made.rest {
            operand(cuda, "out_tangent_rest", Some(rest), Some(shape.output()))?;
        }
        self.tangent(&made.output, &made.lse, made.rest.as_ref());
        Ok(self)
    }

    /// O′, μ, and what rounding took from O′.
    fn tangent<A: Address>(&mut self, output: &A, mu: &impl Address, rest: Option<&A>) {
        self.own.out_tangent = self.copied(output);
        self.own.rest_tangent = rest.map_or_else(View::default, |rest| self.copied(rest));
        self.own.mu = View::of(mu);
        self.moved.out_tangent = Some(Located::of(output));
        self.moved.rest_tangent = rest.map(Located::of);
    }

    /// With G, and G′ if there is one.
    pub(crate) fn with_cotangent(
        mut self,
        cuda: &Cuda,
        g: &CudaView<'_, E>,
        g_tangent: Option<&CudaView<'_, E>>,
    ) -> Result<Self> {
        let expected = self.problem.shape().output();
        operand(cuda, "dout", Some(g), Some(expected))?;
        operand(cuda, "dout_tangent", g_tangent, g_tangent.map(|_| expected))?;
        self.own.g = self.copied(g);
        self.own.g_tangent = g_tangent.map_or_else(View::default, |view| self.copied(view));
        self.moved.g = Some(Located::of(g));
        self.moved.g_tangent = g_tangent.map(Located::of);
        Ok(self)
    }

    /// Making these gradients. `names` are those of their outputs.
    pub(crate) fn making(
        mut self,
        cuda: &Cuda,
        names: [&'static str; 4],
        made: &Qkv<CudaViewMut<'_, E>>,
    ) -> Result<Self> {
        let shape = self.problem.shape();
        output(cuda, names[0], &made.q, shape.q())?;
        output(cuda, names[1], &made.k, shape.k())?;
        output(cuda, names[2], &made.v, shape.v())?;
        self.own.dq = self.copied(&made.q);
        self.own.dk = self.copied(&made.k);
        self.own.dv = self.copied(&made.v);
        self.moved.dq = Some(Located::of(&made.q));
        self.moved.dk = Some(Located::of(&made.k));
        self.moved.dv = Some(Located::of(&made.v));
        if let Some(bias) = &made.bias {
            let Some(expected) = self.problem.bias() else {
                return Err(Error::Presence { name: names[3], declared: false });
            };
            output(cuda, names[3], bias, expected)?;
            self.own.dbias = Broadcast::of(Some(bias));
            self.own.extents = expected.map(|extent| extent as i32);
            self.own.lanes = self.lanes(expected) as i32;
            self.entries = expected;
        }
        Ok(self)
    }

    /// Lanes that share the pairs that one entry of the bias is added to.
    fn lanes(&self, entries: [usize; 4]) -> usize {
        let shape = self.problem.shape();
        let pairs = [shape.batch, shape.heads_q, shape.t, shape.m];
        let shared: usize =
            entries.iter().zip(pairs).filter(|(entries, _)| **entries == 1).map(|(_, pairs)| pairs).product();
        if shared < WARP { 1 } else { WARP }
    }

    /// Tiles of the bias of so many queries and keys; none where its gradient is not wanted.
    pub(crate) fn bias_tiles(&self, rows: usize, keys: usize) -> usize {
        let [batch, heads, t, m] = self.entries;
        batch * heads * t.div_ceil(rows) * m.div_ceil(keys)
    }

    /// Blocks of the launch for the bias that takes pairs; none where its gradient is not wanted.
    pub(crate) fn bias_blocks(&self) -> usize {
        let entries: usize = self.entries.iter().product();
        (entries * self.own.lanes as usize).div_ceil(4 * WARP)
    }

    /// What the blocks of a launch are given.
    pub(crate) fn rules(&self, grid: Grid, records: Records) -> Rules {
        let forward = Forward::of(self.problem, self.inputs, self.saved, self.vectors, grid);
        Rules { forward, own: Own { padded: records.padded as i32, ..self.own } }
    }
}
