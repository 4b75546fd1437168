//! What the second order adds to a meta-gradient, and how far a meta-gradient is from what it should be.
//!
//! ```text
//! |FULL - FO|               of a parameter, of a group of them, of all: the path through the inner steps
//! rel_diff = |FULL - FO| / |FULL|
//! error    = |g - g*| / |g*|            g* an oracle
//! ```
//!
//! All norms are Euclidean, of all numbers that are meant, one after the other. `rel_diff` over everything is that of the
//! independent system that tests hold it against (`rel_diff_full_vs_fo` in `tests/fixtures/maml_reference.json`).

use theria_contract::{Layout, Storage};

use super::part;
use crate::machine::{Machine, TensorOf, expect};
use crate::meta::optimiser::Plus;
use crate::meta::{Inner, Learner, Mode};
use crate::{Error, Result};

/// What the second order adds to a part of a gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// A parameter, or a group of them.
    pub name: String,
    /// |FULL|.
    pub full: f64,
    /// |FULL - FO|.
    pub second_order: f64,
}

impl Contribution {
    /// |FULL - FO| / |FULL|.
    pub fn relative(&self) -> f64 {
        part(self.second_order, self.full)
    }

    /// That of these together.
    fn of<'a>(name: &str, parts: &(impl Iterator<Item = &'a Self> + Clone)) -> Self {
        let norm = |each: fn(&Self) -> f64| parts.clone().map(|part| each(part).powi(2)).sum::<f64>().sqrt();
        Self {
            name: name.to_owned(),
            full: norm(|part| part.full),
            second_order: norm(|part| part.second_order),
        }
    }
}

/// What the second order adds to a meta-gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct SecondOrderPath {
    /// To each parameter, in the order of [`Learner::names`].
    pub parameters: Vec<Contribution>,
    /// To groups of parameters, in the order in which they were named.
    pub groups: Vec<Contribution>,
    /// To all of them.
    pub whole: Contribution,
}

impl SecondOrderPath {
    /// |FULL - FO| / |FULL| over everything.
    pub fn rel_diff(&self) -> f64 {
        self.whole.relative()
    }
}

/// |x - y|; the difference is written to x.
fn distance<M: Machine>(machine: &M, x: &mut TensorOf<M>, y: &TensorOf<M>) -> Result<f64> {
    machine.update(Plus(-1.0), &mut [x], &[y])?;
    Ok(machine.dot(x, x)?.sqrt())
}

fn copy_of<M: Machine>(machine: &M, tensor: &TensorOf<M>) -> Result<TensorOf<M>> {
    let shape = M::Storage::layout(&M::Storage::view(tensor)).shape();
    let mut copy = machine.storage().allocate(Layout::contiguous(shape)?)?;
    machine.copy(tensor, &mut copy)?;
    Ok(copy)
}

impl<M: Machine> Learner<M> {
    /// Computes the meta-gradient of the first order and the whole one, which is left where [`Learner::meta_gradient`]
    /// leaves it, and says what lies between them: for each parameter, for groups of them, and for all.
    pub fn second_order_path(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        groups: &[(&str, &[&str])],
    ) -> Result<SecondOrderPath> {
        let names: Vec<String> = self.names().map(str::to_owned).collect();
        let unknown = |name: &&&str| !names.iter().any(|other| other == **name);
        if let Some(name) = groups.iter().flat_map(|(_, names)| *names).find(unknown) {
            return Err(Error::Unpaired { name: (*name).to_owned(), model: "either" });
        }
        self.meta_gradient(machine, start, inner, Mode::FirstOrder)?;
        let mut first = self.gradients().map(|g| copy_of(machine, g)).collect::<Result<Vec<_>>>()?;
        self.meta_gradient(machine, start, inner, Mode::Full)?;
        let mut parameters = Vec::with_capacity(names.len());
        for ((name, first), full) in names.into_iter().zip(&mut first).zip(self.gradients()) {
            let norm = machine.dot(full, full)?.sqrt();
            parameters.push(Contribution { name, full: norm, second_order: distance(machine, first, full)? });
        }
        let group = |(name, names): &(&str, &[&str])| {
            Contribution::of(name, &parameters.iter().filter(|part| names.contains(&part.name.as_str())))
        };
        Ok(SecondOrderPath {
            groups: groups.iter().map(group).collect(),
            whole: Contribution::of("global", &parameters.iter()),
            parameters,
        })
    }

    /// How far the gradients that were computed last are from those of an oracle, in the order of [`Learner::names`]:
    /// |g - g*| / |g*|.
    pub fn gradient_error(&self, machine: &M, oracle: &[&TensorOf<M>]) -> Result<f64> {
        expect("an oracle", oracle.len(), self.gradients().count())?;
        let (mut off, mut whole) = (0.0, 0.0);
        for (given, expected) in self.gradients().zip(oracle) {
            off += distance(machine, &mut copy_of(machine, given)?, expected)?.powi(2);
            whole += machine.dot(expected, expected)?;
        }
        Ok(part(off.sqrt(), whole.sqrt()))
    }
}
