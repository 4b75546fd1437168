//! Where rows come from: the program, the compiler and the machine.

use serde_json::{Map, Value, json};

use crate::bench::Host;

/// Keys of a row that say where it comes from.
pub(super) const KEYS: [&str; 7] = ["git", "toolchain", "cpu", "threads", "device", "driver", "cuda"];

/// Where rows come from.
#[derive(Clone, Debug)]
pub struct Origin(Map<String, Value>);

impl Origin {
    /// This program, on the CPU or on the device of this process.
    pub fn here(on_device: bool) -> Self {
        let host = Host::here(on_device);
        let of_host = KEYS.into_iter().filter(|key| *key != "toolchain");
        let mut all: Map<_, _> = of_host.map(|key| (key.to_owned(), host.json()[key].clone())).collect();
        all.insert("toolchain".into(), json!(env!("THERIA_TOOLCHAIN")));
        Self(all)
    }

    /// As part of a row.
    pub(super) fn json(&self) -> Map<String, Value> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_names_the_compiler_and_the_processor_and_a_device_where_there_is_one() {
        let here = Origin::here(false).json();
        assert!(KEYS.iter().all(|key| here.contains_key(*key)) && here.len() == KEYS.len(), "{here:?}");
        assert!(here["toolchain"].as_str().unwrap().starts_with("rustc 1."), "{here:?}");
        assert_eq!((&here["device"], &here["driver"]), (&json!("cpu"), &Value::Null));
    }
}
