//! A composition refuses, by type and before it computes, every backend that could only pretend.

mod cases;

use cases::{cases, data, directions, inputs};
use theria_contract::{Attention, Cotangent, Error, Host, Primal, Refusal, Result, Rule, Tangent};
use theria_jvp_hvp::composition::{Linear, double_backward, hvp, reverse_over_forward};
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_jvp_hvp::{Dense, Opaque};

/// The refusals of the three compositions on a plain case.
fn refusals(attention: &impl Attention<f64, Storage = Host>) -> [Error; 3] {
    let data = data(&cases()[0]);
    let (problem, inputs) = (&data.problem, inputs(&data));
    let inputs = Primal(&inputs);
    let saved = Dense::new().forward(problem, inputs).unwrap();
    let along = directions(&data);
    let pushed = Dense::new().jvp(problem, inputs, saved.as_ref(), Tangent(along)).unwrap();
    let g = Cotangent(data.cotangent.view());
    let loss = Linear(Cotangent(&data.cotangent));
    [
        hvp(attention, problem, inputs, saved.as_ref(), Tangent(along), &loss).map(drop),
        double_backward(attention, problem, inputs, saved.as_ref(), g, Cotangent(Cotangent(along))).map(drop),
        reverse_over_forward(
            attention,
            problem,
            inputs,
            saved.as_ref(),
            Tangent(along),
            pushed.as_ref(),
            None,
            Cotangent(Tangent(g.0)),
        )
        .map(drop),
    ]
    .map(Result::unwrap_err)
}

#[test]
fn an_opaque_backend_is_refused_by_every_composition() {
    for error in refusals(&Opaque::new(Dense::new())) {
        assert_eq!(
            error.to_string(),
            "opaque refuses jvp: its forward and backward are opaque: they run, but cannot be differentiated"
        );
        assert!(matches!(
            error,
            Error::Refused { backend: "opaque", rule: Rule::Jvp, reason: Refusal::Opaque }
        ));
    }
}

#[test]
fn frozen_statistics_are_refused_by_every_composition_and_not_by_an_experiment() {
    let frozen = Varied::new(Variant::FrozenStats);
    for error in refusals(&frozen) {
        assert!(matches!(error, Error::Refused { rule: Rule::Jvp, reason: Refusal::FrozenStats, .. }));
    }
    let data = data(&cases()[0]);
    let inputs = inputs(&data);
    let saved = frozen.forward(&data.problem, Primal(&inputs)).unwrap();
    assert!(frozen.jvp(&data.problem, Primal(&inputs), saved.as_ref(), Tangent(directions(&data))).is_ok());
}

#[test]
fn an_opaque_backend_still_runs_forward_and_backward_and_refuses_the_rest_when_called() {
    let (data, opaque) = (data(&cases()[0]), Opaque::new(Dense::new()));
    let inputs = inputs(&data);
    let saved = opaque.forward(&data.problem, Primal(&inputs)).unwrap();
    let g = Cotangent(data.cotangent.view());
    let given = opaque.backward(&data.problem, Primal(&inputs), saved.as_ref(), g).unwrap();
    let wanted = Dense::new().backward(&data.problem, Primal(&inputs), saved.as_ref(), g).unwrap();
    assert_eq!(given, wanted);
    let refused = opaque.jvp(&data.problem, Primal(&inputs), saved.as_ref(), Tangent(directions(&data)));
    assert!(matches!(refused, Err(Error::Refused { reason: Refusal::Opaque, .. })));
}
