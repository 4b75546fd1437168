//! Wrong kernels, and whether the suite notices them: the control of the suites on a device.
//!
//! Each one is the kernel of `cuda-fused` with a mistake that somebody could make. None of them touches memory
//! that the right one does not.

use half::bf16;
use theria_contract::conformance::{Amplitude, Case, MaskPattern, Optional, Suite};
use theria_contract::{Attention, Causal, Host, ProblemBuilder, Window};
use theria_gpu_fwd::{Edit, forward};

use crate::device::conform;
use crate::evidence::{Row, rows_of};
use crate::on_device::{named, sized};

/// Cases that between them notice every mistake.
fn suite() -> Suite {
    let room = |t, m| sized(2, [2, 1], t, m, 64, 64);
    let case = |name: &str, builder| named(name.to_owned(), builder);
    let rising = |case| Case { amplitude: Amplitude::Rising, ..case };
    let lengths = vec![150, 37];
    let everything =
        room(40, 150).causal(Causal::BottomRight).bias([1, 2, 40, 150]).mask([2, 1, 1, 150]).dropout(0.2, 5);
    let cases = vec![
        case("plain", room(40, 150)),
        case("heads that share keys", sized(1, [4, 2], 40, 150, 64, 64)),
        rising(case("rising beyond what f32 holds", room(40, 700).scale(16.0))),
        rising(case("rising", room(40, 700).scale(1.0))),
        rising(case("rising, causal", room(300, 300).causal(Causal::TopLeft).scale(1.0))),
        Case { key_lengths: lengths, ..case("key lengths", room(40, 150).key_lengths()) },
        case("window", room(140, 150).window(Window::new(20, 13))),
        Case { mask: MaskPattern::Random, ..case("everything", everything) },
        Case {
            lowest_keys: 80,
            ..case("padding hidden by the lowest number", room(40, 150).bias([1, 1, 1, 150]))
        },
    ];
    Suite { cases, precision: None }
}

/// Cases that between them notice every mistake of a sweep.
fn suite_of_sweeps() -> Suite {
    let kept = ["plain", "heads that share keys", "everything"];
    suite().only(|name| kept.contains(&name))
}

/// The same of kernels for Hopper: none of these cases has a score that is looked at for itself.
fn suite_on_hopper() -> Suite {
    let mut suite =
        suite().only(|name| !matches!(name, "everything" | "padding hidden by the lowest number"));
    // The last keys come first; and there are enough rows for the largest blocks.
    let steep = |name: &str, amplitude, builder: ProblemBuilder| Case {
        amplitude,
        ..named(name.to_owned(), builder.scale(1.0))
    };
    let many = || sized(2, [66, 66], 270, 290, 64, 64);
    suite.cases.extend([
        steep("falling", Amplitude::Falling, sized(2, [2, 1], 40, 700, 64, 64)),
        steep("many heads, falling", Amplitude::Falling, many()),
        steep("many heads, rising", Amplitude::Rising, many()),
        named("many heads of 197 rows and keys".to_owned(), sized(2, [66, 66], 197, 197, 64, 64)),
    ]);
    suite
}

/// And scores whose exponents f32 has no fraction for. In the other rules lse has none either.
fn suite_of_forward_on_hopper() -> Suite {
    let mut suite = suite_on_hopper();
    for (name, keys) in [("large", 700), ("large, few keys", 480)] {
        let large = named(name.to_owned(), sized(2, [2, 1], 40, keys, 64, 64).scale(1e9));
        suite.cases.push(Case { amplitude: Amplitude::Grid, ..large });
    }
    for (name, amplitude, scale) in [
        ("falling, few keys", Amplitude::Falling, 1.0),
        ("rising, few keys", Amplitude::Rising, 1.0),
        ("falling beyond what f32 holds, few keys", Amplitude::Falling, 16.0),
    ] {
        let steep = named(name.to_owned(), sized(2, [2, 1], 40, 480, 64, 64).scale(scale));
        suite.cases.push(Case { amplitude, ..steep });
    }
    suite
}

/// Runs the right forward kernel and every wrong one; the wrong ones must fail somewhere.
pub fn noticed<B, O>(right: &B, wrong: impl Fn(Edit) -> B + Sync, oracle: &O) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host> + Sync,
{
    hold(&forward::WRONG, "forward", &suite(), right, wrong, oracle)
}

/// The same for the sweeps of the other rules.
pub fn noticed_sweeps<B, O>(right: &B, wrong: impl Fn(Edit) -> B + Sync, oracle: &O) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host> + Sync,
{
    hold(&theria_gpu_bwd::WRONG, "second-order", &suite_of_sweeps(), right, wrong, oracle)
}

/// The same for the forward on Hopper.
pub fn noticed_on_hopper<B, O>(right: &B, wrong: impl Fn(Edit) -> B + Sync, oracle: &O) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host> + Sync,
{
    hold(&forward::WRONG_ON_HOPPER, "forward", &suite_of_forward_on_hopper(), right, wrong, oracle)
}

/// The same for the sweeps of the other rules on Hopper.
pub fn noticed_sweeps_on_hopper<B, O>(right: &B, wrong: impl Fn(Edit) -> B + Sync, oracle: &O) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host> + Sync,
{
    hold(&theria_gpu_bwd::WRONG_ON_HOPPER, "second-order", &suite_on_hopper(), right, wrong, oracle)
}

/// Cases whose weights are peaked, so that 16 bits of O are too few for δ.
fn suite_of_rests() -> Suite {
    let case = |name: &str, builder: ProblemBuilder| Case {
        amplitude: Amplitude::Grid,
        ..named(name.to_owned(), builder.scale(0.5))
    };
    let cases = vec![
        case("peaked", sized(2, [2, 1], 150, 150, 64, 64)),
        case("peaked, causal", sized(2, [2, 1], 150, 150, 64, 64).causal(Causal::TopLeft)),
        case("peaked, narrow", sized(2, [2, 2], 140, 150, 16, 16)),
    ];
    Suite { cases, precision: None }
}

/// Sweeps that no block makes once more. With what rounding took from O in δ they are exact all the same, and without
/// it they are not: what is kept beside O is what makes them so.
pub fn rests_are_needed<B, O>(once: &B, without_rests: &B, oracle: &O) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host> + Sync,
{
    // In calls without rests δ is as coarse as O is, and a second sweep is what makes up for it.
    let with_rests = |backend: &B| {
        let mut report = suite_of_rests().run::<bf16, _, _>(backend, oracle);
        report.outcomes.retain(|outcome| !outcome.form.leaves_out(Optional::Rest));
        rows_of(&report)
    };
    let (mut rows, found) = (with_rests(once), with_rests(without_rests));
    let failed: Vec<&Row> = found.iter().filter(|row| row.verdict == "failed").collect();
    let by: Vec<&str> = failed.iter().map(|row| row.name.as_str()).collect();
    let holds = !failed.is_empty() && !failed.iter().any(|row| row.reason.starts_with("returned"));
    let name = "noticed: statistics do not know what rounding took";
    rows.push(Row::statement(name, "backward", "cuda-fused", "bf16", holds, format!("by {}", by.join("; "))));
    rows
}

fn hold<B, O>(
    list: &[(&str, Edit)],
    rule: &str,
    suite: &Suite,
    right: &B,
    wrong: impl Fn(Edit) -> B + Sync,
    oracle: &O,
) -> Vec<Row>
where
    B: Attention<bf16>,
    O: Attention<f64, Storage = Host> + Sync,
{
    let mut rows = conform::<bf16, _, _>(suite, right, oracle);
    let noticed = |(what, edit): &(&str, Edit)| {
        let found = conform::<bf16, _, _>(suite, &wrong(*edit), oracle);
        let failed: Vec<&Row> = found.iter().filter(|row| row.verdict == "failed").collect();
        // A kernel that does not compile is no wrong result.
        let broken = failed.iter().find(|row| row.reason.starts_with("returned"));
        let by: Vec<&str> = failed.iter().map(|row| row.name.as_str()).collect();
        let by = broken.map_or_else(|| format!("by {}", by.join("; ")), |row| row.reason.clone());
        let (name, holds) = (format!("noticed: {what}"), broken.is_none() && !failed.is_empty());
        Row::statement(name, rule, "cuda-fused", "bf16", holds, by)
    };
    // Most of the time is that of the compiler and of the judge.
    std::thread::scope(|scope| {
        let noticed = &noticed;
        let all: Vec<_> = list.iter().map(|edit| scope.spawn(move || noticed(edit))).collect();
        rows.extend(all.into_iter().map(|one| one.join().expect("a wrong kernel is judged, not a panic")));
    });
    rows
}

#[cfg(test)]
mod tests {
    use theria_gpu_fwd::{Architecture, Edit, KernelSpec};

    /// What is changed is there once in the text of one of the kernels whose names start like this, or in a header of it.
    fn all_change(list: &[(&str, Edit)], kernels: &[KernelSpec], start: &str) {
        let of_these: Vec<&KernelSpec> =
            kernels.iter().filter(|kernel| kernel.name.starts_with(start)).collect();
        for (what, edit) in list {
            let changed = of_these.iter().any(|kernel| kernel.source.edited(*edit).is_some());
            assert!(changed, "{what}: {edit:?}");
        }
    }

    #[test]
    fn every_change_is_of_something_that_is_there_once() {
        let kernels = theria_gpu_fwd::forward::kernels(Architecture::SM_90A);
        all_change(&theria_gpu_fwd::forward::WRONG, &kernels, "fused-forward");
        all_change(&theria_gpu_fwd::forward::WRONG_ON_HOPPER, &kernels, "hopper");
    }

    #[test]
    fn every_change_of_a_sweep_is_of_something_that_is_there_once() {
        let kernels = theria_gpu_bwd::kernels(Architecture::SM_90A);
        all_change(&theria_gpu_bwd::WRONG, &kernels, "fused");
        all_change(&theria_gpu_bwd::WRONG_ON_HOPPER, &kernels, "hopper");
        all_change(&[("every block sweeps once", theria_gpu_bwd::ONCE)], &kernels, "fused-queries");
        let statistics = [("statistics know no rests", theria_gpu_bwd::WITHOUT_RESTS)];
        all_change(&statistics, &kernels, "reference-statistics");
    }
}
