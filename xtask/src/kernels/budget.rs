//! What kernels may need of a device. The budget holds the registers of every instance, so that a
//! change of one is seen; spills, stack frames and the limits of the hardware are no matter of budget.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};

use super::report::{Instance, Needs, Outcome};

/// Registers of a multiprocessor, which a block cannot exceed.
const REGISTER_FILE: u32 = 65_536;
/// Registers are given to a thread by this number.
const REGISTER_UNIT: u32 = 8;
/// Bytes of shared memory that one block can have.
const SHARED_LIMITS: [(&str, u32); 3] = [("sm_80", 163 << 10), ("sm_89", 99 << 10), ("sm_90a", 227 << 10)];

const HEAD: &str = "\
# Registers of a thread that each instance may need, by architecture, as NVRTC's assembler reports them.
# Written by `cargo xtask kernels --bless`, checked by `cargo xtask kernels --check`. Spills, stack frames
# and shared memory beyond a block's limit are errors that no line of this file allows.
";

/// Registers by architecture and instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Budget(BTreeMap<String, BTreeMap<String, u32>>);

impl Budget {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml_edit::de::from_str(text).map(Self).context(
            "a budget has a table for each architecture, with lines `\"instance\" = registers`; \
             `cargo xtask kernels --bless` writes it",
        )
    }

    /// Exactly what these instances need.
    pub(crate) fn of(instances: &[Instance]) -> Self {
        let mut budget = Self::default();
        for Instance { name, architecture, outcome } in instances {
            if let Outcome::Compiled(needs) = outcome {
                budget.0.entry(architecture.clone()).or_default().insert(name.clone(), needs.registers);
            }
        }
        budget
    }

    /// How many instances need less than they may.
    pub(crate) fn tighter(&self, instances: &[Instance]) -> usize {
        let needs_less = |instance: &&Instance| match &instance.outcome {
            Outcome::Compiled(needs) => self.registers(instance).is_some_and(|most| needs.registers < most),
            Outcome::Refused { .. } => false,
        };
        instances.iter().filter(needs_less).count()
    }

    fn registers(&self, instance: &Instance) -> Option<u32> {
        self.0.get(&instance.architecture)?.get(&instance.name).copied()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HEAD}")?;
        for (architecture, lines) in &self.0 {
            write!(f, "\n[{architecture}]\n")?;
            for (name, registers) in lines {
                writeln!(f, "{} = {registers}", toml_edit::Value::from(name.as_str()))?;
            }
        }
        Ok(())
    }
}

/// One thing wrong with one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    architecture: String,
    name: String,
    pub(crate) breach: Breach,
}

impl Violation {
    pub(crate) fn instance(&self) -> String {
        format!("{} {}", self.architecture, self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    #[error("it does not compile: {0}")]
    Refused(String),
    #[error("it spills: {stores} bytes of stores, {loads} bytes of loads")]
    Spills { stores: u32, loads: u32 },
    #[error("it has a stack frame of {0} bytes")]
    Stack(u32),
    #[error("its asynchronous products are serialised")]
    Serialised,
    #[error("it needs {used} registers, its budget is {budget}")]
    OverBudget { used: u32, budget: u32 },
    #[error("a block needs {registers} registers for each of {threads} threads; there are {REGISTER_FILE}")]
    RegisterFile { registers: u32, threads: u32 },
    #[error("a block needs {used} bytes of shared memory, {limit} is the most")]
    Shared { used: u32, limit: u32 },
    #[error("no limit of shared memory is known for this architecture")]
    UnknownArchitecture,
    #[error("it needs {0} registers and has no budget")]
    NoBudget(u32),
    #[error("the budget has a line for it, and there is no such instance")]
    NoInstance,
}

/// What to do about a breach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Remedy {
    #[error("does not compile: correct the source, or leave the instance out of `forward::kernels`")]
    CorrectSource,
    #[error(
        "spills, stack frames, serialised products: no budget allows them; give a thread less to hold \
         (smaller tiles, more warps) or more registers (fewer blocks on a multiprocessor)"
    )]
    FewerRegisters,
    #[error("a block beyond the hardware cannot be launched: shrink it, or let another instance serve there")]
    SmallerBlock,
    #[error("an architecture of its own needs its limit in xtask/src/kernels/budget.rs")]
    NameLimit,
    #[error("registers and names: when the change is meant, `cargo xtask kernels --bless` writes the budget")]
    Bless,
}

impl Breach {
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Refused(_) => Remedy::CorrectSource,
            Self::Spills { .. } | Self::Stack(_) | Self::Serialised => Remedy::FewerRegisters,
            Self::RegisterFile { .. } | Self::Shared { .. } => Remedy::SmallerBlock,
            Self::UnknownArchitecture => Remedy::NameLimit,
            Self::OverBudget { .. } | Self::NoBudget(_) | Self::NoInstance => Remedy::Bless,
        }
    }
}

/// Everything wrong, in the order of the instances, then lines of the budget that have none.
pub(crate) fn judge(instances: &[Instance], budget: &Budget) -> Vec<Violation> {
    let mut violations = Vec::new();
    for instance in instances {
        let Instance { name, architecture, outcome } = instance;
        let breaches = match outcome {
            Outcome::Refused { error } => vec![Breach::Refused(error.replace('\n', "\n    "))],
            Outcome::Compiled(needs) => breaches(needs, architecture, budget.registers(instance)),
        };
        let violation = |breach| Violation { architecture: architecture.clone(), name: name.clone(), breach };
        violations.extend(breaches.into_iter().map(violation));
    }
    let exists = |architecture: &str, name: &str| {
        instances.iter().any(|instance| instance.architecture == architecture && instance.name == name)
    };
    for (architecture, lines) in &budget.0 {
        for name in lines.keys().filter(|name| !exists(architecture, name)) {
            let (architecture, name) = (architecture.clone(), name.clone());
            violations.push(Violation { architecture, name, breach: Breach::NoInstance });
        }
    }
    violations
}

fn breaches(needs: &Needs, architecture: &str, budget: Option<u32>) -> Vec<Breach> {
    let Needs { registers, spill_stores: stores, spill_loads: loads, stack, threads, serialised, .. } =
        *needs;
    let mut breaches = Vec::new();
    if stores > 0 || loads > 0 {
        breaches.push(Breach::Spills { stores, loads });
    }
    if stack > 0 {
        breaches.push(Breach::Stack(stack));
    }
    if serialised {
        breaches.push(Breach::Serialised);
    }
    match budget {
        None => breaches.push(Breach::NoBudget(registers)),
        Some(budget) if registers > budget => {
            breaches.push(Breach::OverBudget { used: registers, budget });
        }
        Some(_) => {}
    }
    let given = registers.next_multiple_of(REGISTER_UNIT);
    if u64::from(given) * u64::from(threads) > u64::from(REGISTER_FILE) {
        breaches.push(Breach::RegisterFile { registers, threads });
    }
    let used = needs.shared();
    match SHARED_LIMITS.iter().find(|(name, _)| *name == architecture) {
        None => breaches.push(Breach::UnknownArchitecture),
        Some(&(_, limit)) if used > limit => breaches.push(Breach::Shared { used, limit }),
        Some(_) => {}
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::report::fixture::{compiled, refused};
    use super::*;

    /// What is said of one instance with a budget of 64 registers, after a change of its needs.
    fn breach(change: impl FnOnce(&mut Needs)) -> Vec<Breach> {
        breach_on("sm_90a", change)
    }

    fn breach_on(architecture: &str, change: impl FnOnce(&mut Needs)) -> Vec<Breach> {
        let instance = compiled("fused", architecture, change);
        let budget = Budget::parse(&format!("[{architecture}]\nfused = 64\n")).expect("a budget");
        judge(&[instance], &budget).into_iter().map(|violation| violation.breach).collect()
    }

    #[test]
    fn an_instance_within_its_budget_passes() {
        assert_eq!(breach(|_| {}), []);
        assert_eq!(breach(|needs| needs.registers = 40), [], "fewer registers are no violation");
    }

    #[test]
    fn spills_stack_frames_and_serialised_products_are_errors_whatever_the_budget() {
        assert_eq!(breach(|n| n.spill_stores = 4), [Breach::Spills { stores: 4, loads: 0 }]);
        assert_eq!(breach(|n| n.spill_loads = 4), [Breach::Spills { stores: 0, loads: 4 }]);
        assert_eq!(breach(|n| n.stack = 8), [Breach::Stack(8)]);
        assert_eq!(breach(|n| n.serialised = true), [Breach::Serialised]);
        let spilling = [compiled("fused", "sm_80", |n| n.stack = 8)];
        assert_eq!(judge(&spilling, &Budget::of(&spilling)).len(), 1, "a blessed stack frame is one still");
    }

    #[test]
    fn one_register_too_many_is_an_error() {
        assert_eq!(breach(|n| n.registers = 65), [Breach::OverBudget { used: 65, budget: 64 }]);
    }

    #[test]
    fn the_registers_of_a_block_fit_a_multiprocessor() {
        let of = |registers, threads| {
            let instance = [compiled("fused", "sm_80", |needs| {
                needs.registers = registers;
                needs.threads = threads;
            })];
            judge(&instance, &Budget::of(&instance)).len()
        };
        assert_eq!(of(128, 512), 0);
        assert_eq!(of(136, 512), 1);
        assert_eq!(of(129, 512), 1, "registers are given by eight");
        assert_eq!(of(168, 384), 0);
        assert_eq!(of(170, 384), 1, "170 × 384 is below the limit, 176 × 384 is not");
    }

    #[test]
    fn shared_memory_has_the_limit_of_its_architecture() {
        for (architecture, limit) in [("sm_80", 166_912), ("sm_89", 101_376), ("sm_90a", 232_448)] {
            assert_eq!(breach_on(architecture, |n| n.dynamic_shared = limit), []);
            let over = breach_on(architecture, |n| {
                n.dynamic_shared = limit - 16;
                n.static_shared = 17;
            });
            assert_eq!(over, [Breach::Shared { used: limit + 1, limit }], "{architecture}");
        }
        assert_eq!(breach_on("sm_120a", |_| {}), [Breach::UnknownArchitecture]);
    }

    #[test]
    fn budget_and_instances_name_the_same() {
        let instances = [compiled("new", "sm_80", |_| {}), compiled("kept", "sm_90a", |_| {})];
        let budget = Budget::parse("[sm_80]\nkept = 64\n[sm_90a]\nkept = 64\n").expect("a budget");
        let found = judge(&instances, &budget);
        let found: Vec<(String, Breach)> =
            found.into_iter().map(|one| (one.instance(), one.breach)).collect();
        assert_eq!(
            found,
            [("sm_80 new".to_owned(), Breach::NoBudget(64)), ("sm_80 kept".to_owned(), Breach::NoInstance),]
        );
    }

    #[test]
    fn an_instance_that_does_not_compile_is_an_error_with_its_reason() {
        let found = judge(&[refused("broken", "sm_80")], &Budget::default());
        assert_eq!(found.len(), 1);
        assert!(found[0].breach.to_string().contains("forward.cu(3): error"), "{found:?}");
        assert_eq!(Budget::of(&[refused("broken", "sm_80")]), Budget::default());
    }

    #[test]
    fn a_blessed_budget_is_read_back_as_it_was_and_allows_what_it_was_made_from() -> Result<()> {
        let instances = [
            compiled("fused-forward-bf16-64x64", "sm_80", |n| n.registers = 128),
            compiled("b", "sm_90a", |n| n.registers = 200),
            compiled("a \"quoted\" = name", "sm_90a", |n| n.registers = 168),
        ];
        let budget = Budget::of(&instances);
        let text = budget.to_string();
        assert_eq!(Budget::parse(&text)?, budget);
        assert_eq!(Budget::parse(&text)?.to_string(), text);
        assert!(text.starts_with(HEAD), "{text}");
        assert!(text.contains("\n[sm_80]\n\"fused-forward-bf16-64x64\" = 128\n"), "{text}");
        assert_eq!(judge(&instances, &budget), []);
        assert_eq!(budget.tighter(&instances), 0);
        assert_eq!(budget.tighter(&[compiled("b", "sm_90a", |n| n.registers = 199)]), 1);
        Ok(())
    }

    #[test]
    fn what_is_no_budget_is_refused() {
        for text in
            ["fused = 64", "[sm_80]\nfused = \"many\"", "[sm_80]\nfused = -1", "[sm_80]\na = 1\na = 2", "["]
        {
            assert!(Budget::parse(text).is_err(), "{text}");
        }
        assert!(Budget::parse(HEAD).is_ok());
    }
}
