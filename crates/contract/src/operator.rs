//! The operator trait: four rules, each with a twin that allocates and one that does not.
//!
//! Callers use the rules (`forward`, `backward`, `jvp`, `second_order`) or their `_into` twins.
//! These are written once, here: they hold the operands against the problem, ask [`Attention::support`],
//! check the workspace, run the kernel, and check values when asked to. A backend writes `support`,
//! `workspace_bytes` and one `…_kernel` for each rule that it supports, and need validate nothing.

use crate::{
    Checks, Cotangent, Directions, Element, Error, Inputs, Layout, Primal, Problem, Qkv, Refusal, Result,
    Rule, Saved, SecondOrder, Storage, Support, Tangent, admit,
};

/// Saved tensors, read.
pub type SavedView<'a, S, E> =
    Saved<<S as Storage>::View<'a, E>, <S as Storage>::View<'a, <E as Element>::Acc>>;
/// Saved tensors, to be written.
pub type SavedViewMut<'a, S, E> =
    Saved<<S as Storage>::ViewMut<'a, E>, <S as Storage>::ViewMut<'a, <E as Element>::Acc>>;
/// Saved tensors, owned.
pub type SavedTensor<S, E> = Saved<<S as Storage>::Tensor<E>, <S as Storage>::Tensor<<E as Element>::Acc>>;

/// Names of outputs, for errors.
const SAVED: [&str; 3] = ["out", "lse", "out_rest"];
const SAVED_TANGENT: [&str; 3] = ["out_tangent", "lse_tangent", "out_tangent_rest"];
const GRADIENTS: [&str; 4] = ["dq", "dk", "dv", "dbias"];
const GRADIENT_TANGENTS: [&str; 4] = ["dq_tangent", "dk_tangent", "dv_tangent", "dbias_tangent"];

/// Attention with explicit derivative rules on tensors of element type `E`.
pub trait Attention<E: Element> {
    /// Where this backend's tensors live.
    type Storage: Storage;

    /// The backend's name, as in reports and on the command line.
    fn name(&self) -> &'static str;

    /// The memory of this backend.
    fn storage(&self) -> &Self::Storage;

    /// What the backend vouches for. A call does exactly what this says. Backward and JVP start from
    /// what the forward made, and the second order from what the JVP made: where a rule is exact, so is
    /// the one that it starts from.
    fn support(&self, problem: &Problem, rule: Rule) -> Support;

    /// Scratch that the rule's `_into` twin needs.
    fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize;

    /// Checks on values that every call makes.
    fn checks(&self) -> Checks {
        Checks::None
    }

    /// Whether this backend's rules are faster, or more exact, with what rounding takes from O and O′:
    /// [`allocate_saved`](Self::allocate_saved) makes room for it where they are. Every backend fills a rest that it
    /// is given, zero where it rounds nothing, and none has to be given: rules take what was saved with and without.
    fn keeps_rest(&self, _problem: &Problem) -> bool {
        false
    }

    /// O and lse. Overwrites every element of `saved`, of its rest too where it has one.
    fn forward_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        _saved: Primal<SavedViewMut<'_, Self::Storage, E>>,
        _workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        Err(not_implemented(self.name(), Rule::Forward))
    }

    /// dQ, dK, dV and, if wanted, dBias. Overwrites every element of `gradients`.
    fn backward_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        _saved: Primal<SavedView<'_, Self::Storage, E>>,
        _cotangent: Cotangent<<Self::Storage as Storage>::View<'_, E>>,
        _gradients: Cotangent<Qkv<<Self::Storage as Storage>::ViewMut<'_, E>>>,
        _workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        Err(not_implemented(self.name(), Rule::Backward))
    }

    /// O′ and lse′ = μ. Overwrites every element of `saved_tangent`, of its rest too where it has one.
    fn jvp_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        _saved: Primal<SavedView<'_, Self::Storage, E>>,
        _directions: Tangent<Directions<<Self::Storage as Storage>::View<'_, E>>>,
        _saved_tangent: Tangent<SavedViewMut<'_, Self::Storage, E>>,
        _workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        Err(not_implemented(self.name(), Rule::Jvp))
    }

    /// dQ′, dK′, dV′ and what else is wanted. Overwrites every element of `outputs`.
    fn second_order_kernel(
        &self,
        _problem: &Problem,
        _inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        _saved: Primal<SavedView<'_, Self::Storage, E>>,
        _directions: Tangent<Directions<<Self::Storage as Storage>::View<'_, E>>>,
        _saved_tangent: Tangent<SavedView<'_, Self::Storage, E>>,
        _cotangent: Cotangent<<Self::Storage as Storage>::View<'_, E>>,
        _cotangent_tangent: Option<Tangent<Cotangent<<Self::Storage as Storage>::View<'_, E>>>>,
        _outputs: SecondOrder<<Self::Storage as Storage>::ViewMut<'_, E>>,
        _workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        Err(not_implemented(self.name(), Rule::SecondOrder))
    }

    /// Refuses with the backend's reason unless it supports the rule.
    fn require(&self, problem: &Problem, rule: Rule) -> Result<()> {
        match self.support(problem, rule) {
            Support::Exact | Support::FrozenStats => Ok(()),
            Support::Refused(reason) => Err(Error::Refused { backend: self.name(), rule, reason }),
        }
    }

    /// The same, and refuses another linearisation as well: what every composition asks for.
    fn require_exact(&self, problem: &Problem, rule: Rule) -> Result<()> {
        match self.support(problem, rule) {
            Support::FrozenStats => {
                Err(Error::Refused { backend: self.name(), rule, reason: Refusal::FrozenStats })
            }
            Support::Exact | Support::Refused(_) => self.require(problem, rule),
        }
    }

    /// The forward rule into memory of the caller: `O`, and `lse` for the other rules.
    fn forward_into(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        mut saved: Primal<SavedViewMut<'_, Self::Storage, E>>,
        workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        admit::open(self, problem, Rule::Forward, inputs, workspace)?;
        admit::saved_out::<Self::Storage, E>(SAVED, problem, &saved.0)?;
        self.forward_kernel(
            problem,
            inputs,
            saved.as_mut().map(reborrow_saved::<Self::Storage, E>),
            workspace,
        )?;
        admit::check_saved(self, SAVED, &saved.0)
    }

    /// The backward rule into memory of the caller.
    fn backward_into(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        saved: Primal<SavedView<'_, Self::Storage, E>>,
        cotangent: Cotangent<<Self::Storage as Storage>::View<'_, E>>,
        mut gradients: Cotangent<Qkv<<Self::Storage as Storage>::ViewMut<'_, E>>>,
        workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        admit::open(self, problem, Rule::Backward, inputs, workspace)?;
        admit::saved::<Self::Storage, E>(SAVED, problem, &saved.0)?;
        admit::cotangent::<Self::Storage, E>("dout", problem, &cotangent.0)?;
        admit::gradients_out::<Self::Storage, E>(GRADIENTS, problem, &gradients.0)?;
        admit::check_saved_input(self, SAVED, &saved.0)?;
        admit::check_input(self, "dout", Some(cotangent.0))?;
        let lent = gradients.as_mut().map(|all| all.as_mut().map(Self::Storage::reborrow_mut));
        self.backward_kernel(problem, inputs, saved, cotangent, lent, workspace)?;
        admit::check_gradients(self, GRADIENTS, &gradients.0)
    }

    /// The JVP rule into memory of the caller: O′, and lse′ for the second order.
    fn jvp_into(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        saved: Primal<SavedView<'_, Self::Storage, E>>,
        directions: Tangent<Directions<<Self::Storage as Storage>::View<'_, E>>>,
        mut saved_tangent: Tangent<SavedViewMut<'_, Self::Storage, E>>,
        workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        admit::open(self, problem, Rule::Jvp, inputs, workspace)?;
        admit::saved::<Self::Storage, E>(SAVED, problem, &saved.0)?;
        admit::directions::<Self::Storage, E>(problem, &directions.0)?;
        admit::saved_out::<Self::Storage, E>(SAVED_TANGENT, problem, &saved_tangent.0)?;
        admit::check_saved_input(self, SAVED, &saved.0)?;
        admit::check_directions(self, inputs.0, &directions.0)?;
        let lent = saved_tangent.as_mut().map(reborrow_saved::<Self::Storage, E>);
        self.jvp_kernel(problem, inputs, saved, directions, lent, workspace)?;
        admit::check_saved(self, SAVED_TANGENT, &saved_tangent.0)
    }

    /// The second-order rule into memory of the caller. `saved_tangent` is what the JVP rule made
    /// for the same directions; `cotangent_tangent` (G′) is zero when absent.
    fn second_order_into(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        saved: Primal<SavedView<'_, Self::Storage, E>>,
        directions: Tangent<Directions<<Self::Storage as Storage>::View<'_, E>>>,
        saved_tangent: Tangent<SavedView<'_, Self::Storage, E>>,
        cotangent: Cotangent<<Self::Storage as Storage>::View<'_, E>>,
        cotangent_tangent: Option<Tangent<Cotangent<<Self::Storage as Storage>::View<'_, E>>>>,
        mut outputs: SecondOrder<<Self::Storage as Storage>::ViewMut<'_, E>>,
        workspace: &mut <Self::Storage as Storage>::Workspace,
    ) -> Result<()> {
        admit::open(self, problem, Rule::SecondOrder, inputs, workspace)?;
        admit::saved::<Self::Storage, E>(SAVED, problem, &saved.0)?;
        admit::saved::<Self::Storage, E>(SAVED_TANGENT, problem, &saved_tangent.0)?;
        admit::directions::<Self::Storage, E>(problem, &directions.0)?;
        admit::cotangent::<Self::Storage, E>("dout", problem, &cotangent.0)?;
        if let Some(tangent) = &cotangent_tangent {
            admit::cotangent::<Self::Storage, E>("dout_tangent", problem, &tangent.0.0)?;
        }
        admit::gradients_out::<Self::Storage, E>(GRADIENT_TANGENTS, problem, &outputs.tangent.0.0)?;
        if let Some(first) = &outputs.first {
            admit::gradients_out::<Self::Storage, E>(GRADIENTS, problem, &first.0)?;
        }
        admit::check_saved_input(self, SAVED, &saved.0)?;
        admit::check_saved_input(self, SAVED_TANGENT, &saved_tangent.0)?;
        admit::check_directions(self, inputs.0, &directions.0)?;
        admit::check_input(self, "dout", Some(cotangent.0))?;
        admit::check_input(self, "dout_tangent", cotangent_tangent.map(|tangent| tangent.0.0))?;
        let lent = SecondOrder {
            tangent: outputs
                .tangent
                .as_mut()
                .map(|role| role.as_mut().map(|all| all.as_mut().map(Self::Storage::reborrow_mut))),
            first: outputs
                .first
                .as_mut()
                .map(|role| role.as_mut().map(|all| all.as_mut().map(Self::Storage::reborrow_mut))),
        };
        self.second_order_kernel(
            problem,
            inputs,
            saved,
            directions,
            saved_tangent,
            cotangent,
            cotangent_tangent,
            lent,
            workspace,
        )?;
        admit::check_gradients(self, GRADIENT_TANGENTS, &outputs.tangent.0.0)?;
        outputs.first.as_ref().map_or(Ok(()), |first| admit::check_gradients(self, GRADIENTS, &first.0))
    }

    /// The forward rule: `O`, and `lse` for the other rules.
    fn forward(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
    ) -> Result<Primal<SavedTensor<Self::Storage, E>>> {
        self.require(problem, Rule::Forward)?;
        let mut saved = self.allocate_saved(problem)?;
        let mut workspace = self.storage().workspace(self.workspace_bytes(problem, Rule::Forward))?;
        self.forward_into(
            problem,
            inputs,
            Primal(saved_mut::<Self::Storage, E>(&mut saved)),
            &mut workspace,
        )?;
        Ok(Primal(saved))
    }

    /// The backward rule: dQ, dK, dV, and dBias when the problem has a bias.
    fn backward(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        saved: Primal<&SavedTensor<Self::Storage, E>>,
        cotangent: Cotangent<<Self::Storage as Storage>::View<'_, E>>,
    ) -> Result<Cotangent<Qkv<<Self::Storage as Storage>::Tensor<E>>>> {
        self.require(problem, Rule::Backward)?;
        let mut gradients = self.allocate_gradients(problem)?;
        let mut workspace = self.storage().workspace(self.workspace_bytes(problem, Rule::Backward))?;
        let saved = saved.map(saved_view::<Self::Storage, E>);
        let lent = Cotangent(gradients.as_mut().map(Self::Storage::view_mut));
        self.backward_into(problem, inputs, saved, cotangent, lent, &mut workspace)?;
        Ok(Cotangent(gradients))
    }

    /// The JVP rule: O′ and lse′.
    fn jvp(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        saved: Primal<&SavedTensor<Self::Storage, E>>,
        directions: Tangent<Directions<<Self::Storage as Storage>::View<'_, E>>>,
    ) -> Result<Tangent<SavedTensor<Self::Storage, E>>> {
        self.require(problem, Rule::Jvp)?;
        let mut tangent = self.allocate_saved(problem)?;
        let mut workspace = self.storage().workspace(self.workspace_bytes(problem, Rule::Jvp))?;
        let saved = saved.map(saved_view::<Self::Storage, E>);
        let lent = Tangent(saved_mut::<Self::Storage, E>(&mut tangent));
        self.jvp_into(problem, inputs, saved, directions, lent, &mut workspace)?;
        Ok(Tangent(tangent))
    }

    /// The second-order rule: dQ′, dK′, dV′ (dBias′), and the first-order cotangents when
    /// `with_first` asks for them.
    fn second_order(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Self::Storage, E>>,
        saved: Primal<&SavedTensor<Self::Storage, E>>,
        directions: Tangent<Directions<<Self::Storage as Storage>::View<'_, E>>>,
        saved_tangent: Tangent<&SavedTensor<Self::Storage, E>>,
        cotangent: Cotangent<<Self::Storage as Storage>::View<'_, E>>,
        cotangent_tangent: Option<Tangent<Cotangent<<Self::Storage as Storage>::View<'_, E>>>>,
        with_first: bool,
    ) -> Result<SecondOrder<<Self::Storage as Storage>::Tensor<E>>> {
        self.require(problem, Rule::SecondOrder)?;
        let mut tangent = self.allocate_gradients(problem)?;
        let mut first = if with_first { Some(self.allocate_gradients(problem)?) } else { None };
        let mut workspace = self.storage().workspace(self.workspace_bytes(problem, Rule::SecondOrder))?;
        let lent = SecondOrder {
            tangent: Tangent(Cotangent(tangent.as_mut().map(Self::Storage::view_mut))),
            first: first.as_mut().map(|first| Cotangent(first.as_mut().map(Self::Storage::view_mut))),
        };
        self.second_order_into(
            problem,
            inputs,
            saved.map(saved_view::<Self::Storage, E>),
            directions,
            saved_tangent.map(saved_view::<Self::Storage, E>),
            cotangent,
            cotangent_tangent,
            lent,
            &mut workspace,
        )?;
        Ok(SecondOrder { tangent: Tangent(Cotangent(tangent)), first: first.map(Cotangent) })
    }

    /// Tensors for O and lse, or for their tangents, and for what rounding takes where it is kept.
    fn allocate_saved(&self, problem: &Problem) -> Result<SavedTensor<Self::Storage, E>> {
        let shape = problem.shape();
        Ok(Saved {
            output: self.storage().allocate(Layout::contiguous(shape.output())?)?,
            lse: self.storage().allocate(Layout::contiguous(shape.rows())?)?,
            rest: if self.keeps_rest(problem) {
                Some(self.storage().allocate(Layout::contiguous(shape.output())?)?)
            } else {
                None
            },
        })
    }

    /// Tensors for the gradients of all operands.
    fn allocate_gradients(&self, problem: &Problem) -> Result<Qkv<<Self::Storage as Storage>::Tensor<E>>> {
        let shape = problem.shape();
        let allocate = |shape| self.storage().allocate(Layout::contiguous(shape)?);
        Ok(Qkv {
            q: allocate(shape.q())?,
            k: allocate(shape.k())?,
            v: allocate(shape.v())?,
            bias: problem.bias().map(allocate).transpose()?,
        })
    }
}

fn not_implemented(backend: &'static str, rule: Rule) -> Error {
    Error::Refused { backend, rule, reason: Refusal::RuleNotImplemented(rule) }
}

/// A view of what is saved.
pub fn saved_view<S: Storage, E: Element>(saved: &SavedTensor<S, E>) -> SavedView<'_, S, E> {
    Saved { output: S::view(&saved.output), lse: S::view(&saved.lse), rest: saved.rest.as_ref().map(S::view) }
}

/// A writable view of what is saved.
pub fn saved_mut<S: Storage, E: Element>(saved: &mut SavedTensor<S, E>) -> SavedViewMut<'_, S, E> {
    Saved {
        output: S::view_mut(&mut saved.output),
        lse: S::view_mut(&mut saved.lse),
        rest: saved.rest.as_mut().map(S::view_mut),
    }
}

/// The same writable view for a shorter time.
pub fn reborrow_saved<'a, S: Storage, E: Element>(
    saved: &'a mut SavedViewMut<'_, S, E>,
) -> SavedViewMut<'a, S, E> {
    Saved {
        output: S::reborrow_mut(&mut saved.output),
        lse: S::reborrow_mut(&mut saved.lse),
        rest: saved.rest.as_mut().map(S::reborrow_mut),
    }
}
