//! The kernels of this family on a device.

use theria_contract::{Element, Inputs, Problem, SavedViewMut};

use super::cut::Tiled;
use super::{HopperFew, HopperForward};
use crate::forward::parameters::Forward;
use crate::{Cuda, Device, Edit, KernelSpec, Library, Located, Mapped, Result, Spec};

/// The kernels that were loaded.
#[derive(Debug)]
pub(in crate::forward) struct Family {
    device: Device,
    kernels: Library<HopperForward>,
    few: Library<HopperFew>,
}

impl Family {
    pub(in crate::forward) fn new(device: Device) -> Self {
        Self { kernels: Library::new(device.clone()), few: Library::new(device.clone()), device }
    }

    pub(in crate::forward) fn edited(device: Device, edit: Edit) -> Self {
        Self {
            kernels: Library::edited(device.clone(), edit),
            few: Library::edited(device.clone(), edit),
            device,
        }
    }

    /// The kernel for a problem, wherever its tensors lie.
    pub(in crate::forward) fn kernel(&self, problem: &Problem, rest: bool) -> Option<KernelSpec> {
        let few = self.few(problem, rest).map(|choice| choice.kernel());
        few.or_else(|| self.choice(problem, rest).map(|choice| choice.kernel()))
    }

    fn choice(&self, problem: &Problem, rest: bool) -> Option<HopperForward> {
        HopperForward::of(problem, rest, self.device.architecture(), self.device.multiprocessors())
    }

    fn few(&self, problem: &Problem, rest: bool) -> Option<HopperFew> {
        HopperFew::of(problem, rest, self.device.architecture(), self.device.multiprocessors())
    }

    /// Asks for the forward rule. False, and nothing is asked for, where no kernel of this family serves it. The
    /// operands were verified: they are those of the problem, on this device.
    pub(in crate::forward) fn launch<E: Element>(
        &self,
        problem: &Problem,
        inputs: &Inputs<'_, Cuda, E>,
        saved: &SavedViewMut<'_, Cuda, E>,
    ) -> Result<bool> {
        let rest = saved.rest.is_some();
        if let Some(few) = self.few(problem, rest) {
            return self.launch_few(few, problem, inputs, saved);
        }
        let Some(choice) = self.choice(problem, rest) else { return Ok(false) };
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

    /// The same by the kernel for few rows. O and its rest are written without the copy engine, sixteen bytes at a
    /// time: they begin on as many where it knows them.
    fn launch_few<E: Element>(
        &self,
        few: HopperFew,
        problem: &Problem,
        inputs: &Inputs<'_, Cuda, E>,
        saved: &SavedViewMut<'_, Cuda, E>,
    ) -> Result<bool> {
        let written = [Some(Located::of(&saved.output)), saved.rest.as_ref().map(Located::of)];
        if !written.iter().flatten().all(Located::is_known) {
            return Ok(false);
        }
        let [q, k, v] = few.boxes();
        let tensors = [
            Some((Located::of(&inputs.q), q)),
            Some((Located::of(&inputs.k), k)),
            Some((Located::of(&inputs.v), v)),
        ];
        let Some(maps) = self.device.tensor_maps(problem.dtype(), tensors)? else { return Ok(false) };
        let grid = HopperFew::grid(problem);
        let given = Forward::of_rule(problem, inputs, saved, grid);
        // SAFETY: as in `launch`.
        #[allow(unsafe_code)]
        unsafe {
            self.few.launch(few, grid.blocks(), &Mapped { maps, given })?;
        }
        Ok(true)
    }
}
