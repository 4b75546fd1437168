//! What the machine is, as far as it matters here.

use std::fs;

/// A processor.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The model, as the system names it.
    pub cpu: String,
    /// Instruction sets that the CPU backends profit from, and whether they are here.
    pub features: Vec<(&'static str, bool)>,
    /// Threads that a backend uses.
    pub threads: usize,
    /// Bytes of memory, and how many are free to use; `None` where the system does not say.
    pub memory: Option<(u64, u64)>,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self {
            cpu: cpu_model().unwrap_or_else(|| format!("unnamed {} processor", std::env::consts::ARCH)),
            features: features(),
            threads: rayon::current_num_threads(),
            memory: memory(),
        }
    }
}

fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("FMA", std::is_x86_feature_detected!("fma")),
        ("AVX-512F", std::is_x86_feature_detected!("avx512f")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![("NEON", std::arch::is_aarch64_feature_detected!("neon"))]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

fn memory() -> Option<(u64, u64)> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key: &str| -> Option<u64> {
        let line = info.lines().find(|line| line.starts_with(key))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Some((bytes("MemTotal:")?, bytes("MemAvailable:")?))
}
