//! Functions of rows as operations.

use theria_gpu_fwd::Source;

use super::{Into, Operation, Second, source_of};
use crate::Result;
use crate::graph::{Graph, ValueId};
use crate::machine::{Columns, Follow, Machine, Rows, Rowwise, Sweep, kernel_source};
use crate::number::Number;

/// A function of rows, and whose rows.
#[derive(Debug)]
pub(super) struct Mapped<K> {
    pub(super) kernel: K,
    pub(super) sweep: Sweep,
    /// Whether it is linear in all its operands together.
    pub(super) linear: bool,
}

impl<M: Machine, K: Rowwise> Operation<M> for Mapped<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn is_linear(&self) -> bool {
        self.linear
    }

    fn value(&mut self, machine: &M, x: &[&M::Tensor], y: &mut M::Tensor) -> Result<()> {
        machine.value(self.kernel, &self.sweep, x, y)
    }

    fn push(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        x_tangent: &[Option<&M::Tensor>],
        _y: &M::Tensor,
        y_tangent: &mut M::Tensor,
    ) -> Result<()> {
        machine.push(self.kernel, &self.sweep, x, x_tangent, y_tangent)
    }

    fn pull(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        _y: &M::Tensor,
        g: &M::Tensor,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        machine.pull(self.kernel, &self.sweep, x, g, into)
    }

    fn pull_tangent(
        &mut self,
        machine: &M,
        at: &Second<'_, M>,
        into: &mut Into<'_, M>,
        first: &mut Into<'_, M>,
    ) -> Result<()> {
        if let Some(g) = at.g
            && first.iter().any(Option::is_some)
        {
            machine.pull(self.kernel, &self.sweep, at.x, g, first)?;
        }
        match (at.g, at.g_tangent) {
            (Some(g), g_tangent) if !self.linear => {
                machine.pull_tangent(self.kernel, &self.sweep, at.x, at.x_tangent, g, g_tangent, into)
            }
            // Linear in the cotangent and in nothing else: its tangent is pulled back as it is.
            (_, Some(g_tangent)) => machine.pull(self.kernel, &self.sweep, at.x, g_tangent, into),
            (_, None) => Ok(()),
        }
    }
}

/// The same rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied;

impl Rowwise for Copied {
    const NAME: &'static str = "copy";
    const ELEMENTWISE: bool = true;
    const COLUMNS: Columns = Columns::Apart;
    const CUDA: Source = kernel_source!("copied.cu");

    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]) {
        for (y, x) in y.iter_mut().zip(x[0]) {
            *y += *x;
        }
    }

    fn pull<N: Number>(&self, _x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]) {
        for (to, g) in into[0].iter_mut().flat_map(|into| into.iter_mut()).zip(g) {
            *to += *g;
        }
    }
}

/// A copy of a matrix, for whom it has to be alone.
pub(crate) fn copy<M: Machine>(rows: usize, columns: usize) -> Box<dyn Operation<M>> {
    let own = Rows { width: columns, follow: Follow::OWN };
    let sweep = Sweep { rows, inputs: vec![own], output: own }.joined();
    Box::new(Mapped { kernel: Copied, sweep, linear: true })
}

/// The texts of these functions.
pub(super) const SOURCES: &[(Source, Columns)] = &[source_of::<Copied>()];

impl<M: Machine> Graph<M> {
    /// A function of rows of values whose rows go along with those of the first one.
    pub(super) fn mapped<K: Rowwise>(
        &mut self,
        kernel: K,
        linear: bool,
        inputs: &[(ValueId, Follow)],
        output: (usize, Follow),
    ) -> ValueId {
        let rows = self.shape(inputs[0].0).0;
        let at = |(value, follow): &(ValueId, Follow)| Rows { width: self.shape(*value).1, follow: *follow };
        let sweep = Sweep {
            rows,
            inputs: inputs.iter().map(at).collect(),
            output: Rows { width: output.0, follow: output.1 },
        };
        let sweep = if K::ELEMENTWISE { sweep.joined() } else { sweep };
        let made = if rows == 0 { 0 } else { output.1.row(rows - 1) + 1 };
        // What rows share is summed over them.
        let shared: Vec<ValueId> =
            inputs.iter().filter(|(_, follow)| *follow != Follow::OWN).map(|(value, _)| *value).collect();
        self.widen(&shared);
        let values = inputs.iter().map(|(value, _)| *value).collect();
        let made = self.add(Box::new(Mapped { kernel, sweep, linear }), values, (made, output.0));
        if output.1 != Follow::OWN {
            self.widen(&[made]);
        }
        made
    }
}
