//! The data of a case, made from its name: the same bits on every platform.

use super::{Amplitude, Case, MaskPattern, Memory};
use crate::judge::Magnitudes;
use crate::{DType, Element, Layout, Problem, Qkv, Result, Scalar, Tensor, TensorView, judge, philox4x32_10};

/// Every operand of a case on the host.
#[derive(Clone, Debug)]
pub struct CaseData<E> {
    /// The problem, in this element type.
    pub problem: Problem,
    /// Q, K, V and bias.
    pub primal: Qkv<Tensor<E>>,
    /// The boolean mask.
    pub mask: Option<Tensor<u8>>,
    /// The key lengths.
    pub key_lengths: Option<Tensor<i32>>,
    /// G.
    pub cotangent: Tensor<E>,
    /// Q′, K′, V′ and bias′.
    pub tangents: Qkv<Tensor<E>>,
    /// G′.
    pub cotangent_tangent: Tensor<E>,
    /// How every tensor lies in memory.
    pub memory: Memory,
}

impl<E: Element> CaseData<E> {
    /// Makes the data of a case in element type `E`.
    pub fn of(case: &Case) -> Result<Self> {
        let problem = case.problem.with_dtype(E::DTYPE);
        let shape = problem.shape();
        let maker = Maker { case, stream: name_hash(case.name) };
        let floats = |tag, shape, amplitude| maker.floats::<E>(tag, shape, amplitude);
        let mut primal = Qkv {
            q: floats(1, shape.q(), case.amplitude)?,
            k: floats(KEYS, shape.k(), case.amplitude)?,
            v: floats(3, shape.v(), Amplitude::Unit)?,
            bias: problem.bias().map(|shape| floats(4, shape, Amplitude::Moderate)).transpose()?,
        };
        if let Some(bias) = &mut primal.bias {
            maker.hide(bias);
        }
        if problem.key_lengths() {
            // Padding that nobody may read.
            for operand in [&mut primal.k, &mut primal.v] {
                poison_beyond(operand, &case.key_lengths);
            }
        }
        Ok(Self {
            primal,
            mask: problem.mask().map(|shape| maker.mask(shape)).transpose()?,
            key_lengths: problem
                .key_lengths()
                .then(|| Tensor::from_vec(case.key_lengths.clone(), shape.key_lengths()))
                .transpose()?,
            cotangent: floats(5, shape.output(), Amplitude::Unit)?,
            tangents: Qkv {
                q: floats(6, shape.q(), Amplitude::Unit)?,
                k: floats(7, shape.k(), Amplitude::Unit)?,
                v: floats(8, shape.v(), Amplitude::Unit)?,
                bias: problem.bias().map(|shape| floats(9, shape, Amplitude::Unit)).transpose()?,
            },
            cotangent_tangent: floats(10, shape.output(), Amplitude::Unit)?,
            memory: case.memory,
            problem,
        })
    }

    /// The same values, exactly, in binary64 and packed: what the oracle is given.
    pub fn widen(&self) -> CaseData<f64> {
        CaseData {
            problem: self.problem.with_dtype(f64::DTYPE),
            primal: self.primal.as_ref().map(Tensor::cast),
            mask: self.mask.clone(),
            key_lengths: self.key_lengths.clone(),
            cotangent: self.cotangent.cast(),
            tangents: self.tangents.as_ref().map(Tensor::cast),
            cotangent_tangent: self.cotangent_tangent.cast(),
            memory: Memory::Contiguous,
        }
    }

    /// Root mean squares of the operands.
    pub fn magnitudes(&self) -> Magnitudes {
        let rms = |tensor: &Tensor<E>| judge::rms(tensor.view());
        Magnitudes {
            q: rms(&self.primal.q),
            k: rms(&self.primal.k),
            v: rms(&self.primal.v),
            dout: rms(&self.cotangent),
            q_tangent: rms(&self.tangents.q),
            k_tangent: rms(&self.tangents.k),
            v_tangent: rms(&self.tangents.v),
            bias_tangent: self.tangents.bias.as_ref().map_or(0.0, rms),
            dout_tangent: rms(&self.cotangent_tangent),
            ..Magnitudes::default()
        }
    }
}

/// A layout of this shape in this memory.
pub(super) fn layout(memory: Memory, shape: [usize; 4]) -> Result<Layout> {
    match memory {
        Memory::Contiguous => Layout::contiguous(shape),
        Memory::HeadsInside => Layout::heads_inside(shape),
        Memory::Padded => {
            let row = shape[3] + 3;
            let head = shape[2] * row + 5;
            Layout::strided(shape, [shape[1] * head + 7, head, row, 1])
        }
    }
}

/// A tensor laid out in this memory, NaN between the elements.
pub(super) fn lay_out<T: Scalar>(packed: TensorView<'_, T>, memory: Memory, between: T) -> Result<Tensor<T>> {
    let layout = layout(memory, packed.shape())?;
    let mut tensor = Tensor::from_parts(vec![between; layout.span()], layout)?;
    tensor.view_mut().copy_from(packed)?;
    Ok(tensor)
}

/// The tag of the keys.
const KEYS: u32 = 2;

struct Maker<'a> {
    case: &'a Case,
    stream: u64,
}

impl Maker<'_> {
    fn floats<E: Element>(&self, tag: u32, shape: [usize; 4], amplitude: Amplitude) -> Result<Tensor<E>> {
        let packed = Tensor::from_fn(shape, |index| {
            let words = self.words(tag, index);
            E::from_f64(match amplitude {
                Amplitude::Unit => variate(words),
                Amplitude::Moderate => variate(words) / 2.0,
                Amplitude::Rising if tag == KEYS => grid(words) * eighth(index[2], shape[2]),
                Amplitude::Falling if tag == KEYS => grid(words) * eighth(shape[2] - 1 - index[2], shape[2]),
                Amplitude::Grid | Amplitude::Rising | Amplitude::Falling => grid(words),
                Amplitude::Tiny => variate(words) / 64.0,
            })
        })?;
        lay_out(packed.view(), self.case.memory, E::from_f64(f64::NAN))
    }

    fn mask(&self, shape: [usize; 4]) -> Result<Tensor<u8>> {
        let packed = Tensor::from_fn(shape, |index| {
            let word = self.words(11, index)[0];
            let empty = match self.case.mask {
                MaskPattern::Random => false,
                MaskPattern::SomeRowsEmpty => index[2].is_multiple_of(3),
                MaskPattern::AllHidden => true,
            };
            // Any nonzero byte means visible.
            if empty || word.is_multiple_of(4) { 0 } else { (word % 255 + 1) as u8 }
        })?;
        lay_out(packed.view(), self.case.memory, 1)
    }

    fn hide<E: Element>(&self, bias: &mut Tensor<E>) {
        let packed = bias.view().to_tensor();
        let hidden = Tensor::from_fn(packed.shape(), |index| {
            let hide = self.words(12, index)[0] % 256 < self.case.hidden_by_bias;
            if index[3] < self.case.lowest_keys {
                E::from_f64(lowest(E::DTYPE))
            } else if hide {
                E::from_f64(f64::NEG_INFINITY)
            } else {
                packed.at(index)
            }
        })
        .expect("the shape of a tensor that exists");
        bias.view_mut().copy_from(hidden.view()).expect("the same shape");
    }

    /// Four random words for one element of one tensor of one case.
    fn words(&self, tag: u32, [b, h, i, c]: [usize; 4]) -> [u32; 4] {
        let key = [self.stream as u32 ^ tag, (self.stream >> 32) as u32];
        philox4x32_10([c as u32, i as u32, h as u32, b as u32], key)
    }
}

/// The most negative finite number.
fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MIN,
        DType::F32 => f64::from(f32::MIN),
        DType::F16 => f64::from(half::f16::MIN),
        DType::Bf16 => f64::from(half::bf16::MIN),
    }
}

/// A multiple of 1/4 up to 2 in size.
fn grid(words: [u32; 4]) -> f64 {
    f64::from(words[0] % 17) / 4.0 - 2.0
}

/// A power of two up to 1, twice as large from eighth to eighth of so many.
fn eighth(index: usize, of: usize) -> f64 {
    f64::from(1 << (index * 8 / of)) / 128.0
}

/// Mean 0 and variance 1 from four uniform words: exact arithmetic, so the same everywhere.
fn variate(words: [u32; 4]) -> f64 {
    let sum: f64 = words.into_iter().map(|word| f64::from(word) / 4_294_967_296.0 - 0.5).sum();
    // Four uniform variates have variance 1/3. The factor need not be exact, only the same.
    sum * 1.732_050_807_568_877_2
}

/// Fills what lies beyond the key lengths with NaN.
pub(super) fn poison_beyond<E: Element>(operand: &mut Tensor<E>, lengths: &[i32]) {
    let [batch, heads, keys, _] = operand.shape();
    let mut view = operand.view_mut();
    for (b, length) in lengths.iter().enumerate().take(batch) {
        for h in 0..heads {
            for j in *length as usize..keys {
                view.row_mut(b, h, j).fill(E::from_f64(f64::NAN));
            }
        }
    }
}

/// FNV-1a: a stream of its own for every case name.
fn name_hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
