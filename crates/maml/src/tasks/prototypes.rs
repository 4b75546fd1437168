//! Classification of sequences that show a prototype in noise.

use super::parameter::Parameters;
use super::{SampleShape, Samples, Stream, Target, Task, TaskSource};
use crate::Result;

const LAW: u32 = 0x200;
const SUPPORT: u32 = 0x201;
const QUERY: u32 = 0x202;

/// Sequences of noise that show the prototype of their class at a few positions, which no sequence tells.
///
/// ```text
/// prototype_c ~ N(0, I)      positions: different ones of 1 … length - 1     once a task
/// class ~ uniform            x_t = σ n                                       for each sequence
///                            x_t = prototype_class + σ/2 n                   at the positions     n ~ N(0, I)
/// ```
///
/// Row 0 never carries a signal: a model may read the sequence from there. Support and query share prototypes and
/// positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prototypes {
    /// Rows of a sequence, T.
    pub length: usize,
    /// Columns of a row, D.
    pub width: usize,
    /// Classes.
    pub classes: usize,
    /// Positions that show the prototype.
    pub signals: usize,
    /// σ.
    pub noise: f64,
    /// Sequences to adapt to.
    pub support: usize,
    /// Sequences to judge by.
    pub query: usize,
}

impl Default for Prototypes {
    fn default() -> Self {
        Self { length: 32, width: 64, classes: 5, signals: 4, noise: 1.0, support: 16, query: 16 }
    }
}

/// What a task is about.
#[derive(Clone, Debug, PartialEq)]
pub struct PrototypeLaw {
    /// classes × width, the last varying fastest.
    pub prototypes: Vec<f64>,
    /// Rows that show the prototype, in rising order.
    pub positions: Vec<usize>,
}

impl Prototypes {
    /// The prototypes and positions of a task.
    pub fn law(&self, seed: u64, number: u64) -> Result<PrototypeLaw> {
        self.check()?;
        let mut stream = Stream::new(seed, number, LAW);
        let mut positions: Vec<usize> =
            stream.choose(self.signals, self.length - 1).into_iter().map(|place| place + 1).collect();
        positions.sort_unstable();
        let prototypes = (0..self.classes * self.width).map(|_| stream.normal()).collect();
        Ok(PrototypeLaw { prototypes, positions })
    }

    fn check(&self) -> Result<()> {
        let parameters = Parameters("prototypes");
        let counts = [
            ("width", self.width),
            ("classes", self.classes),
            ("support", self.support),
            ("query", self.query),
        ];
        for (name, count) in counts {
            parameters.positive(name, count)?;
        }
        parameters.within("length", self.length, &(2..=usize::MAX))?;
        parameters.within("signals", self.signals, &(1..=self.length - 1))?;
        parameters.noise(self.noise)
    }

    fn sequences(&self, law: &PrototypeLaw, mut stream: Stream, count: usize) -> Samples {
        let mut sequences = Samples::with_room(self.shape(), count);
        for _ in 0..count {
            let class = stream.below(self.classes);
            let prototype = &law.prototypes[class * self.width..][..self.width];
            let mut rows: Vec<f64> =
                (0..self.length * self.width).map(|_| self.noise * stream.normal()).collect();
            for position in &law.positions {
                for (x, shown) in rows[position * self.width..].iter_mut().zip(prototype) {
                    *x = shown + 0.5 * *x;
                }
            }
            sequences.push(rows, [class as f64]);
        }
        sequences
    }
}

impl TaskSource for Prototypes {
    fn shape(&self) -> SampleShape {
        SampleShape { length: self.length, columns: self.width, target: Target::Class(self.classes) }
    }

    fn support_count(&self) -> usize {
        self.support
    }

    fn query_count(&self) -> usize {
        self.query
    }

    fn task(&self, seed: u64, number: u64) -> Result<Task> {
        let law = self.law(seed, number)?;
        Ok(Task {
            support: self.sequences(&law, Stream::new(seed, number, SUPPORT), self.support),
            query: self.sequences(&law, Stream::new(seed, number, QUERY), self.query),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean over the sequences of a class of the squared distance, in units of its standard error, of the mean row at
    /// `t` from what it should be: near 1 if it is that.
    fn distance(sequences: &Samples, class: usize, t: usize, expected: &[f64], noise: f64) -> f64 {
        let width = sequences.shape.columns;
        let of_class: Vec<&[f64]> = (0..sequences.count)
            .filter(|n| sequences.target(*n)[0] == class as f64)
            .map(|n| &sequences.input(n)[t * width..][..width])
            .collect();
        let count = of_class.len() as f64;
        let squares = expected.iter().enumerate().map(|(column, expected)| {
            let mean = of_class.iter().map(|row| row[column]).sum::<f64>() / count;
            (mean - expected).powi(2) * count / (noise * noise)
        });
        squares.sum::<f64>() / width as f64
    }

    #[test]
    fn signal_positions_show_the_prototype_and_the_others_do_not() {
        let source = Prototypes { support: 400, query: 400, ..Prototypes::default() };
        let task = source.task(7, 3).unwrap();
        let law = source.law(7, 3).unwrap();
        // Five standard errors of a mean of 64 squares of normal numbers.
        let bound = 1.0 + 5.0 * (2.0_f64 / 64.0).sqrt();
        for sequences in [&task.support, &task.query] {
            for class in 0..5 {
                let prototype = &law.prototypes[class * 64..][..64];
                for t in 0..32 {
                    let shown = distance(sequences, class, t, prototype, 0.5);
                    let noise = distance(sequences, class, t, &[0.0; 64], 1.0);
                    let signal = law.positions.contains(&t);
                    assert_eq!(shown < bound, signal, "row {t} of class {class}: {shown}");
                    assert_eq!(noise < bound, !signal, "row {t} of class {class}: {noise}");
                }
                // Negative control: the prototype of another class is not what they show.
                let other = &law.prototypes[(class + 1) % 5 * 64..][..64];
                assert!(distance(sequences, class, law.positions[0], other, 0.5) > 10.0 * bound);
            }
        }
    }

    #[test]
    fn classes_are_balanced_and_positions_even_but_never_the_first() {
        let source = Prototypes { width: 1, ..Prototypes::default() };
        let (mut classes, mut positions) = ([0_u32; 5], [0_u32; 32]);
        for number in 0..4_000 {
            let law = source.law(1, number).unwrap();
            assert!(law.positions.windows(2).all(|two| two[0] < two[1]) && law.positions.len() == 4);
            law.positions.iter().for_each(|t| positions[*t] += 1);
            let task = source.task(1, number).unwrap();
            for class in task.support.targets.iter().chain(&task.query.targets) {
                classes[*class as usize] += 1;
            }
        }
        // Five deviations of a binomial count.
        let near = |count: u32, trials: f64, p: f64| {
            (f64::from(count) - trials * p).abs() < 5.0 * (trials * p * (1.0 - p)).sqrt()
        };
        assert!(classes.iter().all(|n| near(*n, 128_000.0, 0.2)), "{classes:?}");
        assert_eq!(positions[0], 0);
        assert!(positions[1..].iter().all(|n| near(*n, 4_000.0, 4.0 / 31.0)), "{positions:?}");
    }

    #[test]
    fn noise_scales_what_is_no_signal_and_changes_nothing_else() {
        let quiet = Prototypes { noise: 0.0, ..Prototypes::default() };
        let task = quiet.task(7, 3).unwrap();
        assert_eq!(task.support.targets, Prototypes::default().task(7, 3).unwrap().support.targets);
        let law = quiet.law(7, 3).unwrap();
        for (n, class) in task.support.targets.iter().enumerate() {
            for (t, row) in task.support.input(n).chunks_exact(64).enumerate() {
                let shown = &law.prototypes[*class as usize * 64..][..64];
                assert_eq!(row, if law.positions.contains(&t) { shown } else { &[0.0; 64] });
            }
        }
    }
}
