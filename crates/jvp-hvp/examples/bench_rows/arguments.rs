//! The command line.

use std::path::PathBuf;

use theria_contract::DType;

use crate::call::ScorePolicy;

pub(crate) const HELP: &str = "\
Measures attention on the CPU and prints a bench file (JSON).

bench_rows [options]
  --shape B,H,T,D    a shape of self-attention; may be repeated
                     [1,8,1024,64  1,8,2048,64  8,12,197,64]
  --rule RULE        may be repeated [forward backward jvp second-order]
                     forward, backward, jvp, second-order (with G'), second-order-constant-g
                     (G' = 0), forward+backward, forward+jvp, and double-backward: forward, jvp,
                     and a second order with G' = 0 that also gives the first-order gradients
  --backend NAME     streaming or dense [streaming]
  --dtype TYPE       f32 or f64 [f32]
  --policy NAME      none, causal, bias, mask or dropout [none]
  --threads N        threads of the pool [all cores]
  --seconds S        time for each row [1]
  --allocate         new memory for the results of each call, as a framework does
  --ceiling          also measure a 2048³ product and a copy
  --samples          list every time measured, in microseconds
  --no-memory        leave the peak of memory out
  --only-memory      print nothing but the peak of memory of one call in this process
  --inputs FILE      read q, k, v, dout, and for higher rules q', k', v', dout': packed, native byte
                     order, one after the other
  --outputs FILE     write the results of the last row in the same form: out, dq, dk, dv up to
                     forward+backward; out' for jvp; dq', dk', dv' for second-order*;
                     out', dq', dk', dv', dq, dk, dv for double-backward

example: bench_rows --shape 1,8,4096,64 --rule backward --threads 1
";

/// What is timed: calls, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    pub(crate) name: &'static str,
    /// Work, as the mathematics counts it.
    pub(crate) units: f64,
    pub(crate) calls: &'static [Call],
    /// What is written of the results.
    pub(crate) results: &'static [Made],
}

/// One call of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Forward,
    Backward,
    Jvp,
    SecondOrder { with_g_tangent: bool, with_first: bool },
}

/// Tensors that a result file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    Output,
    Gradients,
    OutputTangent,
    GradientTangents,
}

const fn second_order(with_g_tangent: bool, with_first: bool) -> Call {
    Call::SecondOrder { with_g_tangent, with_first }
}

const fn rules(
    name: &'static str,
    units: f64,
    calls: &'static [Call],
    results: &'static [Made],
) -> (&'static str, Rules) {
    (name, Rules { name, units, calls, results })
}

impl Rules {
    #[rustfmt::skip]
    const ALL: [(&'static str, Self); 8] = [
        rules("forward", 2.0, &[Call::Forward], &[Made::Output, Made::Gradients]),
        rules("backward", 5.0, &[Call::Backward], &[Made::Output, Made::Gradients]),
        rules("forward+backward", 7.0, &[Call::Forward, Call::Backward], &[Made::Output, Made::Gradients]),
        rules("jvp", 6.0, &[Call::Jvp], &[Made::OutputTangent]),
        // The six units of a JVP include O.
        rules("forward+jvp", 6.0, &[Call::Forward, Call::Jvp], &[Made::OutputTangent]),
        rules("second-order", 12.0, &[second_order(true, false)], &[Made::GradientTangents]),
        rules("second-order-constant-g", 10.0, &[second_order(false, false)], &[Made::GradientTangents]),
        // Six for O and O′, ten, and three products more for dQ, dK and dV.
        rules("double-backward", 19.0, &[Call::Forward, Call::Jvp, second_order(false, true)],
              &[Made::OutputTangent, Made::GradientTangents, Made::Gradients]),
    ];

    fn named(name: &str) -> Result<Self, String> {
        Ok(one_of(name, &Self::ALL)?.1)
    }

    /// Whether a direction is read.
    pub(crate) fn directed(self) -> bool {
        self.calls.iter().any(|call| matches!(call, Call::Jvp | Call::SecondOrder { .. }))
    }
}

pub(crate) const BACKENDS: [(&str, Backend); 2] =
    [("streaming", Backend::Streaming), ("dense", Backend::Dense)];

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Streaming,
    Dense,
}

/// Whether the peak of memory is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// By another process, beside the times.
    Beside,
    /// In this process, and nothing else.
    Only,
    LeftOut,
}

#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    pub(crate) shapes: Vec<[usize; 4]>,
    pub(crate) rules: Vec<Rules>,
    pub(crate) backend: Backend,
    pub(crate) dtype: DType,
    pub(crate) policy: (&'static str, ScorePolicy),
    pub(crate) threads: usize,
    pub(crate) seconds: f64,
    pub(crate) allocate: bool,
    pub(crate) ceiling: bool,
    pub(crate) samples: bool,
    pub(crate) memory: Memory,
    pub(crate) inputs: Option<PathBuf>,
    pub(crate) outputs: Option<PathBuf>,
}

impl Arguments {
    /// `None` when help was asked for.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self {
            shapes: Vec::new(),
            rules: Vec::new(),
            backend: Backend::Streaming,
            dtype: DType::F32,
            policy: ScorePolicy::NAMES[0],
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            seconds: 1.0,
            allocate: false,
            ceiling: false,
            samples: false,
            memory: Memory::Beside,
            inputs: None,
            outputs: None,
        };
        while let Some(option) = given.next() {
            let mut value = || given.next().ok_or(format!("{option} needs a value"));
            match option.as_str() {
                "--help" | "-h" => return Ok(None),
                "--shape" => parsed.shapes.push(shape(&value()?)?),
                "--rule" => {
                    parsed.rules.push(Rules::named(&value()?)?);
                }
                "--backend" => parsed.backend = one_of(&value()?, &BACKENDS)?.1,
                "--dtype" => parsed.dtype = one_of(&value()?, &[("f32", DType::F32), ("f64", DType::F64)])?.1,
                "--policy" => parsed.policy = one_of(&value()?, &ScorePolicy::NAMES)?,
                "--threads" => parsed.threads = number(&option, &value()?)?,
                "--seconds" => parsed.seconds = number(&option, &value()?)?,
                "--allocate" => parsed.allocate = true,
                "--ceiling" => parsed.ceiling = true,
                "--samples" => parsed.samples = true,
                "--no-memory" => parsed.memory = Memory::LeftOut,
                "--only-memory" => parsed.memory = Memory::Only,
                "--inputs" => parsed.inputs = Some(value()?.into()),
                "--outputs" => parsed.outputs = Some(value()?.into()),
                _ => return Err(format!("unknown option {option}; --help lists them")),
            }
        }
        if parsed.shapes.is_empty() {
            parsed.shapes = vec![[1, 8, 1024, 64], [1, 8, 2048, 64], [8, 12, 197, 64]];
        }
        if parsed.rules.is_empty() {
            for name in ["forward", "backward", "jvp", "second-order"] {
                parsed.rules.push(Rules::named(name)?);
            }
        }
        Ok(Some(parsed))
    }
}

fn shape(given: &str) -> Result<[usize; 4], String> {
    let lengths: Result<Vec<usize>, _> = given.split(',').map(str::parse).collect();
    lengths
        .ok()
        .and_then(|lengths| lengths.try_into().ok())
        .ok_or(format!("--shape {given}: four lengths B,H,T,D are needed, as in 1,8,1024,64"))
}

fn number<N: std::str::FromStr>(option: &str, given: &str) -> Result<N, String> {
    given.parse().map_err(|_| format!("{option} {given}: not a number that fits"))
}

fn one_of<T: Copy>(given: &str, allowed: &[(&'static str, T)]) -> Result<(&'static str, T), String> {
    allowed.iter().copied().find(|(name, _)| *name == given).ok_or_else(|| {
        let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
        format!("unknown value {given}; allowed: {}", names.join(", "))
    })
}
