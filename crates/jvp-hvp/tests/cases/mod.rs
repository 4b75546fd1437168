//! Small problems that together have every feature, and the rules of a backend run on them.

use theria_contract::conformance::{Case, CaseData, MaskPattern};
use theria_contract::{
    Attention, Causal, Cotangent, DType, Directions, Host, Inputs, Primal, Problem, ProblemBuilder, Qkv,
    Tangent, Tensor, TensorView,
};

/// Grouped heads, more keys than queries, D ≠ Dv: small enough for one evaluation per element.
fn case(name: &'static str, describe: impl FnOnce(ProblemBuilder) -> ProblemBuilder) -> Case {
    let sizes = Problem::builder(DType::F64).batch(2).heads(4, 2).lengths(3, 5).head_dims(3, 2);
    Case::new(name, describe(sizes).build().unwrap())
}

/// Every feature alone, and all together.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("plain", |b| b),
        case("causal", |b| b.causal(Causal::TopLeft)),
        case("bias", |b| b.bias([1, 4, 1, 5])),
        case("dropout", |b| b.dropout(0.3, 5)),
        Case {
            mask: MaskPattern::SomeRowsEmpty,
            ..case("mask with rows that see nothing", |b| b.mask([1, 4, 3, 5]))
        },
        Case {
            key_lengths: vec![5, 3],
            hidden_by_bias: 30,
            ..case("everything", |b| {
                b.causal(Causal::BottomRight)
                    .bias([2, 1, 3, 5])
                    .mask([1, 1, 1, 5])
                    .key_lengths()
                    .dropout(0.2, 7)
            })
        },
    ]
}

/// The data of a case.
pub(crate) fn data(case: &Case) -> CaseData<f64> {
    CaseData::of(case).unwrap()
}

/// The operands of a case.
pub(crate) fn inputs(data: &CaseData<f64>) -> Inputs<'_, Host, f64> {
    Inputs {
        q: data.primal.q.view(),
        k: data.primal.k.view(),
        v: data.primal.v.view(),
        bias: data.primal.bias.as_ref().map(Tensor::view),
        mask: data.mask.as_ref().map(Tensor::view),
        key_lengths: data.key_lengths.as_ref().map(Tensor::view),
    }
}

/// The same data with other tangents.
#[allow(dead_code)] // one test file moves two ways
pub(crate) fn elsewhere(case: &Case) -> CaseData<f64> {
    let tangents = data(&Case { name: "elsewhere", ..case.clone() }).tangents;
    CaseData { tangents, ..data(case) }
}

/// The tangents of a case as directions.
pub(crate) fn directions(data: &CaseData<f64>) -> Directions<TensorView<'_, f64>> {
    Directions::from(data.tangents.as_ref().map(Tensor::view))
}

/// The results of every derivative rule of a backend, packed, in the order q, k, v, bias.
#[allow(dead_code)] // each test file reads some of them
pub(crate) struct Rules {
    pub(crate) jvp: Vec<Vec<f64>>,
    pub(crate) backward: Vec<Vec<f64>>,
    pub(crate) second_order: Vec<Vec<f64>>,
    pub(crate) without_cotangent_tangent: Vec<Vec<f64>>,
    /// The first order that the second-order sweep makes.
    pub(crate) first: Vec<Vec<f64>>,
}

#[allow(dead_code)] // not every test file runs all rules
impl Rules {
    /// Runs them on the tangents and cotangents of a case.
    pub(crate) fn of(attention: &impl Attention<f64, Storage = Host>, data: &CaseData<f64>) -> Self {
        let (problem, inputs) = (&data.problem, inputs(data));
        let inputs = Primal(&inputs);
        let along = Tangent(directions(data));
        let g = Cotangent(data.cotangent.view());
        let g_tangent = Tangent(Cotangent(data.cotangent_tangent.view()));

        let saved = attention.forward(problem, inputs).unwrap();
        let pushed = attention.jvp(problem, inputs, saved.as_ref(), along).unwrap();
        let second = |g_tangent| {
            let (saved, pushed) = (saved.as_ref(), pushed.as_ref());
            attention.second_order(problem, inputs, saved, along, pushed, g, g_tangent, true).unwrap()
        };
        let with = second(Some(g_tangent));
        Self {
            backward: packed(attention.backward(problem, inputs, saved.as_ref(), g).unwrap().0),
            second_order: packed(with.tangent.0.0),
            without_cotangent_tangent: packed(second(None).tangent.0.0),
            first: packed(with.first.unwrap().0),
            jvp: vec![pushed.0.output.into_vec(), pushed.0.lse.into_vec()],
        }
    }
}

/// Gradients as they lie in memory.
#[allow(dead_code)] // not every test file reads gradients
pub(crate) fn packed(gradients: Qkv<Tensor<f64>>) -> Vec<Vec<f64>> {
    gradients.named().map(|(_, tensor)| tensor.into_vec()).collect()
}
