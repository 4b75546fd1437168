//! Functions of rows: one instance of a function's text for each rule and element type.

use std::fmt::Display;
use std::hash::{Hash, Hasher};

use theria_contract::{Attention, DType};
use theria_gpu_fwd::forward::parameters::Divisor;
use theria_gpu_fwd::{Address as _, Cuda, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::division::{Division, Vectors, Way};
use super::{Attended, Gpu, GpuTensor, on_device, view};
use crate::machine::{Columns, Follow, Machine as _, Places, Rows, Rowwise, Sweep};
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

/// What an instance computes in, and what it reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    F32,
    F64,
    /// In f32, tensors in f32 and in bf16.
    Mixed,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::F32, Self::F64, Self::Mixed];

    pub(super) fn of<R: Real>(narrow: bool) -> Self {
        match R::DTYPE {
            DType::F64 => Self::F64,
            _ if narrow => Self::Mixed,
            _ => Self::F32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Mixed => "mixed",
        }
    }

    fn real(self) -> DType {
        if self == Self::F64 { DType::F64 } else { DType::F32 }
    }

    /// Sixteen bytes of the narrowest numbers are a vector, and as many numbers of others.
    fn vectors(self) -> Vectors {
        match self {
            Self::F32 => Vectors { length: 4, held: 2 },
            Self::F64 => Vectors { length: 2, held: 2 },
            Self::Mixed => Vectors { length: 8, held: 1 },
        }
    }

    fn defines(self) -> [(&'static str, String); 2] {
        let mixed = u32::from(self == Self::Mixed);
        [("THERIA_REAL", real_name(self.real()).into()), ("THERIA_MIXED", mixed.to_string())]
    }
}

/// An instance of a function of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowKernel {
    source: Source,
    way: Way,
    rule: Rule,
    kind: Kind,
}

impl RowKernel {
    /// No two functions have one name.
    fn key(&self) -> (&'static str, Way, Rule, Kind) {
        (self.source.name, self.way, self.rule, self.kind)
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
pub(super) fn instance_name(source: Source, choices: &str, kind: impl Display) -> String {
    format!("{}-{choices}{kind}", source.name.trim_end_matches(".cu").replace('_', "-"))
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

/// The same of a text that reads and writes tensors of models.
pub(super) fn kind_kernel(source: Source, kind: Kind, threads: usize) -> KernelSpec {
    let name = instance_name(source, "", kind.name());
    KernelSpec { name, source, defines: kind.defines().into(), threads: threads as u32, shared: 0 }
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = RowKernel> {
    row_sources().into_iter().flat_map(|(source, columns)| {
        let of_way = move |way: &Way| {
            let way = *way;
            let of_rule = move |rule| Kind::ALL.map(|kind| RowKernel { source, way, rule, kind });
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
            name: instance_name(self.source, &format!("{name}-{way}"), self.kind.name()),
            source: self.source,
            defines: [("THERIA_RULE", rule.into()), ("THERIA_WAY", way_name.into())]
                .into_iter()
                .chain(self.kind.defines())
                .collect(),
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
    add: i16,
    narrow: i16,
    follow: Shares,
}

impl Operand {
    /// What there is not has a row all the same, of which nothing is read.
    fn new(width: usize, follow: Follow) -> Self {
        let width = width as i32;
        Self { value: 0, tangent: 0, made: 0, sums: 0, width, add: 0, narrow: 0, follow: follow.into() }
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
    kind: Kind,
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
        Ok(Call {
            machine: self,
            source,
            columns,
            rule,
            kind: Kind::of::<R>(false),
            sweep,
            parameters,
            shared: None,
        })
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
    fn address(&self, rows: Rows, tensor: &GpuTensor<R>) -> Result<u64> {
        let what = "an operand of a function of rows";
        // No rows do not say how many others they would share.
        let none = self.sweep.rows == 0;
        let elements = if none { tensor.layout().len() } else { height(rows, self.sweep) * rows.width };
        // What rows share is wide.
        if none || rows.follow == Follow::OWN {
            self.machine.address_of(what, tensor, elements)
        } else {
            self.machine.wide_address(what, tensor, elements)
        }
    }

    /// Where a tensor of operand `n` lies, or, after the last one, of the result. What was named of it before is as wide.
    fn named(&mut self, n: usize, rows: Rows, tensor: &GpuTensor<R>) -> Result<u64> {
        let address = self.address(rows, tensor)?;
        let narrow = i16::from(tensor.is_narrow());
        let of = self.parameters.x.get_mut(n).unwrap_or(&mut self.parameters.y);
        let before = [of.value, of.tangent, of.made] != [0; 3];
        if before && of.narrow != narrow {
            return Err(Error::MixedWidths);
        }
        of.narrow = narrow;
        if narrow == 1 {
            self.kind = Kind::of::<R>(true);
        }
        Ok(address)
    }

    /// Operands, and the tangents of those that move.
    pub(super) fn read(&mut self, x: &[&GpuTensor<R>], x_tangent: &[Option<&GpuTensor<R>>]) -> Result<()> {
        for (n, (x, rows)) in x.iter().zip(&self.sweep.inputs).enumerate() {
            self.parameters.x[n].value = self.named(n, *rows, x)?;
        }
        for (n, (x, rows)) in x_tangent.iter().zip(&self.sweep.inputs).enumerate() {
            self.parameters.x[n].tangent = x.map_or(Ok(0), |x| self.named(n, *rows, x))?;
        }
        Ok(())
    }

    /// The result, of which nothing is left.
    pub(super) fn make(&mut self, y: &mut GpuTensor<R>) -> Result<()> {
        self.parameters.y.made = self.named(OPERANDS, self.sweep.output, y)?;
        self.share(self.sweep.output.follow)?;
        self.clear(y)
    }

    /// What is pulled back, and to where.
    pub(super) fn pull(
        &mut self,
        g: &GpuTensor<R>,
        g_tangent: Option<&GpuTensor<R>>,
        into: &mut Places<'_, GpuTensor<R>>,
    ) -> Result<()> {
        let output = self.sweep.output;
        self.parameters.y.value = self.named(OPERANDS, output, g)?;
        self.parameters.y.tangent = g_tangent.map_or(Ok(0), |g| self.named(OPERANDS, output, g))?;
        for (n, (place, rows)) in into.iter_mut().zip(&self.sweep.inputs).enumerate() {
            let Some(place) = place else { continue };
            self.parameters.x[n].made = self.named(n, *rows, place.to)?;
            self.parameters.x[n].add = i16::from(std::mem::replace(&mut place.add, true));
            let fresh = self.parameters.x[n].add == 0;
            self.share(rows.follow)?;
            if fresh {
                self.clear(place.to)?;
            }
        }
        Ok(())
    }

    /// A sum over no rows is zero.
    fn clear(&self, made: &mut GpuTensor<R>) -> Result<()> {
        if self.sweep.rows == 0 { self.machine.clear(made) } else { Ok(()) }
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

    /// Rows of operands that share nothing are as long as a block has vectors, or one row where that leaves some, where
    /// columns have nothing to do with each other.
    fn join(&mut self) {
        let to = &mut self.parameters;
        let present = self.sweep.inputs.len();
        let all = || to.x[..present].iter().chain([&to.y]);
        let (own, width) = (Shares::from(Follow::OWN), to.y.width);
        let total = to.rows as usize * width as usize;
        let same = all().all(|operand| operand.follow == own && operand.width == width);
        if self.columns == Columns::Apart && same && total <= LARGEST {
            let block = THREADS * self.kind.vectors().length;
            let width = if total > 0 && total.is_multiple_of(block) { block } else { total };
            to.rows = (total / width.max(1)) as i32;
            to.x[..present].iter_mut().chain([&mut to.y]).for_each(|operand| operand.width = width as i32);
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
        let vectors = self.kind.vectors();
        let whole = all().flat_map(Operand::addresses).all(|address| address.is_multiple_of(16));
        let held = [&to.x[0], &to.y].iter().all(|operand| operand.follow == Follow::OWN.into());
        let way = Way::new(self.columns, held, widest, vectors);
        let room = summed.map(|operand| operand.width as usize).sum();
        to.division = Division::new(way, to.rows as usize, self.shared, (widest, vectors), (shared, room));
        to.division.whole = i32::from(whole && widest.is_multiple_of(vectors.length));
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
        let spec = RowKernel { source: self.source, way, rule: self.rule, kind: self.kind };
        let parameters = self.parameters;
        let blocks = parameters.division.blocks();
        // SAFETY: `address` held every tensor against the sweep and the device, all are borrowed while the launch is
        // asked for, and whatever is asked of the device later comes after it; sums of blocks and their counters have the
        // room that `Division::new` kept to, and belong to the machine, which is used in the order of the device's work.
        on_device(unsafe { self.machine.shared.rows.launch(spec, blocks, &parameters) })
    }
}
