//! The kernels of this family on a device.

use theria_contract::{Element, Inputs, Problem, SavedViewMut};

use super::HopperForward;
use super::cut::Tiled;
use crate::forward::parameters::Forward;
use crate::{Cuda, Device, Edit, Library, Located, Mapped, Result};

/// The kernels that were loaded.
#[derive(Debug)]
pub(in crate::forward) struct Family {
    device: Device,
    kernels: Library<HopperForward>,
}

impl Family {
    pub(in crate::forward) fn new(device: Device) -> Self {
        Self { kernels: Library::new(device.clone()), device }
    }

    pub(in crate::forward) fn edited(device: Device, edit: Edit) -> Self {
        Self { kernels: Library::edited(device.clone(), edit), device }
    }

    /// The kernel for a problem, wherever its tensors lie.
    pub(in crate::forward) fn choice(&self, problem: &Problem, rest: bool) -> Option<HopperForward> {
        HopperForward::of(problem, rest, self.device.architecture(), self.device.multiprocessors())
    }

    /// Asks for the forward rule. False, and nothing is asked for, where no kernel of this family serves it. The
    /// operands were verified: they are those of the problem, on this device.
    pub(in crate::forward) fn launch<E: Element>(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_, Cuda, E>,
        saved: &SavedViewMut<'_, Cuda, E>,
    ) -> Result<bool> {
        let Some(choice) = self.choice(problem, saved.rest.is_some()) else { return Ok(false) };
        let [q, k, v, out, rest] = choice.boxes();
        let tensors = [
            Some((Located::of(&inputs.q), q)),
            Some((Located::of(&inputs.k), k)),
            Some((Located::of(&inputs.v), v)),
            Some((Located::of(&saved.output), out)),
            saved.rest.as_ref().map(|tensor| (Located::of(tensor), rest)),
        ];
        let Some(maps) = self.device.tensor_maps(problem.dtype(), tensors)? else { return Ok(false) };
        let grid = choice.grid(problem);
        let forward = Forward::of_rule(problem, inputs, saved, grid);
        let given = Tiled { forward, tiles: grid.blocks() as i32 };
        let blocks = choice.blocks(grid.blocks(), self.device.multiprocessors());
        // SAFETY: the views are those of the problem and on this device, as said above, and are borrowed while the
        // launch is asked for; whatever is asked of the device later comes after it. Maps are of the same tensors.
        #[allow(unsafe_code)]
        unsafe {
            self.kernels.launch(choice, blocks, &Mapped { maps, given })?;
        }
        Ok(true)
    }
}
