//! Case files: what is right loads bit for bit, what is wrong is an error that says so.

mod errors;
mod fuzz;
mod round_trip;

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A file under construction: JSON header and data, free to be wrong.
#[derive(Clone, Debug)]
struct Draft {
    header: Value,
    data: Vec<u8>,
}

impl Draft {
    /// A plain case in binary32: q, k, v of shape [1, 2, 3, 4].
    fn plain() -> Self {
        let mut draft = Self { header: json!({}), data: Vec::new() };
        for name in ["q", "k", "v"] {
            draft.add(name, "F32", &[1, 2, 3, 4], 4);
        }
        draft
    }

    /// Adds a tensor of zeros.
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], width: usize) -> &mut Self {
        let start = self.data.len();
        self.data.resize(start + shape.iter().product::<usize>() * width, 0);
        self.header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, self.data.len()]});
        self
    }

    fn metadata(&mut self, entries: &[(&str, &str)]) -> &mut Self {
        self.header["__metadata__"] = json!(entries.iter().copied().collect::<BTreeMap<_, _>>());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        framed(self.header.to_string().as_bytes(), &self.data)
    }
}

/// A header of any content with its length in front.
fn framed(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}
