//! Named lists of shapes.

use super::Shape;

/// A named list of shapes.
#[derive(Debug)]
pub struct Preset {
    /// The name on the command line.
    pub name: &'static str,
    /// What is in it.
    pub shapes: &'static [Shape],
}

impl Preset {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self {
            name: "small",
            shapes: &[
                Shape::plain([1, 2, 128, 64]),
                Shape::plain([1, 4, 256, 64]),
                Shape::plain([1, 8, 512, 64]),
                Shape::causal([1, 8, 512, 64]),
            ],
        },
        Self { name: "vit", shapes: &[Shape::plain([64, 12, 197, 64])] },
        Self { name: "mission", shapes: &[Shape::plain([2, 8, 512, 64])] },
        Self {
            name: "medium",
            shapes: &[Shape::plain([16, 16, 1024, 64]), Shape::plain([16, 16, 1024, 128])],
        },
        Self {
            name: "long",
            shapes: &[
                Shape::plain([4, 16, 4096, 64]),
                Shape::plain([4, 16, 4096, 128]),
                Shape::plain([1, 16, 16384, 64]),
                Shape::plain([1, 16, 16384, 128]),
                Shape::plain([2, 8, 8192, 256]),
                Shape::causal([4, 16, 4096, 128]),
                Shape::causal([1, 16, 16384, 128]),
            ],
        },
        // The shapes by which the CUDA kernels are judged.
        Self {
            name: "kernels",
            shapes: &[
                Shape::plain([2, 8, 512, 64]),
                Shape::plain([64, 12, 197, 64]),
                Shape::plain([16, 16, 1024, 64]),
                Shape::plain([4, 16, 4096, 64]),
                Shape::plain([1, 16, 16384, 64]),
                Shape::plain([16, 16, 1024, 128]),
                Shape::plain([4, 16, 4096, 128]),
                Shape::plain([1, 16, 16384, 128]),
                Shape::plain([2, 8, 8192, 256]),
                Shape::causal([4, 16, 4096, 128]),
                Shape::causal([1, 16, 16384, 128]),
            ],
        },
    ];

    /// The preset of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|preset| preset.name == name)
    }
}
