//! The door of the operator: what is wrong is refused before a kernel sees it.

use std::cell::Cell;

use theria_contract::{
    Attention, Checks, Cotangent, DType, Directions, Error, Host, Inputs, Layout, Primal, Problem, Qkv,
    Refusal, Result, Rule, SavedTensor, SavedView, SavedViewMut, Support, Tangent, Tensor, TensorView,
    TensorViewMut, Workspace, saved_mut, saved_view,
};

/// A backend that only counts its kernel calls and writes what it is told to.
#[derive(Default)]
struct Counter {
    kernels: Cell<usize>,
    checks: Checks,
    writes: f32,
    refuses: bool,
    keeps: bool,
}

impl Attention<f32> for Counter {
    type Storage = Host;

    fn name(&self) -> &'static str {
        "counter"
    }
    fn storage(&self) -> &Host {
        &Host
    }
    fn checks(&self) -> Checks {
        self.checks
    }
    fn support(&self, _problem: &Problem, rule: Rule) -> Support {
        if self.refuses { Support::Refused(Refusal::RuleNotImplemented(rule)) } else { Support::Exact }
    }
    fn workspace_bytes(&self, _problem: &Problem, _rule: Rule) -> usize {
        128
    }
    fn keeps_rest(&self, _problem: &Problem) -> bool {
        self.keeps
    }
    fn forward_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Host, f32>>,
        mut saved: Primal<SavedViewMut<'_, Host, f32>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        self.kernels.set(self.kernels.get() + 1);
        saved.0.output.fill(self.writes);
        saved.0.lse.fill(f32::NEG_INFINITY);
        if let Some(rest) = &mut saved.0.rest {
            rest.fill(0.0);
        }
        Ok(())
    }
    fn backward_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Host, f32>>,
        _saved: Primal<SavedView<'_, Host, f32>>,
        _cotangent: Cotangent<TensorView<'_, f32>>,
        mut gradients: Cotangent<Qkv<TensorViewMut<'_, f32>>>,
        _workspace: &mut Workspace,
    ) -> Result<()> {
        self.kernels.set(self.kernels.get() + 1);
        gradients.0.q.fill(self.writes);
        Ok(())
    }
}

/// Two batch entries, two query heads sharing one key/value head, T = 3, M = 4, D = 5, Dv = 6.
fn problem() -> Problem {
    Problem::builder(DType::F32).batch(2).heads(2, 1).lengths(3, 4).head_dims(5, 6).build().unwrap()
}

struct Data {
    q: Tensor<f32>,
    k: Tensor<f32>,
    v: Tensor<f32>,
    bias: Tensor<f32>,
    lengths: Tensor<i32>,
}

impl Data {
    fn new() -> Self {
        let shape = problem().shape();
        Self {
            q: Tensor::zeros(shape.q()).unwrap(),
            k: Tensor::zeros(shape.k()).unwrap(),
            v: Tensor::zeros(shape.v()).unwrap(),
            bias: Tensor::zeros([1, 1, 3, 4]).unwrap(),
            lengths: Tensor::from_vec(vec![4, 2], [1, 1, 1, 2]).unwrap(),
        }
    }
    fn inputs(&self) -> Inputs<'_, Host, f32> {
        Inputs::new(self.q.view(), self.k.view(), self.v.view())
    }
}

/// The error of a forward call, which must not have reached the kernel.
fn refused(problem: &Problem, inputs: &Inputs<'_, Host, f32>) -> Error {
    let counter = Counter::default();
    let error = counter.forward(problem, Primal(inputs)).unwrap_err();
    assert_eq!(counter.kernels.get(), 0, "a kernel ran on what was refused: {error}");
    error
}

#[test]
fn a_right_call_reaches_the_kernel_once() {
    let (counter, data) = (Counter::default(), Data::new());
    counter.forward(&problem(), Primal(&data.inputs())).unwrap();
    assert_eq!(counter.kernels.get(), 1);
}

#[test]
fn a_tensor_of_another_shape_is_refused_by_name() {
    let data = Data::new();
    let other = Tensor::<f32>::zeros([2, 2, 3, 4]).unwrap();
    let wrong = Inputs { q: other.view(), ..data.inputs() };
    assert!(matches!(refused(&problem(), &wrong), Error::Shape { name: "q", expected: [2, 2, 3, 5], .. }));
    let wrong = Inputs { v: other.view(), ..data.inputs() };
    assert!(matches!(refused(&problem(), &wrong), Error::Shape { name: "v", .. }));
}

#[test]
fn another_element_type_than_the_problem_says_is_refused() {
    let data = Data::new();
    let error = refused(&problem().with_dtype(DType::F64), &data.inputs());
    assert!(matches!(error, Error::ElementType { given: DType::F32, expected: DType::F64 }));
}

#[test]
fn what_the_problem_declares_must_be_given_and_nothing_else() {
    let data = Data::new();
    let with_bias = problem().to_builder().bias([1, 1, 3, 4]).build().unwrap();
    let error = refused(&with_bias, &data.inputs());
    assert!(matches!(error, Error::Presence { name: "bias", declared: true }));
    let error = refused(&problem(), &Inputs { bias: Some(data.bias.view()), ..data.inputs() });
    assert!(matches!(error, Error::Presence { name: "bias", declared: false }));
    let error = refused(&problem(), &Inputs { key_lengths: Some(data.lengths.view()), ..data.inputs() });
    assert!(matches!(error, Error::Presence { name: "key_lengths", declared: false }));
}

#[test]
fn key_lengths_out_of_range_are_refused() {
    let data = Data::new();
    let problem = problem().to_builder().key_lengths().build().unwrap();
    for wrong in [-1, 5, i32::MIN, i32::MAX] {
        let lengths = Tensor::from_vec(vec![4, wrong], [1, 1, 1, 2]).unwrap();
        let error = refused(&problem, &Inputs { key_lengths: Some(lengths.view()), ..data.inputs() });
        assert!(matches!(error, Error::KeyLength { batch: 1, m: 4, .. }), "{error}");
    }
}

#[test]
fn outputs_and_cotangents_are_held_against_the_problem_too() {
    let (counter, data, problem) = (Counter::default(), Data::new(), problem());
    let mut saved = counter.forward(&problem, Primal(&data.inputs())).unwrap().0;
    let mut workspace = Workspace::new(128);
    let wrong = Tensor::<f32>::zeros([2, 2, 3, 5]).unwrap();
    let error = counter
        .backward(&problem, Primal(&data.inputs()), Primal(&saved), Cotangent(wrong.view()))
        .unwrap_err();
    assert!(matches!(error, Error::Shape { name: "dout", .. }));

    let mut output = Tensor::<f32>::zeros([2, 2, 4, 6]).unwrap();
    let mut into = saved_mut::<Host, f32>(&mut saved);
    into.output = output.view_mut();
    let error =
        counter.forward_into(&problem, Primal(&data.inputs()), Primal(into), &mut workspace).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "out", .. }));

    let g = Tensor::<f32>::zeros(problem.shape().output()).unwrap();
    let mut dq = Tensor::<f32>::zeros(problem.shape().q()).unwrap();
    let mut dk = Tensor::<f32>::zeros(problem.shape().k()).unwrap();
    let (mut dv, mut dbias) =
        (Tensor::<f32>::zeros(problem.shape().v()).unwrap(), Tensor::<f32>::zeros([1; 4]).unwrap());
    let gradients =
        Qkv { q: dq.view_mut(), k: dk.view_mut(), v: dv.view_mut(), bias: Some(dbias.view_mut()) };
    let error = counter
        .backward_into(
            &problem,
            Primal(&data.inputs()),
            Primal(saved_view::<Host, f32>(&saved)),
            Cotangent(g.view()),
            Cotangent(gradients),
            &mut workspace,
        )
        .unwrap_err();
    assert!(matches!(error, Error::Presence { name: "dbias", declared: false }));
    assert_eq!(counter.kernels.get(), 1, "only the first forward ran");
}

#[test]
fn a_rest_is_made_where_it_is_kept_and_held_against_the_problem() {
    let (data, problem) = (Data::new(), problem());
    let inputs = data.inputs();
    let inputs = Primal(&inputs);
    assert_eq!(Counter::default().forward(&problem, inputs).unwrap().0.rest, None);
    let counter = Counter { keeps: true, checks: Checks::Finite, ..Counter::default() };
    let mut saved = counter.forward(&problem, inputs).unwrap().0;
    assert_eq!(saved.rest, Some(Tensor::zeros(problem.shape().output()).unwrap()));

    let mut workspace = Workspace::new(128);
    let mut wrong = Tensor::<f32>::zeros([2, 2, 3, 5]).unwrap();
    let mut into = saved_mut::<Host, f32>(&mut saved);
    into.rest = Some(wrong.view_mut());
    let error = counter.forward_into(&problem, inputs, Primal(into), &mut workspace).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "out_rest", expected: [2, 2, 3, 6], .. }), "{error}");

    let g = Tensor::<f32>::zeros(problem.shape().output()).unwrap();
    let backward = |saved: &SavedTensor<Host, f32>| {
        counter.backward(&problem, inputs, Primal(saved), Cotangent(g.view())).map(drop)
    };
    let read = |rest| SavedTensor::<Host, f32> { rest, ..saved.clone() };
    let error = backward(&read(Some(wrong.clone()))).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "out_rest", .. }), "{error}");
    // Whoever saved it: with and without is the same to a rule.
    backward(&read(None)).unwrap();
    backward(&saved).unwrap();
    let mut lost = saved.rest.clone().unwrap();
    lost.view_mut().set([0, 1, 2, 3], f32::NAN);
    let error = backward(&read(Some(lost))).unwrap_err();
    assert!(matches!(error, Error::NonFinite { name: "out_rest", count: 1, output: false }), "{error}");

    let along = Tangent(Directions::default());
    let mut tangent = counter.allocate_saved(&problem).unwrap();
    tangent.rest = Some(wrong);
    let into = Tangent(saved_mut::<Host, f32>(&mut tangent));
    let saved = Primal(saved_view::<Host, f32>(&saved));
    let error = counter.jvp_into(&problem, inputs, saved, along, into, &mut workspace).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "out_tangent_rest", .. }), "{error}");
}

#[test]
fn a_workspace_that_is_too_small_is_refused_with_both_sizes() {
    let (counter, data) = (Counter::default(), Data::new());
    let mut saved = counter.allocate_saved(&problem()).unwrap();
    let error = counter
        .forward_into(
            &problem(),
            Primal(&data.inputs()),
            Primal(saved_mut::<Host, f32>(&mut saved)),
            &mut Workspace::new(64),
        )
        .unwrap_err();
    assert!(matches!(error, Error::Workspace { rule: Rule::Forward, needed: 128, .. }), "{error}");
}

#[test]
fn a_refusal_names_backend_rule_and_reason() {
    let (counter, data) = (Counter { refuses: true, ..Counter::default() }, Data::new());
    let error = counter.forward(&problem(), Primal(&data.inputs())).unwrap_err();
    assert!(matches!(
        error,
        Error::Refused {
            backend: "counter",
            rule: Rule::Forward,
            reason: Refusal::RuleNotImplemented(Rule::Forward)
        }
    ));
    // A rule without a kernel refuses by itself, whatever `support` says.
    let lying = Counter::default();
    let saved = lying.forward(&problem(), Primal(&data.inputs())).unwrap();
    let tangents = Tangent(Directions::default());
    let error = lying.jvp(&problem(), Primal(&data.inputs()), saved.as_ref(), tangents).unwrap_err();
    assert!(matches!(error, Error::Refused { rule: Rule::Jvp, .. }));
}

#[test]
fn finite_checks_tell_inputs_from_outputs_and_skip_padding() {
    let checked = |writes| Counter { checks: Checks::Finite, writes, ..Counter::default() };
    let mut data = Data::new();
    let problem = problem().to_builder().key_lengths().bias([1, 1, 3, 4]).build().unwrap();
    // -inf in a bias hides a key, and lse is -inf where a row sees nothing: both are legal.
    data.bias.view_mut().set([0, 0, 1, 2], f32::NEG_INFINITY);
    // Batch entry 1 has two keys; what lies beyond is padding.
    data.k.view_mut().set([1, 0, 3, 0], f32::NAN);
    let forward = |data: &Data, counter: &Counter| {
        let inputs =
            Inputs { bias: Some(data.bias.view()), key_lengths: Some(data.lengths.view()), ..data.inputs() };
        counter.forward(&problem, Primal(&inputs)).map(drop)
    };
    forward(&data, &checked(1.0)).unwrap();
    let error = forward(&data, &checked(f32::NAN)).unwrap_err();
    assert!(matches!(error, Error::NonFinite { name: "out", count: 72, output: true }), "{error}");
    data.k.view_mut().set([1, 0, 1, 0], f32::INFINITY);
    let error = forward(&data, &checked(1.0)).unwrap_err();
    assert!(matches!(error, Error::NonFinite { name: "k", count: 1, output: false }), "{error}");
    // Without checks the same values pass.
    forward(&data, &Counter::default()).unwrap();
}

#[test]
fn finite_checks_read_what_was_saved() {
    let (data, problem) = (Data::new(), problem());
    let counter = Counter { checks: Checks::Finite, ..Counter::default() };
    let mut saved = counter.forward(&problem, Primal(&data.inputs())).unwrap();
    let g = Tensor::<f32>::zeros(problem.shape().output()).unwrap();
    let backward = |saved: &Primal<SavedTensor<Host, f32>>| {
        counter.backward(&problem, Primal(&data.inputs()), saved.as_ref(), Cotangent(g.view())).map(drop)
    };
    backward(&saved).unwrap();
    saved.0.lse.view_mut().set([0, 0, 1, 0], f32::NAN);
    let error = backward(&saved).unwrap_err();
    assert!(matches!(error, Error::NonFinite { name: "lse", count: 1, output: false }), "{error}");
}

#[test]
fn a_backend_can_be_chosen_at_run_time() {
    let data = Data::new();
    let chosen: Box<dyn Attention<f32, Storage = Host>> = Box::new(Counter::default());
    chosen.forward(&problem(), Primal(&data.inputs())).unwrap();
}

#[test]
fn views_over_foreign_strides_are_admitted() {
    let data = Data::new();
    let memory = vec![0.0_f32; 2 * 3 * 2 * 5];
    let rows_first = TensorView::new(&memory, Layout::heads_inside([2, 2, 3, 5]).unwrap()).unwrap();
    let counter = Counter::default();
    counter.forward(&problem(), Primal(&Inputs { q: rows_first, ..data.inputs() })).unwrap();
    assert_eq!(counter.kernels.get(), 1);
}

/// Every rule of a backend that refuses all of them, with the other rules' results made elsewhere.
fn refusals(counter: &Counter) -> Vec<Error> {
    let (data, problem) = (Data::new(), problem());
    let inputs = data.inputs();
    let (inputs, g) = (Primal(&inputs), Tensor::<f32>::zeros(problem.shape().output()).unwrap());
    let saved = counter.allocate_saved(&problem).unwrap();
    let nowhere = Tangent(Directions::default());
    let (primal, tangent) = (Primal(&saved), Tangent(&saved));
    let g = Cotangent(g.view());
    vec![
        counter.forward(&problem, inputs).unwrap_err(),
        counter.backward(&problem, inputs, primal, g).unwrap_err(),
        counter.jvp(&problem, inputs, primal, nowhere).unwrap_err(),
        counter.second_order(&problem, inputs, primal, nowhere, tangent, g, None, true).unwrap_err(),
    ]
}

#[test]
fn every_rule_is_refused_with_the_reason_of_its_own_support() {
    let counter = Counter { refuses: true, ..Counter::default() };
    for (error, rule) in refusals(&counter).into_iter().zip(Rule::ALL) {
        let promised = counter.support(&problem(), rule);
        let Error::Refused { rule: named, reason, .. } = error else { panic!("{error}") };
        assert_eq!((named, Support::Refused(reason)), (rule, promised));
    }
    assert_eq!(counter.kernels.get(), 0);
}
