//! Experiments of meta-learning as a library.

use theria_contract::Tensor;
use theria_experiments::maml::experiment::{Stage, experiment};
use theria_experiments::maml::{
    Attending, MetaMode, OptimiserName, Purpose, Result, Settings, TaskName, Training, Visit, with_machine,
};
use theria_jvp_hvp::{Opaque, Streaming};
use theria_maml::meta::{Inner, Mode};
use theria_maml::{Host, Machine};

type Cpu = Host<Streaming, f64>;

fn machine() -> Cpu {
    Cpu::new(Streaming::new())
}

/// Those that need no folder.
const DRAWN: [TaskName; 4] =
    [TaskName::Sinusoid, TaskName::Prototypes, TaskName::KeyValue, TaskName::LinearRegression];

/// Few steps of few tasks.
fn short(task: TaskName) -> Settings {
    let settings = Settings::of(task);
    let (inner_rate, batch) = (0.1 * settings.inner_rate, if task == TaskName::Prototypes { 1 } else { 3 });
    Settings { inner_steps: 2, inner_rate, batch, ..settings }
}

fn numbers(tensors: &[Tensor<f64>]) -> Vec<f64> {
    tensors.iter().flat_map(|tensor| tensor.data().to_vec()).collect()
}

/// The loss after adaptation from a start that was moved, and the gradient there.
fn at(stage: &mut Stage<Cpu>, settings: &Settings, mode: Mode, along: f64) -> (f64, Vec<f64>) {
    let machine = machine();
    let mut start = stage.begin(&machine, 1).unwrap();
    for tensor in &mut start {
        for (n, x) in tensor.data_mut().iter_mut().enumerate() {
            // Away from where biases are all zero, and then along a wave.
            *x += 0.05 * (n as f64 * 1.7 + 0.3).sin() + along * (n as f64 * 2.3).cos();
        }
    }
    let inner: Inner = settings.inner(stage.adapted());
    let task = stage.experiment().source().task(5, 7).unwrap();
    let adapted = stage.meta_gradient(&machine, &start, (&inner, mode), &task).unwrap();
    (adapted.after, stage.gradient(&machine).unwrap())
}

#[test]
fn the_whole_gradient_of_every_experiment_is_the_slope_of_its_loss_after_adaptation() {
    for task in DRAWN {
        let settings = Settings { inner_rate: Settings::of(task).inner_rate, ..short(task) };
        let mut stage = Stage::new(&machine(), experiment(&settings, Purpose::Training).unwrap()).unwrap();
        // Small, so that no unit of a network turns off on the way.
        let h = 1e-6;
        let values = [-2.0, -1.0, 1.0, 2.0].map(|n| at(&mut stage, &settings, Mode::Full, n * h).0);
        let slope = (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * h);
        let mut along = |mode| {
            let (_, gradient) = at(&mut stage, &settings, mode, 0.0);
            let lengths: Vec<usize> =
                stage.parameters().iter().map(|parameter| parameter.rows * parameter.columns).collect();
            let waves = lengths.into_iter().flat_map(|length| (0..length).map(|n| (n as f64 * 2.3).cos()));
            gradient.iter().zip(waves).map(|(g, wave)| g * wave).sum::<f64>()
        };
        let (full, first_order) = (along(Mode::Full), along(Mode::FirstOrder));
        let off = |made: f64| (made - slope).abs() / slope.abs();
        assert!(off(full) < 1e-6, "{task}: {full} {slope}");
        assert!(off(first_order) > 1e-4, "{task}: {first_order} {slope}");
    }
}

fn trained(settings: &Settings, steps: usize) -> Vec<f64> {
    let machine = machine();
    let mut training = Training::new(&machine, settings).unwrap();
    for _ in 0..steps {
        training.step().unwrap();
    }
    numbers(training.parameters())
}

#[test]
fn a_training_goes_on_from_its_checkpoint_with_the_same_bits_whatever_makes_its_steps() {
    let machine = machine();
    for outer_optimiser in OptimiserName::ALL {
        for optimiser in OptimiserName::ALL {
            let settings =
                Settings { optimiser, outer_optimiser, batch: 2, ..Settings::of(TaskName::KeyValue) };
            let mut whole = Training::new(&machine, &settings).unwrap();
            (0..3).for_each(|_| drop(whole.step().unwrap()));
            let checkpoint = whole.checkpoint().unwrap();
            let mut resumed = Training::resume(&machine, &settings, &checkpoint).unwrap();
            for _ in 0..3 {
                let (mut one, mut other) = (whole.step().unwrap(), resumed.step().unwrap());
                (one.seconds, other.seconds) = (0.0, 0.0);
                assert_eq!(one, other);
            }
            assert_eq!(whole.checkpoint().unwrap(), resumed.checkpoint().unwrap());
            assert_ne!(whole.checkpoint().unwrap(), checkpoint);
            assert_eq!(whole.evaluate(3).unwrap(), resumed.evaluate(3).unwrap());
        }
    }
}

#[test]
fn what_is_measured_beside_the_steps_does_not_change_them() {
    for task in DRAWN {
        let settings = short(task);
        let measured = Settings { rel_diff_every: 1, ..settings.clone() };
        assert_eq!(trained(&settings, 2), trained(&measured, 2), "{task}");
        let machine = machine();
        let record = Training::new(&machine, &measured).unwrap().step().unwrap();
        assert!(record.rel_diff.unwrap() > 0.0, "{task}");
        assert_eq!(record.accuracy.is_some(), [TaskName::Prototypes, TaskName::KeyValue].contains(&task));
        assert_eq!(record.rates.is_some(), settings.learn_rates, "{task}");
    }
}

#[test]
fn modes_meet_where_they_ought_to_and_nowhere_else() {
    let with = |mode| trained(&Settings { mode, ..short(TaskName::KeyValue) }, 2);
    assert_eq!(with(MetaMode::Truncated(2)), with(MetaMode::Full));
    assert_eq!(with(MetaMode::Truncated(0)), with(MetaMode::FirstOrder));
    let all = [with(MetaMode::Full), with(MetaMode::Truncated(1)), with(MetaMode::FirstOrder)];
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    // On a handle that has no more the first order has the same bits.
    let settings = Settings { mode: MetaMode::FirstOrder, ..short(TaskName::KeyValue) };
    let machine = Host::<_, f64>::new(Opaque::new(Streaming::new()));
    let mut strict = Training::new(&machine, &settings).unwrap();
    (0..2).for_each(|_| drop(strict.step().unwrap()));
    assert_eq!(numbers(strict.parameters()), all[2]);
}

/// Trains a little on whatever machine it is given.
struct Little(Settings);

impl Visit for Little {
    type Output = Result<f64>;

    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
        let mut training = Training::new(machine, &self.0)?;
        (0..2).try_for_each(|_| training.step().map(drop))?;
        Ok(training.evaluate(4)?.loss.mean)
    }
}

#[test]
fn every_experiment_trains_on_every_machine_that_is_served() {
    for task in DRAWN {
        let mut losses = Vec::new();
        for (backend, dtype) in
            [("streaming", "f64"), ("dense", "f64"), ("streaming", "f32"), ("dense", "f32")]
        {
            let settings = short(task);
            let attending: Attending = backend.parse().unwrap();
            let loss = with_machine(attending, dtype.parse().unwrap(), Little(settings)).unwrap().unwrap();
            losses.push(loss);
        }
        let off = |n: usize| (losses[n] - losses[0]).abs() / losses[0];
        assert!(off(1) < 1e-9 && off(2) < 1e-3 && off(3) < 1e-3, "{task}: {losses:?}");
    }
}

#[test]
fn what_judges_is_never_learned_from() {
    let (machine, settings) = (machine(), short(TaskName::KeyValue));
    let training = Training::new(&machine, &settings).unwrap();
    let judged = training.evaluate(3).unwrap();
    let mut stage = Stage::new(&machine, experiment(&settings, Purpose::Judging).unwrap()).unwrap();
    let mut mean_from = |first: u64| {
        let inner = Inner { learns_rates: false, ..training.inner().clone() };
        let losses = (first..first + 3).map(|number| {
            let task = stage.experiment().source().task(settings.seed, number).unwrap();
            stage
                .meta_gradient(&machine, training.parameters(), (&inner, Mode::FirstOrder), &task)
                .unwrap()
                .after
        });
        losses.sum::<f64>() / 3.0
    };
    // No training is so long that it comes to these numbers.
    assert_eq!(judged.loss.mean, mean_from(1 << 63));
    assert_ne!(judged.loss.mean, mean_from(0));
}
