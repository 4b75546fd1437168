//! Where a loop goes astray: the first number that is NaN or infinite.

use std::fmt;

use crate::Result;
use crate::graph::NotFinite;
use crate::machine::{Machine, TensorOf};
use crate::meta::{Inner, Keep, Learner, Mode};

/// When in a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before this step, in the gradient of the task's own loss: counted from 0.
    Step(usize),
    /// After the last step, in the gradient of the query's loss.
    Query,
    /// On the way back through this step, in the product of the Hessian.
    Back(usize),
}

/// The first number of a loop that is NaN or infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Astray {
    /// When in the loop.
    pub moment: Moment,
    /// Where in the model.
    pub found: NotFinite,
}

impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.moment {
            Moment::Step(k) => write!(f, "before inner step {k}: ")?,
            Moment::Query => write!(f, "on the query: ")?,
            Moment::Back(k) => write!(f, "on the way back through inner step {k}: ")?,
        }
        self.found.fmt(f)
    }
}

impl<M: Machine> Learner<M> {
    /// Goes the loop, and back as far as the mode does, and says where the first number is that is NaN or infinite. Every
    /// value is looked at in every step, so it takes its time: it is meant for a loop of which an error or a norm says that
    /// it diverges.
    pub fn first_not_finite(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        mode: Mode,
    ) -> Result<Option<Astray>> {
        self.admit(start, inner)?;
        let inner = inner.clone().keeping(Keep::All);
        let stretches = inner.stretches(mode.curved(inner.steps));
        self.begin(machine, start, &inner, &stretches)?;
        for k in 0..inner.steps {
            if let Some(found) = self.support.first_not_finite(machine, &self.on_support)? {
                return Ok(Some(Astray { moment: Moment::Step(k), found }));
            }
            self.go_on(machine, start, &inner, k, &stretches)?;
        }
        self.arrive(machine)?;
        // Reptile reads no gradient of the query.
        let nothing = self.query.plan(&[], &[]);
        let on_query = if mode == Mode::Reptile { &nothing } else { &self.on_query };
        if let Some(found) = self.query.first_not_finite(machine, on_query)? {
            return Ok(Some(Astray { moment: Moment::Query, found }));
        }
        if stretches.is_empty() {
            return Ok(None);
        }
        self.take_gradients_of_query(machine)?;
        self.make_cotangents(machine, &inner)?;
        for k in stretches.iter().flat_map(|stretch| stretch.clone().rev()) {
            let place = k - stretches[0].start;
            self.pull_step(machine, &inner, (k, place))?;
            self.pull_gradient(machine, &inner, place)?;
            self.go_to(machine, start, place)?;
            if let Some(found) = self.support.first_not_finite(machine, &self.second)? {
                return Ok(Some(Astray { moment: Moment::Back(k), found }));
            }
            self.add_product(machine)?;
        }
        Ok(None)
    }
}
