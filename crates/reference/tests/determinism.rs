//! The bits of a result do not depend on the number of threads.

use theria_contract::conformance::{Case, CaseData, Suite};
use theria_contract::{Attention, Cotangent, Host, Inputs, Primal, Qkv, SavedTensor, Tensor};
use theria_reference::Streaming;
use theria_reference::streaming::Operand;

/// Forward and backward in a pool of this many threads.
fn with_threads<E>(data: &CaseData<E>, threads: usize) -> (SavedTensor<Host, E>, Qkv<Tensor<E>>)
where
    E: Operand,
    E::Acc: Operand,
{
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let inputs = Inputs::<Host, E> {
            bias: data.primal.bias.as_ref().map(Tensor::view),
            mask: data.mask.as_ref().map(Tensor::view),
            key_lengths: data.key_lengths.as_ref().map(Tensor::view),
            ..Inputs::new(data.primal.q.view(), data.primal.k.view(), data.primal.v.view())
        };
        let backend = Streaming::new();
        let saved = backend.forward(&data.problem, Primal(&inputs)).unwrap();
        let g = Cotangent(data.cotangent.view());
        let gradients = backend.backward(&data.problem, Primal(&inputs), saved.as_ref(), g).unwrap();
        (saved.0, gradients.0)
    })
}

fn assert_same_bits<E>(case: &Case)
where
    E: Operand,
    E::Acc: Operand,
{
    let data = CaseData::<E>::of(case).unwrap();
    let (saved, gradients) = with_threads(&data, 1);
    for threads in [2, 3, 7] {
        let (other, others) = with_threads(&data, threads);
        let context = format!("{} in {} with {threads} threads", case.name, E::DTYPE);
        assert!(saved.output.bytes() == other.output.bytes(), "out of {context}");
        assert!(saved.lse.bytes() == other.lse.bytes(), "lse of {context}");
        for ((name, one), (_, another)) in gradients.as_ref().named().zip(others.as_ref().named()) {
            assert!(one.bytes() == another.bytes(), "d{name} of {context}");
        }
    }
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    for case in &Suite::standard().cases {
        assert_same_bits::<f32>(case);
        assert_same_bits::<f64>(case);
    }
}

#[test]
fn so_are_those_of_a_case_with_many_segments_and_ranges() {
    let problem = theria_contract::Problem::builder(theria_contract::DType::F32)
        .heads(3, 1)
        .lengths(700, 1500)
        .head_dims(16, 8)
        .build()
        .unwrap();
    assert_same_bits::<f32>(&Case::new("many segments", problem.clone()));
    assert_same_bits::<half::f16>(&Case::new("many segments", problem));
}

/// The control: these comparisons do see a change of one bit.
#[test]
fn one_bit_is_a_difference() {
    let one = Tensor::from_vec(vec![1.0_f32, 2.0], [1, 1, 1, 2]).unwrap();
    let another =
        Tensor::from_vec(vec![1.0_f32, f32::from_bits(2.0_f32.to_bits() + 1)], [1, 1, 1, 2]).unwrap();
    assert!(one.bytes() != another.bytes());
}
