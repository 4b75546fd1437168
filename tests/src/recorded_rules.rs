//! All four rules, called twice and recorded: every time the same bits.

use theria_contract::{
    Attention, Causal, Cotangent, DType, Directions, Element, Inputs, Primal, Problem, Qkv, Rule,
    SavedTensor, SecondOrder, Storage, Tangent, Tensor, saved_mut, saved_view,
};
use theria_gpu_fwd::Cuda;

use crate::evidence::Row;
use crate::on_device::{bytes, poisoned};

type Of<E> = <Cuda as Storage>::Tensor<E>;

fn tensor<E: Element>(cuda: &Cuda, shape: [usize; 4], tag: usize) -> Of<E> {
    let element = |[b, h, i, c]: [usize; 4]| {
        E::from_f64(((b * 31 + h * 17 + i * 7 + c * 3 + i * c % 5 + tag * 5) % 23) as f64 / 11.0 - 1.0)
    };
    cuda.upload(&Tensor::from_fn(shape, element).expect("a tensor")).expect("memory")
}

fn poison<E: Element>(cuda: &Cuda, shape: [usize; 4]) -> Of<E> {
    cuda.upload(&Tensor::from_fn(shape, |_| E::from_f64(f64::NAN)).expect("a tensor")).expect("memory")
}

/// Everything that the rules make, NaN until they do.
struct Made<E: Element> {
    saved: SavedTensor<Cuda, E>,
    tangent: SavedTensor<Cuda, E>,
    backward: Qkv<Of<E>>,
    second: Qkv<Of<E>>,
    first: Qkv<Of<E>>,
}

impl<E: Element> Made<E> {
    fn new(cuda: &Cuda, backend: &impl Attention<E, Storage = Cuda>, problem: &Problem) -> Self {
        let shape = problem.shape();
        let gradients = || Qkv {
            q: poison(cuda, shape.q()),
            k: poison(cuda, shape.k()),
            v: poison(cuda, shape.v()),
            bias: problem.bias().map(|shape| poison(cuda, shape)),
        };
        Self {
            saved: poisoned(cuda, backend, problem),
            tangent: poisoned(cuda, backend, problem),
            backward: gradients(),
            second: gradients(),
            first: gradients(),
        }
    }

    fn bytes(&self, cuda: &Cuda) -> Vec<u8> {
        let mut all = bytes::<E>(cuda, &self.saved);
        all.extend(bytes::<E>(cuda, &self.tangent));
        for gradients in [&self.backward, &self.second, &self.first] {
            for (_, gradient) in gradients.as_ref().named() {
                all.extend_from_slice(cuda.download(Cuda::view(gradient)).expect("memory").bytes());
            }
        }
        all
    }
}

/// Calls every rule twice, and records all of them together: the bits of every output are the same each time.
///
/// # Panics
/// If a problem cannot be made or called.
pub fn same_bits<E, B>(cuda: &Cuda, backend: &B) -> Vec<Row>
where
    E: Element,
    B: Attention<E, Storage = Cuda>,
{
    let plain = || Problem::builder(DType::F64).batch(2).heads(4, 2).lengths(333, 290).head_dims(64, 64);
    let everything = plain().causal(Causal::BottomRight).bias([1, 4, 333, 290]).dropout(0.2, 5);
    let mut rows = Vec::new();
    for (name, builder) in [("plain", plain()), ("causal, with bias and dropout", everything)] {
        let problem = builder.build().expect("a problem").with_dtype(E::DTYPE);
        let shape = problem.shape();
        let [q, k, v, g] =
            [shape.q(), shape.k(), shape.v(), shape.output()].map(|shape| [0, 1].map(|tag| (shape, tag)));
        let [q, k, v, g] = [q, k, v, g].map(|pair| pair.map(|(shape, tag)| tensor::<E>(cuda, shape, tag)));
        let bias = problem.bias().map(|shape| [0, 1].map(|tag| tensor::<E>(cuda, shape, tag)));
        let inputs = Inputs {
            bias: bias.as_ref().map(|bias| Cuda::view(&bias[0])),
            ..Inputs::new(Cuda::view(&q[0]), Cuda::view(&k[0]), Cuda::view(&v[0]))
        };
        let directions = || {
            Tangent(Directions {
                q: Some(Cuda::view(&q[1])),
                k: Some(Cuda::view(&k[1])),
                v: Some(Cuda::view(&v[1])),
                bias: bias.as_ref().map(|bias| Cuda::view(&bias[1])),
            })
        };
        let scratch = |rule| backend.workspace_bytes(&problem, rule);
        let most = Rule::ALL.into_iter().map(scratch).max().unwrap_or_default();
        let mut workspace = cuda.workspace(most).expect("memory");
        let mut call = |made: &mut Made<E>| -> theria_contract::Result<()> {
            let w = &mut workspace;
            let inputs = Primal(&inputs);
            backend.forward_into(&problem, inputs, Primal(saved_mut::<Cuda, E>(&mut made.saved)), w)?;
            let saved = || Primal(saved_view::<Cuda, E>(&made.saved));
            let tangent = Tangent(saved_mut::<Cuda, E>(&mut made.tangent));
            backend.jvp_into(&problem, inputs, saved(), directions(), tangent, w)?;
            let cotangent = Cotangent(Cuda::view(&g[0]));
            let gradients = Cotangent(made.backward.as_mut().map(Cuda::view_mut));
            backend.backward_into(&problem, inputs, saved(), cotangent, gradients, w)?;
            let outputs = SecondOrder {
                tangent: Tangent(Cotangent(made.second.as_mut().map(Cuda::view_mut))),
                first: Some(Cotangent(made.first.as_mut().map(Cuda::view_mut))),
            };
            backend.second_order_into(
                &problem,
                inputs,
                saved(),
                directions(),
                Tangent(saved_view::<Cuda, E>(&made.tangent)),
                Cotangent(Cuda::view(&g[0])),
                Some(Tangent(Cotangent(Cuda::view(&g[1])))),
                outputs,
                w,
            )
        };
        let [mut once, mut again, mut replayed] =
            std::array::from_fn(|_| Made::<E>::new(cuda, backend, &problem));
        let untouched = once.bytes(cuda);
        call(&mut once).expect("a call");
        call(&mut again).expect("a call");
        let times = cuda.device().time_replays(2, 1, |_| call(&mut replayed)).expect("a recording");
        assert_eq!(times.expect("a call").len(), 2);
        let wanted = once.bytes(cuda);
        let mut row = |what: &str, holds| {
            let name = format!("{name}: {what}");
            rows.push(Row::statement(name, "second-order", backend.name(), E::DTYPE.name(), holds, ""));
        };
        row("a second call of all rules gives the same bits", again.bytes(cuda) == wanted);
        row("all rules in one recording give the same bits", replayed.bytes(cuda) == wanted);
        // What was never called is not the same, so the comparisons could fail.
        row("and poison does not", untouched != wanted);
    }
    rows
}
