//! Measuring choices on the device at hand.

use std::time::Duration;

use theria_contract::{Element, Inputs, Layout, Problem, Saved, SavedTensor, Storage, Tensor};
use theria_contract::{philox4x32_10, saved_mut};

use super::choice::{shipped, tiling};
use super::{Choice, CudaFused, Load, Masking, Occasion, Tiling};
use crate::{Architecture, Cuda, Result, Spec as _};

/// What was found for one problem.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// What the problem is to the table.
    pub occasion: Occasion,
    /// The choice that is shipped, and its time.
    pub shipped: (Choice, Duration),
    /// The fastest choice, and its time.
    pub best: (Choice, Duration),
    /// Choices that were measured.
    pub measured: usize,
    /// Choices that were passed over: their registers did not hold what they need, or they could not be
    /// compiled or launched here.
    pub unfit: usize,
    /// Choices that were passed over because their result was another one.
    pub wrong: usize,
}

/// Tilings worth a try. What does not fit the device or spills is passed over later.
fn candidates(occasion: Occasion, architecture: Architecture) -> Vec<Choice> {
    let mut tilings: Vec<Tiling> = Vec::new();
    let few = occasion.load == Load::Few;
    let key_groups: &[u32] = if few { &[1, 2, 4] } else { &[1] };
    for (row_tiles, row_warps) in [(2, 4), (1, 4), (1, 8), (2, 2)] {
        for (keys, step) in [(64, 64), (32, 32), (64, 32), (48, 48), (128, 64), (32, 16), (16, 16)] {
            for &key_groups in key_groups {
                for stages in [1, 2, 3, 4] {
                    for q_in_registers in [true, false] {
                        for blocks in 1..=4 {
                            let numbers = [row_tiles, row_warps, key_groups, keys, step, stages];
                            tilings.push(tiling(numbers, q_in_registers, blocks));
                        }
                    }
                }
            }
        }
    }
    let sections: &[u32] = if occasion.masking == Masking::Intervals { &[1, 4, 16, 64] } else { &[1] };
    let choices = tilings
        .into_iter()
        .flat_map(|tiling| sections.iter().map(move |&section| Choice { tiling, section }));
    choices
        .filter(|choice| choice.fits(occasion, architecture) && plausible(occasion, choice.tiling))
        .collect()
}

/// Whether the registers of a multiprocessor could hold the sums, scores and queries of as many blocks.
fn plausible(occasion: Occasion, tiling: Tiling) -> bool {
    let sums = tiling.row_tiles * (occasion.room + tiling.step) / 2;
    let queries = if tiling.q_in_registers {
        tiling.row_tiles * occasion.room * occasion.products.element() / 8
    } else {
        0
    };
    let needed = sums + queries + 40;
    let given = (65_536 / (tiling.threads() * tiling.blocks)).min(255);
    needed <= given
        && (tiling.blocks == 1 || needed * 4 > given)
        && (tiling.key_groups == 1 || tiling.threads() <= 512)
}

impl CudaFused {
    /// Measures choices for a problem, on operands of its own, and takes the fastest into its table. `progress`
    /// is told how many of how many were tried.
    pub fn tune<E: Element>(
        &mut self,
        problem: &Problem,
        mut progress: impl FnMut(usize, usize),
    ) -> theria_contract::Result<Tuned> {
        self.require_forward::<E>(problem)?;
        let Some(occasion) = self.occasion(problem, true) else { unreachable!("a problem that is served") };
        let operands = Operands::<E>::new(&self.cuda, problem)?;
        let architecture = self.cuda.device().architecture();
        let default = shipped(occasion, architecture);
        let all = candidates(occasion, architecture);
        // That takes longer than to measure them.
        let kernels: Vec<_> = all.iter().map(|choice| choice.instance(occasion).kernel()).collect();
        self.cuda.device().compile_all(&kernels);

        let mut made = outputs::<E>(&self.cuda, problem)?;
        let time = self.time(problem, &operands, &mut made, occasion, default)?.unwrap_or(Duration::MAX);
        let wanted = self.cuda.download(Cuda::view(&made.output))?;
        let wanted_lse = self.cuda.download(Cuda::view(&made.lse))?;
        let mut tuned = Tuned {
            occasion,
            shipped: (default, time),
            best: (default, time),
            measured: 1,
            unfit: 0,
            wrong: 0,
        };
        for (tried, choice) in all.iter().enumerate() {
            progress(tried, all.len());
            if *choice == default {
                continue;
            }
            let mut made = outputs::<E>(&self.cuda, problem)?;
            match self.time(problem, &operands, &mut made, occasion, *choice) {
                Err(error) => {
                    tracing::warn!(%error, ?choice, "a choice is passed over");
                    tuned.unfit += 1;
                }
                Ok(None) => tuned.unfit += 1,
                Ok(Some(time)) => {
                    tuned.measured += 1;
                    let same = near(&wanted, &self.cuda.download(Cuda::view(&made.output))?)
                        && near(&wanted_lse, &self.cuda.download(Cuda::view(&made.lse))?);
                    if !same {
                        tuned.wrong += 1;
                    } else if time < tuned.best.1 {
                        tuned.best = (*choice, time);
                    }
                }
            }
        }
        progress(all.len(), all.len());
        // Clocks have moved since the first measurement: the two that matter are measured again, in turns.
        for choice in [&mut tuned.shipped, &mut tuned.best] {
            choice.1 = Duration::MAX;
        }
        for _ in 0..3 {
            for (choice, best) in [&mut tuned.shipped, &mut tuned.best] {
                let time = self.time(problem, &operands, &mut made, occasion, *choice)?;
                *best = (*best).min(time.unwrap_or(Duration::MAX));
            }
        }
        // What is within the noise of the shipped choice is no reason to leave it.
        if tuned.best.1.as_secs_f64() > 0.98 * tuned.shipped.1.as_secs_f64() {
            tuned.best = tuned.shipped;
        }
        self.table.insert(occasion, tuned.best.0);
        Ok(tuned)
    }

    fn require_forward<E: Element>(&self, problem: &Problem) -> theria_contract::Result<()> {
        theria_contract::Attention::<E>::require(self, problem, theria_contract::Rule::Forward)
    }

    /// The median time of a choice, the device kept busy in between; `None` if its kernel spills.
    fn time<E: Element>(
        &self,
        problem: &Problem,
        operands: &Operands<E>,
        outputs: &mut SavedTensor<Cuda, E>,
        occasion: Occasion,
        choice: Choice,
    ) -> Result<Option<Duration>> {
        if self.kernels.spills(choice.instance(occasion))? {
            return Ok(None);
        }
        let inputs = operands.inputs();
        let mut call = |_| {
            let saved = saved_mut::<Cuda, E>(outputs);
            self.launch(problem, &inputs, &saved, occasion, choice)
        };
        let device = self.cuda.device();
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let first = median(device.time_calls(3, &mut call)??);
        // Ten milliseconds of each: enough for a median, and for the list.
        let runs = (Duration::from_millis(10).as_nanos() / first.as_nanos().max(1)).clamp(3, 40) as usize;
        let times = device.time_replays(5, runs, &mut call)??;
        Ok(Some(median(times)))
    }
}

/// Queries, keys and values that were drawn for a measurement.
struct Operands<E: Element> {
    q: <Cuda as Storage>::Tensor<E>,
    k: <Cuda as Storage>::Tensor<E>,
    v: <Cuda as Storage>::Tensor<E>,
    bias: Option<<Cuda as Storage>::Tensor<E>>,
    mask: Option<<Cuda as Storage>::Tensor<u8>>,
    lengths: Option<<Cuda as Storage>::Tensor<i32>>,
}

impl<E: Element> Operands<E> {
    fn new(cuda: &Cuda, problem: &Problem) -> theria_contract::Result<Self> {
        let shape = problem.shape();
        let draw = |tag: u32, shape: [usize; 4]| {
            let element = |[b, h, i, c]: [usize; 4]| {
                let words = philox4x32_10([c as u32, i as u32, h as u32, b as u32], [tag, 0]);
                let sum: f64 = words.into_iter().map(|word| f64::from(word) / 4_294_967_296.0 - 0.5).sum();
                E::from_f64(sum * 1.75)
            };
            cuda.upload(&Tensor::from_fn(shape, element)?)
        };
        let ones = |shape: [usize; 4]| cuda.upload(&Tensor::from_fn(shape, |_| 1_u8)?);
        let lengths = |shape: [usize; 4]| cuda.upload(&Tensor::from_fn(shape, |_| problem.shape().m as i32)?);
        Ok(Self {
            q: draw(1, shape.q())?,
            k: draw(2, shape.k())?,
            v: draw(3, shape.v())?,
            bias: problem.bias().map(|shape| draw(4, shape)).transpose()?,
            mask: problem.mask().map(ones).transpose()?,
            lengths: problem.key_lengths().then(|| lengths(shape.key_lengths())).transpose()?,
        })
    }

    fn inputs(&self) -> Inputs<'_, Cuda, E> {
        Inputs {
            bias: self.bias.as_ref().map(Cuda::view),
            mask: self.mask.as_ref().map(Cuda::view),
            key_lengths: self.lengths.as_ref().map(Cuda::view),
            ..Inputs::new(Cuda::view(&self.q), Cuda::view(&self.k), Cuda::view(&self.v))
        }
    }
}

/// Memory for O and lse, zero: a kernel that writes nothing has another result.
fn outputs<E: Element>(cuda: &Cuda, problem: &Problem) -> theria_contract::Result<SavedTensor<Cuda, E>> {
    let shape = problem.shape();
    Ok(Saved {
        output: cuda.allocate(Layout::contiguous(shape.output())?)?,
        lse: cuda.allocate(Layout::contiguous(shape.rows())?)?,
    })
}

/// Whether two results differ by rounding alone.
fn near<E: Element>(a: &Tensor<E>, b: &Tensor<E>) -> bool {
    let (mut size, mut error) = (0.0_f64, 0.0_f64);
    for (a, b) in a.data().iter().zip(b.data()) {
        let (a, b) = (a.to_f64(), b.to_f64());
        size += a * a;
        error += (a - b) * (a - b);
    }
    // False for NaN. Two roundings of bf16 are 2^-8 of an element apart at most.
    error.sqrt() <= 5e-3 * size.sqrt()
}
