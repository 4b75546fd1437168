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

/// The error that is allowed. What is divided by, Adam divides by once more. In 16 bits its steps, which are as large as the
/// parameters here, have no bound: where parameters are off by what rounds them, the exact answer is another one.
fn bound(subject: Subject, optimiser: &str) -> Option<f64> {
    match (subject.dtype, optimiser) {
        (DType::F64, "adam") => Some(1e-12),
        (DType::F64, _) => Some(1e-13),
        (DType::F32, "adam") => Some(10.0 * subject.bound()),
        (_, "adam") => None,
        _ => Some(subject.bound()),
    }
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
            let is_judged = bits.is_some() || row.number("bound").is_some() || row.number("error").is_none();
            add(if is_judged { row.judged(judged, Verdict::Passed) } else { row })?;
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
                .with("bound", oracle.and_then(|_| bound(subject, optimiser)))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The exact meta-gradient where parameters are off by a part of themselves, this way and that.
    struct Near<'a>(&'a Fixture, f64, u64);

    impl Visit for Near<'_> {
        type Output = Learned<Vec<f64>>;

        fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
            let Self(fixture, part, seed) = self;
            let mut bits = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut near = |x: f64| {
                bits ^= bits << 13;
                bits ^= bits >> 7;
                bits ^= bits << 17;
                x * (1.0 + if bits & 1 == 0 { part } else { -part })
            };
            let mut workload = fixture.workload_near(machine, &mut near)?;
            let parameters = workload.learner.rate_gradients().len();
            workload.gradient(
                machine,
                &Inner::new(STEPS, OPTIMISERS[2].2, RATE, parameters),
                MetaMode::Full.mode(),
            )
        }
    }

    #[test]
    fn adam_has_no_bound_in_sixteen_bits_because_what_rounds_its_parameters_changes_the_exact_answer() {
        let fixture = Fixture::open().unwrap();
        let oracle = fixture.gradient(OPTIMISERS[2].1);
        let median = |part: f64| {
            let exact = |seed| Subject::REFERENCE.visit(Near(&fixture, part, seed)).unwrap().unwrap();
            let mut off: Vec<f64> = (1..=31).map(|seed| error(&exact(seed), &oracle)).collect();
            off.sort_by(f64::total_cmp);
            off[15]
        };
        assert!(median(2_f64.powi(-9)) > 0.2, "{}", median(2_f64.powi(-9)));
        // As exact as f32 it is another matter.
        assert!(median(2_f64.powi(-24)) < 1e-4, "{}", median(2_f64.powi(-24)));
        for subject in Subject::all(&[crate::backend::Backend::CudaFused]) {
            assert_eq!(bound(subject, "adam").is_none(), subject.dtype.size() == 2, "{}", subject.dtype);
        }
    }
}
