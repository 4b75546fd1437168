//! Meta-gradients of every mode and optimiser against those of an independent system.

use theria_contract::{DType, Error as Contract};
use theria_maml::meta::{Inner, Optimiser};
use theria_maml::{Error, Machine, Result as Learned};

use super::fixture::{Fixture, RATE, STEPS};
use super::workload::{error, same_bits};
use super::{Origin, Part, Result, Row, Subject, Verdict};
use crate::maml::{MetaMode, Visit};

/// Optimisers, by the name of the solution of the whole gradient.
const OPTIMISERS: [(&str, &str, Optimiser); 3] = [
    ("sgd", "meta_grad", Optimiser::Sgd),
    ("momentum", "momentum", Optimiser::Momentum { decay: 0.9 }),
    ("adam", "adam_eps1e3", Optimiser::Adam { first: 0.9, second: 0.999, epsilon: 1e-3 }),
];

/// What is asked of each of them, the modes without higher rules through a handle that has none at the end. A mode has the
/// bits of one before it where that is named.
const MODES: [(MetaMode, Option<MetaMode>); 7] = [
    (MetaMode::Full, None),
    (MetaMode::FirstOrder, None),
    (MetaMode::Truncated(0), Some(MetaMode::FirstOrder)),
    (MetaMode::Truncated(1), None),
    (MetaMode::Truncated(2), None),
    (MetaMode::Truncated(STEPS), Some(MetaMode::Full)),
    (MetaMode::FirstOrderStrict, Some(MetaMode::FirstOrder)),
];

type Found = Vec<Learned<Vec<f64>>>;

/// Gradients of one machine, asked for one after the other.
struct Ask<'a> {
    fixture: &'a Fixture,
    all: &'a [(Optimiser, MetaMode)],
}

impl Visit for Ask<'_> {
    type Output = Learned<Found>;

    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
        let mut workload = self.fixture.workload(machine)?;
        let parameters = workload.learner.rate_gradients().len();
        let gradient = |(optimiser, mode): &(Optimiser, MetaMode)| {
            let inner = Inner::new(STEPS, *optimiser, RATE, parameters);
            workload.gradient(machine, &inner, mode.mode())
        };
        Ok(self.all.iter().map(gradient).collect())
    }
}

/// The error that is allowed. What is divided by, Adam divides by once more.
fn bound(subject: Subject, optimiser: &str) -> f64 {
    let plain = if subject.dtype == DType::F64 { 1e-13 } else { subject.bound() };
    if optimiser == "adam" { 10.0 * plain } else { plain }
}

/// Rows of a backend, and of the negative controls that belong to it.
pub(super) fn rows(subject: Subject, origin: &Origin, add: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let fixture = Fixture::open()?;
    for (name, solution, optimiser) in OPTIMISERS {
        let strict = |mode: &MetaMode| *mode == MetaMode::FirstOrderStrict;
        let open = MODES.iter().map(|(mode, _)| *mode).filter(|mode| !strict(mode));
        let open: Vec<_> = open.map(|mode| (optimiser, mode)).collect();
        let mut found = subject.visit(Ask { fixture: &fixture, all: &open })??;
        let mut whole_of_opaque = None;
        if let Some(opaque) = subject.opaque() {
            let closed = [MetaMode::FirstOrderStrict, MetaMode::Full].map(|mode| (optimiser, mode));
            let mut strict = opaque.visit(Ask { fixture: &fixture, all: &closed })??;
            whole_of_opaque = strict.pop().map(|found| (opaque, found));
            found.append(&mut strict);
        }
        for (n, ((mode, same), found_here)) in MODES.iter().zip(&found).enumerate() {
            let oracle = match (name, mode) {
                (_, MetaMode::Full) => Some(fixture.gradient(solution)),
                ("sgd", MetaMode::Truncated(last)) => Some(fixture.truncated(*last)),
                ("sgd", MetaMode::FirstOrder | MetaMode::FirstOrderStrict) => {
                    Some(fixture.gradient("first_order_grad"))
                }
                // There is nobody to hold these against; the first order is kept to be compared with.
                (_, MetaMode::FirstOrder) => None,
                _ if same.is_some() => None,
                _ => continue,
            };
            let made = found_here.as_ref();
            let like = same.and_then(|same| MODES.iter().position(|(mode, _)| *mode == same));
            let like = like.filter(|place| *place < n).and_then(|place| found[place].as_ref().ok());
            let bits = same.map(|_| made.ok().zip(like).is_some_and(|(made, like)| same_bits(made, like)));
            let whole = fixture.gradient(solution);
            let row = row(subject, origin, (name, *mode), made, oracle.as_deref())
                .with("from_full", made.ok().map(|made| error(made, &whole)))
                .with("same_as", same.map(|same| same.to_string()))
                .with("same_bits", bits);
            let judged = verdict(&row, bits);
            add(if oracle.is_some() || bits.is_some() { row.judged(judged, Verdict::Passed) } else { row })?;
        }
        if let Some((opaque, found)) = whole_of_opaque {
            let oracle = fixture.gradient(solution);
            let row = row(opaque, origin, (name, MetaMode::Full), found.as_ref(), Some(&oracle));
            let judged = verdict(&row, None);
            add(row.judged(judged, Verdict::Refused))?;
        }
    }
    if subject == Subject::REFERENCE { controls(&fixture, origin, add) } else { Ok(()) }
}

/// A backward that is wrong has to break the bound.
fn controls(fixture: &Fixture, origin: &Origin, add: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    for wrong in Subject::WRONG {
        for (name, solution, optimiser) in OPTIMISERS {
            let found = wrong.visit(Ask { fixture, all: &[(optimiser, MetaMode::Full)] })??;
            let oracle = fixture.gradient(solution);
            for found in found {
                let row = row(wrong, origin, (name, MetaMode::Full), found.as_ref(), Some(&oracle));
                let judged = verdict(&row, None);
                add(row.judged(judged, Verdict::Failed))?;
            }
        }
    }
    Ok(())
}

fn row(
    subject: Subject,
    origin: &Origin,
    (optimiser, mode): (&str, MetaMode),
    found: Result<&Vec<f64>, &Error>,
    oracle: Option<&[f64]>,
) -> Row {
    let row = Fixture::described(Row::new(Part::Gradients, subject, origin));
    let row = row.with("optimiser", optimiser).with("mode", mode.to_string());
    let row = row.with("oracle", oracle.map(|_| "independent system"));
    match found {
        Ok(found) => {
            let off = oracle.map(|oracle| error(found, oracle));
            row.with("error", off)
                .with("bound", oracle.map(|_| bound(subject, optimiser)))
                .with("finite", found.iter().all(|x| x.is_finite()))
        }
        Err(reason) => {
            let refused = matches!(reason, Error::Attention(Contract::Refused { .. }));
            row.with("reason", reason.to_string()).with("refused", refused)
        }
    }
}

/// Refused where there is no number, and passed where it is finite, within its bound and of the bits that it ought to be.
fn verdict(row: &Row, same_bits: Option<bool>) -> Verdict {
    if row.get("refused") == true {
        return Verdict::Refused;
    }
    let within = |bound| row.number("error").is_some_and(|error| error <= bound);
    let within = row.number("bound").is_none_or(within);
    Verdict::of(within && row.get("finite") == true && same_bits != Some(false))
}
