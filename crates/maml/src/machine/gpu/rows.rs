//! Functions of rows: one instance of a function's text for each rule and element type.

use std::hash::{Hash, Hasher};

use theria_contract::{Attention, DType};
use theria_gpu_fwd::forward::parameters::Divisor;
use theria_gpu_fwd::{Address as _, Cuda, CudaTensor, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::division::{Division, Way};
use super::{Attended, Gpu, on_device, view};
use crate::machine::{Columns, Follow, Places, Rows, Rowwise, Sweep};
use crate::number::Number;
use crate::operation::row_sources;
use crate::{Error, Result};

/// Operands that a function can have.
const OPERANDS: usize = 3;
/// Threads of a block, as in `rows.cuh`.
pub(super) const THREADS: usize = 256;
/// Rows and columns at most: places beyond the last one have a number, too.
const LARGEST: usize = i32::MAX as usize - (1 << 20);

/// As in `rows.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    Value,
    Push,
    Pull,
    PullTangent,
}

impl Rule {
    const ALL: [Self; 4] = [Self::Value, Self::Push, Self::Pull, Self::PullTangent];

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Value => ("value", "theria::VALUE"),
            Self::Push => ("push", "theria::PUSH"),
            Self::Pull => ("pull", "theria::PULL"),
            Self::PullTangent => ("pull-tangent", "theria::PULL_TANGENT"),
        }
    }
}

/// An instance of a function of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowKernel {
    source: Source,
    way: Way,
    rule: Rule,
    real: DType,
}

impl RowKernel {
    /// No two functions have one name.
    fn key(&self) -> (&'static str, Way, Rule, DType) {
        (self.source.name, self.way, self.rule, self.real)
    }
}

impl PartialEq for RowKernel {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for RowKernel {}

impl Hash for RowKernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// What an element type is called in a kernel that computes in it.
fn real_name(dtype: DType) -> &'static str {
    if dtype == DType::F64 { "double" } else { "float" }
}

/// The name of an instance of a text.
pub(super) fn instance_name(source: Source, choices: &str, real: DType) -> String {
    format!("{}-{choices}{real}", source.name.trim_end_matches(".cu").replace('_', "-"))
}

/// An instance of a text that leaves open nothing but what it computes in, and uses no dynamic shared memory.
pub(super) fn real_kernel(source: Source, real: DType, threads: usize) -> KernelSpec {
    KernelSpec {
        name: instance_name(source, "", real),
        source,
        defines: vec![("THERIA_REAL", real_name(real).into())],
        threads: threads as u32,
        shared: 0,
    }
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = RowKernel> {
    row_sources().into_iter().flat_map(|(source, columns)| {
        let of_way = move |way: &Way| {
            let way = *way;
            let of_rule =
                move |rule| [DType::F32, DType::F64].map(|real| RowKernel { source, way, rule, real });
            Rule::ALL.into_iter().flat_map(of_rule)
        };
        Way::of(columns).iter().flat_map(of_way)
    })
}

// SAFETY: `Parameters` is the struct `Rows` of rows.cuh, and a function touches what its operands name, after it waited
// for the launches ahead.
unsafe impl Spec for RowKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        let (name, rule) = self.rule.names();
        let (way, way_name) = self.way.names();
        KernelSpec {
            name: instance_name(self.source, &format!("{name}-{way}"), self.real),
            source: self.source,
            defines: vec![
                ("THERIA_REAL", real_name(self.real).into()),
                ("THERIA_RULE", rule.into()),
                ("THERIA_WAY", way_name.into()),
            ],
            threads: THREADS as u32,
            shared: 0,
        }
    }
}

/// `Follow` of `shares.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shares {
    by: Divisor,
    cyclic: i32,
}

impl From<Follow> for Shares {
    fn from(follow: Follow) -> Self {
        match follow {
            Follow::Shared(n) => Self { by: Divisor::new(n), cyclic: 0 },
            Follow::Cyclic(n) => Self { by: Divisor::new(n), cyclic: 1 },
        }
    }
}

/// `Operand` of `shares.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Operand {
    value: u64,
    tangent: u64,
    made: u64,
    sums: u64,
    width: i32,
    add: i32,
    follow: Shares,
}

impl Operand {
    /// What there is not has a row all the same, of which nothing is read.
    fn new(width: usize, follow: Follow) -> Self {
        let width = width as i32;
        Self { value: 0, tangent: 0, made: 0, sums: 0, width, add: 0, follow: follow.into() }
    }

    /// Whether what is made of it is summed over rows.
    fn is_summed(&self) -> bool {
        self.made != 0 && self.follow != Follow::OWN.into()
    }

    fn addresses(&self) -> [u64; 3] {
        [self.value, self.tangent, self.made]
    }
}

/// `Rows` of `shares.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parameters {
    x: [Operand; OPERANDS],
    y: Operand,
    constants: [f64; 2],
    tickets: u64,
    rows: i32,
    division: Division,
}

const _: () = assert!(size_of::<Parameters>() == 304);

/// A launch under preparation. Everything that it names is borrowed as long as it is there.
pub(super) struct Call<'a, A, R, E> {
    machine: &'a Gpu<A, R, E>,
    source: Source,
    columns: Columns,
    rule: Rule,
    sweep: &'a Sweep,
    parameters: Parameters,
    /// How the rows of what is made are shared.
    shared: Option<Follow>,
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// A launch of a rule of a function.
    pub(super) fn call<'a, K: Rowwise>(
        &'a self,
        kernel: &K,
        sweep: &'a Sweep,
        rule: Rule,
    ) -> Result<Call<'a, A, R, E>> {
        let all = sweep.inputs.iter().chain([&sweep.output]);
        let most = all.map(|rows| rows.width).chain([sweep.rows]).max().unwrap_or(0);
        if sweep.inputs.len() > OPERANDS || most > LARGEST {
            return Err(Error::LargeSweep { operands: sweep.inputs.len(), most });
        }
        let operand = |rows: &Rows| Operand::new(rows.width, rows.follow);
        let mut x = [Operand::new(0, Follow::OWN); OPERANDS];
        for (to, rows) in x.iter_mut().zip(&sweep.inputs) {
            *to = operand(rows);
        }
        let parameters = Parameters {
            x,
            y: operand(&sweep.output),
            constants: kernel.constants(),
            tickets: view(&self.shared.tickets).address(),
            rows: sweep.rows as i32,
            division: Division::default(),
        };
        let (source, columns) = (K::CUDA, K::COLUMNS);
        Ok(Call { machine: self, source, columns, rule, sweep, parameters, shared: None })
    }
}

/// Rows that an operand has.
fn height(rows: Rows, sweep: &Sweep) -> usize {
    match rows.follow {
        Follow::Shared(n) => sweep.rows.div_ceil(n),
        Follow::Cyclic(n) => n.min(sweep.rows),
    }
}

impl<A, R, E> Call<'_, A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    fn address(&self, rows: Rows, tensor: &CudaTensor<R>) -> Result<u64> {
        // No rows do not say how many others they would share.
        let none = self.sweep.rows == 0;
        let elements = if none { view(tensor).layout().len() } else { height(rows, self.sweep) * rows.width };
        self.machine.address("an operand of a function of rows", &view(tensor), elements)
    }

    /// Operands, and the tangents of those that move.
    pub(super) fn read(&mut self, x: &[&CudaTensor<R>], x_tangent: &[Option<&CudaTensor<R>>]) -> Result<()> {
        for (n, (x, rows)) in x.iter().zip(&self.sweep.inputs).enumerate() {
            self.parameters.x[n].value = self.address(*rows, x)?;
        }
        for (n, (x, rows)) in x_tangent.iter().zip(&self.sweep.inputs).enumerate() {
            self.parameters.x[n].tangent = x.map_or(Ok(0), |x| self.address(*rows, x))?;
        }
        Ok(())
    }

    /// The result, of which nothing is left.
    pub(super) fn make(&mut self, y: &mut CudaTensor<R>) -> Result<()> {
        self.parameters.y.made = self.address(self.sweep.output, y)?;
        self.share(self.sweep.output.follow)?;
        self.clear(y)
    }

    /// What is pulled back, and to where.
    pub(super) fn pull(
        &mut self,
        g: &CudaTensor<R>,
        g_tangent: Option<&CudaTensor<R>>,
        into: &mut Places<'_, CudaTensor<R>>,
    ) -> Result<()> {
        self.parameters.y.value = self.address(self.sweep.output, g)?;
        self.parameters.y.tangent = g_tangent.map_or(Ok(0), |g| self.address(self.sweep.output, g))?;
        for (n, (place, rows)) in into.iter_mut().zip(&self.sweep.inputs).enumerate() {
            let Some(place) = place else { continue };
            self.parameters.x[n].made = self.address(*rows, place.to)?;
            self.parameters.x[n].add = i32::from(std::mem::replace(&mut place.add, true));
            let fresh = self.parameters.x[n].add == 0;
            self.share(rows.follow)?;
            if fresh {
                self.clear(place.to)?;
            }
        }
        Ok(())
    }

    /// A sum over no rows is zero.
    fn clear(&self, made: &mut CudaTensor<R>) -> Result<()> {
        if self.sweep.rows == 0 { self.machine.cast::<R, R>(None, 0.0, made) } else { Ok(()) }
    }

    /// Notes how rows of what is made are shared: all that are, in one way.
    fn share(&mut self, follow: Follow) -> Result<()> {
        if follow == Follow::OWN {
            return Ok(());
        }
        match self.shared.replace(follow) {
            Some(other) if other != follow => Err(Error::SharedTwice { one: other, other: follow }),
            _ => Ok(()),
        }
    }

    /// Rows of operands that share nothing are one long row, where columns have nothing to do with each other.
    fn join(&mut self) {
        let to = &mut self.parameters;
        let present = self.sweep.inputs.len();
        let all = || to.x[..present].iter().chain([&to.y]);
        let (own, width) = (Shares::from(Follow::OWN), to.y.width);
        let total = to.rows as usize * width as usize;
        let same = all().all(|operand| operand.follow == own && operand.width == width);
        if self.columns == Columns::Apart && same && total <= LARGEST {
            to.rows = 1;
            to.x[..present].iter_mut().chain([&mut to.y]).for_each(|operand| operand.width = total as i32);
        }
    }

    /// Says which block takes what, and where sums go that several blocks share.
    fn divide(&mut self) -> Way {
        self.join();
        let to = &mut self.parameters;
        let all = || to.x.iter().chain([&to.y]);
        let widest = all().map(|operand| operand.width as usize).max().unwrap_or(0).max(1);
        let summed = all().filter(|operand| operand.is_summed());
        let shared = summed.clone().map(|operand| operand.width as usize).max();
        let vector = 16 / size_of::<R>();
        let whole = all().flat_map(Operand::addresses).all(|address| address.is_multiple_of(16));
        let held = [&to.x[0], &to.y].iter().all(|operand| operand.follow == Follow::OWN.into());
        let way = Way::new(self.columns, held, widest.div_ceil(vector));
        let room = summed.map(|operand| operand.width as usize).sum();
        to.division = Division::new(way, to.rows as usize, self.shared, (widest, vector), (shared, room));
        to.division.whole = i32::from(whole && widest.is_multiple_of(vector));
        let mut at = view(&self.machine.shared.sums).address();
        for operand in to.x.iter_mut().chain([&mut to.y]).filter(|operand| operand.is_summed()) {
            operand.sums = at;
            at += (to.division.left() * operand.width as usize * size_of::<R>()) as u64;
        }
        way
    }

    pub(super) fn launch(mut self) -> Result<()> {
        if self.sweep.rows == 0 {
            return Ok(());
        }
        let way = self.divide();
        let spec = RowKernel { source: self.source, way, rule: self.rule, real: R::DTYPE };
        let parameters = self.parameters;
        let blocks = parameters.division.blocks();
        // SAFETY: `address` held every tensor against the sweep and the device, all are borrowed while the launch is
        // asked for, and whatever is asked of the device later comes after it; sums of blocks and their counters have the
        // room that `Division::new` kept to, and belong to the machine, which is used in the order of the device's work.
        on_device(unsafe { self.machine.shared.rows.launch(spec, blocks, &parameters) })
    }
}
