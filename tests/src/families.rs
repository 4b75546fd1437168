//! Both families of `cuda-fused`: the kernels for Hopper, and the portable ones.

use theria_contract::conformance::{Amplitude, Case, Suite};
use theria_contract::{
    Attention, Causal, Cotangent, DType, Directions, Element, Host, Inputs, Layout, Precision, Primal,
    Problem, ProblemBuilder, Qkv, Rule, Storage, Tangent, Tensor, Window, bound,
};
use theria_gpu_fwd::Cuda;

use crate::device::{conform, short};
use crate::evidence::Row;
use crate::on_device::{named, sized};

/// Everything that kernels for Hopper serve, at these head dimensions: lengths around the sizes of tiles, masks,
/// groups, and enough heads to fill the device.
pub fn what_hopper_serves<E, B, O>(backend: &B, oracle: &O, widths: &[usize]) -> Vec<Row>
where
    E: Element,
    B: Attention<E>,
    O: Attention<f64, Storage = Host>,
{
    let widths = if short() { &widths[..1] } else { widths };
    let cases = widths.iter().flat_map(|width| cases(*width)).collect();
    conform::<E, _, _>(&Suite { cases, precision: None }, backend, oracle)
}

fn cases(width: usize) -> Vec<Case> {
    let sized = |batch, heads, t, m| sized(batch, heads, t, m, width, width);
    let case = |what: &str, builder: ProblemBuilder| named(format!("{what}, D {width}"), builder);
    let rising = |what: &str, builder| Case { amplitude: Amplitude::Rising, ..case(what, builder) };
    let falling = |what: &str, builder| Case { amplitude: Amplitude::Falling, ..case(what, builder) };
    let with_lengths = |what: &str, builder: ProblemBuilder, lengths| Case {
        key_lengths: lengths,
        ..case(what, builder.key_lengths())
    };
    let long = || sized(2, [4, 2], 300, 530);
    let few = || sized(3, [4, 2], 300, 250);
    let window = |left, right| Window { left, right };
    let mut cases = vec![
        case("groups of two", long()),
        case("causal from the first key", long().causal(Causal::TopLeft)),
        case("causal to the last key", long().causal(Causal::BottomRight)),
        case(
            "more queries than keys, causal to the last key",
            sized(1, [2, 2], 530, 300).causal(Causal::BottomRight),
        ),
        case("a window", long().window(window(Some(70), Some(33)))),
        case("a window to the left, causal", long().causal(Causal::TopLeft).window(window(Some(129), None))),
        case("a window to the right", long().window(window(None, Some(200)))),
        case("a window of one key", long().window(window(Some(0), Some(0)))),
        with_lengths("lengths", long(), vec![530, 131]),
        with_lengths("lengths of nothing and of one", long(), vec![0, 1]),
        with_lengths("lengths, causal", long().causal(Causal::BottomRight), vec![257, 400]),
        with_lengths("lengths and a window", long().window(window(Some(40), Some(40))), vec![64, 530]),
        rising("rising", long().scale(1.0)),
        rising("rising, causal", long().causal(Causal::TopLeft).scale(1.0)),
        rising("rising beyond what f32 holds", sized(1, [2, 1], 140, 700).scale(16.0)),
        falling("falling", long().scale(1.0)),
        falling("falling, causal", long().causal(Causal::BottomRight).scale(1.0)),
        falling("falling beyond what f32 holds", sized(1, [2, 1], 140, 700).scale(16.0)),
        falling("many heads, falling", sized(2, [66, 66], 270, 290).scale(1.0)),
        falling("many heads of 200 rows, falling", sized(2, [66, 66], 200, 290).scale(1.0)),
        case("one head of keys for eight", sized(1, [8, 1], 140, 260)),
        case("many heads", sized(2, [66, 66], 270, 140)),
        case("many heads, causal", sized(2, [66, 66], 270, 140).causal(Causal::TopLeft)),
        case("many heads of 200 rows", sized(2, [66, 66], 200, 300)),
        case("many heads of 200 rows, causal", sized(2, [66, 66], 200, 140).causal(Causal::BottomRight)),
        case("many heads of 100 rows", sized(2, [66, 66], 100, 140)),
        case("many tiles of keys", sized(1, [1, 1], 70, 20_000)),
        case("many heads of 197 rows and keys", sized(2, [66, 66], 197, 197)),
        with_lengths("many heads of 230 rows, lengths", sized(3, [66, 22], 230, 340), vec![65, 336, 48]),
        case("few keys, many queries", sized(1, [4, 2], 530, 200)),
        case("few keys, a window", few().window(window(Some(70), Some(33)))),
        with_lengths("few keys, lengths", few(), vec![250, 0, 137]),
        with_lengths("few keys, lengths, causal", few().causal(Causal::BottomRight), vec![250, 1, 128]),
        falling("few keys, many heads, falling", sized(2, [99, 99], 200, 250).scale(1.0)),
        rising(
            "few keys, many heads, rising",
            sized(2, [99, 99], 250, 200).causal(Causal::TopLeft).scale(1.0),
        ),
    ];
    let around = [
        (1, 1),
        (1, 300),
        (300, 1),
        (63, 65),
        (64, 64),
        (65, 63),
        (127, 129),
        (128, 128),
        (129, 127),
        (257, 255),
    ];
    for (t, m) in around {
        cases.push(case(&format!("{t}×{m}"), sized(1, [2, 1], t, m)));
        cases.push(case(&format!("{t}×{m}, causal"), sized(1, [2, 1], t, m).causal(Causal::BottomRight)));
    }
    cases
}

type There<E> = <Cuda as Storage>::Tensor<E>;

/// Operands of a problem.
struct Operands<E: Element> {
    given: [There<E>; 3],
    directions: [There<E>; 3],
    cotangents: [There<E>; 2],
}

/// How operands lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lies {
    /// With nothing between their elements.
    Packed,
    /// Rows of Q begin on eight bytes and not on sixteen.
    OnEightBytes,
    /// All heads of K are one.
    Repeated,
}

fn drawn<E: Element>(cuda: &Cuda, layout: Layout, tag: usize) -> There<E> {
    // A generator of its own for every tensor: neighbours are not alike.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(tag as u64 + 1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        E::from_f64((state >> 40) as f64 / f64::from(1 << 23) - 1.0)
    };
    let data = (0..layout.span()).map(|_| next()).collect();
    cuda.upload(&Tensor::from_parts(data, layout).expect("a tensor")).expect("memory")
}

impl<E: Element> Operands<E> {
    fn new(cuda: &Cuda, problem: &Problem, lies: Lies) -> Self {
        let shape = problem.shape();
        let packed = |shape| Layout::contiguous(shape).expect("a layout");
        let strided = |shape, strides| Layout::strided(shape, strides).expect("a layout");
        let [_, heads, t, d] = shape.q();
        let row = d + 4;
        let q = match lies {
            Lies::OnEightBytes => strided(shape.q(), [heads * t * row, t * row, row, 1]),
            _ => packed(shape.q()),
        };
        let k = match lies {
            Lies::Repeated => strided(shape.k(), [shape.m * d, 0, d, 1]),
            _ => packed(shape.k()),
        };
        let [v, out] = [packed(shape.v()), packed(shape.output())];
        Self {
            given: [drawn(cuda, q, 0), drawn(cuda, k, 1), drawn(cuda, v, 2)],
            directions: [
                drawn(cuda, packed(shape.q()), 3),
                drawn(cuda, packed(shape.k()), 4),
                drawn(cuda, v, 5),
            ],
            cotangents: [drawn(cuda, out, 6), drawn(cuda, out, 7)],
        }
    }
}

/// Everything that a rule makes.
struct Made {
    rule: Rule,
    bytes: Vec<u8>,
    numbers: Vec<f64>,
}

impl Made {
    fn of<'t, E: Element>(cuda: &Cuda, rule: Rule, tensors: impl IntoIterator<Item = &'t There<E>>) -> Self {
        let mut made = Self { rule, bytes: Vec::new(), numbers: Vec::new() };
        for tensor in tensors {
            let here = cuda.download(Cuda::view(tensor)).expect("memory");
            made.bytes.extend_from_slice(here.bytes());
            made.numbers.extend(here.data().iter().map(|x| x.to_f64()));
        }
        made
    }

    /// The largest difference, over the root mean square and the number itself: under a causal mask a few numbers are
    /// many times the others, and are rounded as such.
    fn differs_from(&self, other: &Self) -> f64 {
        assert_eq!(self.numbers.len(), other.numbers.len());
        let square: f64 = other.numbers.iter().map(|x| x * x).sum();
        let rms = (square / other.numbers.len() as f64).sqrt();
        let differences =
            self.numbers.iter().zip(&other.numbers).map(|(x, y)| (x - y).abs() / (rms + y.abs()));
        differences.fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most })
    }
}

/// Every rule that a backend has.
fn made<E, B>(cuda: &Cuda, backend: &B, problem: &Problem, lies: Lies) -> Vec<Made>
where
    E: Element,
    B: Attention<E, Storage = Cuda>,
{
    let operands = Operands::<E>::new(cuda, problem, lies);
    let [q, k, v] = operands.given.each_ref().map(Cuda::view);
    let inputs = Inputs::<Cuda, E>::new(q, k, v);
    let [q, k, v] = operands.directions.each_ref().map(|tensor| Some(Cuda::view(tensor)));
    let along = || Tangent(Directions { q, k, v, bias: None });
    let [g, g_tangent] = operands.cotangents.each_ref().map(Cuda::view);
    let saved = backend.forward(problem, Primal(&inputs)).expect("a call");
    let mut all = vec![Made::of::<E>(cuda, Rule::Forward, [&saved.0.output])];
    if !Attention::<E>::support(backend, problem, Rule::SecondOrder).is_exact() {
        return all;
    }
    let gradients = backend.backward(problem, Primal(&inputs), saved.as_ref(), Cotangent(g)).expect("a call");
    let tangent = backend.jvp(problem, Primal(&inputs), saved.as_ref(), along()).expect("a call");
    let second = backend
        .second_order(
            problem,
            Primal(&inputs),
            saved.as_ref(),
            along(),
            tangent.as_ref(),
            Cotangent(g),
            Some(Tangent(Cotangent(g_tangent))),
            false,
        )
        .expect("a call");
    let each = |made: &Qkv<There<E>>, rule| Made::of::<E>(cuda, rule, [&made.q, &made.k, &made.v]);
    all.push(each(&gradients.0, Rule::Backward));
    all.push(Made::of::<E>(cuda, Rule::Jvp, [&tangent.0.output]));
    all.push(each(&second.tangent.0.0, Rule::SecondOrder));
    all
}

/// Both families on one problem: their results are not further from each other than each may be from the truth, and
/// they are not the same bits. Of tensors that the copy engine does not know they are, for then the portable kernels
/// serve both.
///
/// # Panics
/// If a problem cannot be made or called.
pub fn alike<E, B>(cuda: &Cuda, both: &B, portable: &B, precision: Precision) -> Vec<Row>
where
    E: Element,
    B: Attention<E, Storage = Cuda>,
{
    let problem = sized(2, [4, 2], 333, 290, 64, 64).causal(Causal::BottomRight).build().expect("a problem");
    let problem = problem.with_dtype(E::DTYPE);
    let mut rows = Vec::new();
    for lies in [Lies::Packed, Lies::OnEightBytes, Lies::Repeated] {
        let [ours, theirs] = [both, portable].map(|backend| made::<E, _>(cuda, backend, &problem, lies));
        for (one, other) in ours.iter().zip(&theirs) {
            let (rule, same) = (one.rule.name(), one.bytes == other.bytes);
            let mut row = |what: &str, holds| {
                let name = format!("{lies:?}: {what}");
                rows.push(Row::statement(name, rule, both.name(), E::DTYPE.name(), holds, ""));
            };
            if lies == Lies::Packed {
                row("the families have bits of their own", !same);
                let (error, bound) = (one.differs_from(other), 2.0 * bound(precision, one.rule));
                let name = "Packed: the families are alike";
                rows.push(Row::measured(name, rule, both.name(), E::DTYPE.name(), error, bound));
            } else {
                row("the portable kernels serve", same);
            }
        }
    }
    rows
}

/// Whether kernels of this family serve problems of these head dimensions, by the names of the kernels.
///
/// # Panics
/// If a problem cannot be made.
pub fn serves(kernels: impl Fn(&Problem) -> Vec<String>, widths: &[usize], backend: &str) -> Vec<Row> {
    let row = |width: usize| {
        let problem = sized(2, [4, 2], 333, 290, width, width).build().expect("a problem");
        let names = kernels(&problem.with_dtype(DType::Bf16));
        let holds = !names.is_empty() && names.iter().all(|name| name.starts_with("hopper"));
        let name = format!("kernels for Hopper serve D {width}");
        Row::statement(name, "forward", backend, "bf16", holds, names.join(", "))
    };
    widths.iter().map(|width| row(*width)).collect()
}
