//! The kernels of this family on a device, and the launches that rules are made of.

use theria_contract::{Element, Problem, Result, Rule};
use theria_gpu_fwd::forward::parameters::Grid;
use theria_gpu_fwd::{Device, Edit, Library, Located, Mapped, Spec};

use super::finish::Finish;
use super::heads::Heads;
use super::jvp::HopperJvp;
use super::scratch::Scratch;
use super::sweep::{Cut, First, Second};
use crate::call::{Call, Moved};
use crate::pairs::{PairKernel, Sweep};
use crate::parameters::Rules;
use crate::part::{Order, Part, Records};

/// The kernels that were loaded.
#[derive(Debug)]
pub(crate) struct Family {
    device: Device,
    jvp: Library<HopperJvp>,
    heads: Library<Heads>,
    first: Library<First>,
    second: Library<Second>,
    finish: Library<Finish>,
}

impl Family {
    pub(crate) fn new(device: &Device) -> Self {
        Self::of(device, None)
    }

    pub(crate) fn edited(device: &Device, edit: Edit) -> Self {
        Self::of(device, Some(edit))
    }

    fn of(device: &Device, edit: Option<Edit>) -> Self {
        Self {
            device: device.clone(),
            jvp: library(device, edit),
            heads: library(device, edit),
            first: library(device, edit),
            second: library(device, edit),
            finish: library(device, edit),
        }
    }

    fn heads_for(&self, problem: &Problem) -> Option<Heads> {
        Heads::of(problem, self.device.architecture())
    }

    /// None where a block has whole heads.
    fn first_for(&self, problem: &Problem) -> Option<First> {
        match self.heads_for(problem) {
            Some(_) => None,
            None => First::of(problem, self.device.architecture()),
        }
    }

    fn second_for(&self, problem: &Problem, with_cotangent_tangent: bool) -> Option<Second> {
        Second::of(problem, self.device.architecture(), with_cotangent_tangent)
    }

    /// Bytes of scratch of a sweep; none where this family does not serve the problem. Whether it serves a call depends
    /// on the call's tensors too, so a call may come without need of them.
    pub(crate) fn scratch_bytes(&self, problem: &Problem, order: Order) -> usize {
        let cut = match order {
            Order::First => self.first_for(problem).map(|First(cut)| cut),
            Order::Second => self.second_for(problem, true).map(|second| second.cut),
        };
        cut.map_or(0, |cut| self.scratch(problem, order, cut).bytes())
    }

    fn scratch(&self, problem: &Problem, order: Order, cut: Cut) -> Scratch {
        Scratch::of(problem, order, cut.queries, cut.strands(problem, self.device.multiprocessors()))
    }

    /// The names of the kernels that serve a rule of a problem with packed tensors and everything that a rule may have,
    /// in the order of their launches but for statistics; none where others serve it.
    pub(crate) fn kernels(&self, problem: &Problem, rule: Rule) -> Vec<String> {
        let jvp = || HopperJvp::of(problem, self.device.architecture());
        let finish = |cut, order| Finish { cut, order }.kernel().name;
        match rule {
            Rule::Forward => Vec::new(),
            Rule::Jvp => jvp().map(|it| it.kernel().name).into_iter().collect(),
            Rule::Backward => {
                let heads = self.heads_for(problem).map(|heads| vec![heads.kernel().name]);
                let first =
                    || self.first_for(problem).map(|it| vec![it.kernel().name, finish(it.0, Order::First)]);
                heads.or_else(first).unwrap_or_default()
            }
            Rule::SecondOrder => self.second_for(problem, true).map_or_else(Vec::new, |second| {
                vec![second.kernel().name, finish(second.cut, Order::Second)]
            }),
        }
    }

    /// Asks for a JVP. False, and nothing is asked for, where no kernel of this family serves the call: O comes without
    /// its rest, one of the operands does not move, or the copy engine does not know a tensor.
    pub(crate) fn jvp<E: Element>(&self, call: &Call<'_, '_, E>, records: Records) -> Result<bool> {
        let Some(choice) = HopperJvp::of(call.problem, self.device.architecture()) else { return Ok(false) };
        let (at, [rows, keys]) = (&call.moved, choice.boxes());
        if !at.all_move() || at.rest.is_none() {
            return Ok(false);
        }
        let [q, k, v] = operands(at, rows, keys);
        let [q_tangent, k_tangent, v_tangent] = tangents(at, rows, keys);
        let tensors = [
            q,
            k,
            v,
            q_tangent,
            k_tangent,
            v_tangent,
            boxes(at.out, rows),
            boxes(at.rest, rows),
            boxes(at.out_tangent, rows),
            boxes(at.rest_tangent, rows),
        ];
        let Some(maps) = self.device.tensor_maps(E::DTYPE, tensors)? else { return Ok(false) };
        let (grid, blocks) = HopperJvp::grid(call.problem, self.device.multiprocessors());
        // SAFETY: a call's tensors were verified, and are borrowed while the launch is asked for; whatever is asked of
        // the device later comes after it. Maps are of the same tensors.
        #[allow(unsafe_code)]
        unsafe {
            self.jvp.launch(choice, blocks, &Mapped { maps, given: call.rules(grid, records) })?;
        }
        Ok(true)
    }

    /// Asks for all launches of backward or second order. False, and nothing is asked for, where the family does not
    /// serve the call: what it starts from comes without rests, one of the operands does not move, or the copy engine
    /// does not know a tensor. `pairs` has the kernel that makes statistics.
    pub(crate) fn sweep<E: Element>(
        &self,
        pairs: &Library<PairKernel>,
        order: Order,
        call: &Call<'_, '_, E>,
    ) -> Result<bool> {
        match order {
            Order::First => self.first_order(pairs, call),
            Order::Second => self.second_order(pairs, call),
        }
    }

    fn first_order<E: Element>(&self, pairs: &Library<PairKernel>, call: &Call<'_, '_, E>) -> Result<bool> {
        if let Some(choice) = self.heads_for(call.problem) {
            return self.heads_at_once(choice, call);
        }
        let Some(choice) = self.first_for(call.problem) else { return Ok(false) };
        let (at, [rows, keys, made]) = (&call.moved, choice.boxes());
        if at.rest.is_none() {
            return Ok(false);
        }
        let [q, k, v] = operands(at, rows, keys);
        let tensors = [q, k, v, boxes(at.g, rows), boxes(at.dk, made), boxes(at.dv, made)];
        let Some(maps) = self.device.tensor_maps(E::DTYPE, tensors)? else { return Ok(false) };
        self.between(pairs, Order::First, choice.0, call, |blocks, given| {
            // SAFETY: as of every launch of a call.
            #[allow(unsafe_code)]
            unsafe {
                self.first.launch(choice, blocks, &Mapped { maps, given })
            }
        })
    }

    /// Everything in one launch: a block has all keys of a head.
    fn heads_at_once<E: Element>(&self, choice: Heads, call: &Call<'_, '_, E>) -> Result<bool> {
        let (at, [rows, keys, made]) = (&call.moved, choice.boxes());
        if at.rest.is_none() {
            return Ok(false);
        }
        let [q, k, v] = operands(at, rows, keys);
        let tensors = [
            q,
            k,
            v,
            boxes(at.g, rows),
            boxes(at.out, rows),
            boxes(at.rest, rows),
            boxes(at.dq, rows),
            boxes(at.dk, made),
            boxes(at.dv, made),
        ];
        let Some(maps) = self.device.tensor_maps(E::DTYPE, tensors)? else { return Ok(false) };
        let (grid, blocks) = choice.grid(call.problem, self.device.multiprocessors());
        let given = call.rules(grid, Records::of(call.problem, Order::First, false));
        // SAFETY: as of every launch of a call.
        #[allow(unsafe_code)]
        unsafe {
            self.heads.launch(choice, blocks, &Mapped { maps, given })?;
        }
        Ok(true)
    }

    fn second_order<E: Element>(&self, pairs: &Library<PairKernel>, call: &Call<'_, '_, E>) -> Result<bool> {
        let at = &call.moved;
        let Some(choice) = self.second_for(call.problem, at.g_tangent.is_some()) else { return Ok(false) };
        let [rows, keys, made] = choice.boxes();
        if !at.all_move() || at.rest.is_none() || at.rest_tangent.is_none() {
            return Ok(false);
        }
        // Where O and O′ lie so that the portable kernels made them, δ′ may be too coarse for one sweep.
        let made_before = [at.out, at.rest, at.out_tangent, at.rest_tangent];
        if !made_before.iter().flatten().all(Located::is_known) {
            return Ok(false);
        }
        let [q, k, v] = operands(at, rows, keys);
        let [q_tangent, k_tangent, v_tangent] = tangents(at, rows, keys);
        let tensors = [
            q,
            k,
            v,
            q_tangent,
            k_tangent,
            v_tangent,
            boxes(at.g, rows),
            boxes(at.g_tangent, rows),
            boxes(at.dk, made),
            boxes(at.dv, made),
        ];
        let Some(maps) = self.device.tensor_maps(E::DTYPE, tensors)? else { return Ok(false) };
        self.between(pairs, Order::Second, choice.cut, call, |blocks, given| {
            // SAFETY: as of every launch of a call.
            #[allow(unsafe_code)]
            unsafe {
                self.second.launch(choice, blocks, &Mapped { maps, given })
            }
        })
    }

    /// Statistics, which set the counters of turns to zero; the sweep; and what makes dQ of its sums.
    fn between<E: Element>(
        &self,
        pairs: &Library<PairKernel>,
        order: Order,
        cut: Cut,
        call: &Call<'_, '_, E>,
        sweep: impl FnOnce(usize, Rules) -> theria_gpu_fwd::Result<()>,
    ) -> Result<bool> {
        let (problem, scratch) = (call.problem, self.scratch(call.problem, order, cut));
        let given = |grid: Grid| scratch.given_to(call.rules(grid, scratch.records));
        let part = Part::Statistics(order);
        let statistics = PairKernel { part, dtype: E::DTYPE, factored: false, sweep: Sweep::Never };
        let grid = statistics.grid(problem, scratch.records.padded);
        // SAFETY: a call's tensors were verified, and are borrowed while the launch is asked for; whatever is asked of
        // the device later comes after it. The scratch is as large as `scratch_bytes` asks for.
        #[allow(unsafe_code)]
        unsafe {
            pairs.launch(statistics, grid.blocks(), &given(grid))?;
        }
        let grid = cut.grid(problem);
        sweep(grid.blocks(), given(grid))?;
        let finish = Finish { cut, order };
        let grid = finish.grid(problem);
        // SAFETY: the same.
        #[allow(unsafe_code)]
        unsafe {
            self.finish.launch(finish, grid.blocks(), &given(grid))?;
        }
        Ok(true)
    }
}

fn library<S: Spec>(device: &Device, edit: Option<Edit>) -> Library<S> {
    match edit {
        Some(edit) => Library::edited(device.clone(), edit),
        None => Library::new(device.clone()),
    }
}

/// A tensor that is moved in boxes of so many rows, if it is there.
type Boxes = Option<(Located, u32)>;

fn boxes(tensor: Option<Located>, rows: u32) -> Boxes {
    tensor.map(|tensor| (tensor, rows))
}

/// Q, K and V.
fn operands(at: &Moved, rows: u32, keys: u32) -> [Boxes; 3] {
    [boxes(at.q, rows), boxes(at.k, keys), boxes(at.v, keys)]
}

/// Q′, K′ and V′.
fn tangents(at: &Moved, rows: u32, keys: u32) -> [Boxes; 3] {
    [boxes(at.q_tangent, rows), boxes(at.k_tangent, keys), boxes(at.v_tangent, keys)]
}
