//! The networks of the family.

use crate::ops::{Activation, Padding};

/// Blocks of one kind: expansion to `expand` · its input's channels, depthwise convolution, projection. The first of them
/// has the stride.
#[derive(Debug)]
pub(super) struct Stage {
    kernel: usize,
    stride: usize,
    expand: usize,
    output: usize,
    blocks: usize,
}

/// What distinguishes one EfficientNet from another.
#[derive(Debug)]
pub(super) struct Variant {
    pub name: &'static str,
    pub stem: usize,
    pub stages: &'static [Stage],
    pub squeeze_excite: bool,
    pub activation: Activation,
    pub eps: f64,
    pub pads: Pads,
}

/// What images are padded for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pads {
    /// TensorFlow's "SAME", for the size that they have.
    Own,
    /// The same, for images of this size, whatever they have.
    Of(usize),
    /// As much on every side.
    Symmetric,
}

impl Pads {
    /// For a square kernel, and images that have one size and those of [`Pads::Of`] another by then.
    pub fn around(self, size: [usize; 2], of: [usize; 2], kernel: usize, stride: usize) -> Padding {
        match self {
            Self::Own => Padding::same(size, [kernel; 2], stride),
            Self::Of(_) => Padding::same(of, [kernel; 2], stride),
            Self::Symmetric => Padding::all(kernel / 2),
        }
    }
}

/// One block, the `place`-th of a stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub stage: usize,
    pub place: usize,
    pub kernel: usize,
    pub stride: usize,
    pub expand: usize,
    pub input: usize,
    pub output: usize,
}

impl Variant {
    /// The blocks, one after another.
    pub fn blocks(&self) -> Vec<Block> {
        let mut input = self.stem;
        let mut blocks = Vec::new();
        for (stage, of) in self.stages.iter().enumerate() {
            for place in 0..of.blocks {
                let stride = if place == 0 { of.stride } else { 1 };
                let Stage { kernel, expand, output, .. } = *of;
                blocks.push(Block { stage, place, kernel, stride, expand, input, output });
                input = output;
            }
        }
        blocks
    }

    /// The last block at each stride from 2 to `deepest`.
    pub fn taps(&self, deepest: usize) -> Vec<usize> {
        let blocks = self.blocks();
        let mut stride = 2;
        let mut taps = Vec::new();
        for i in 1..=blocks.len() {
            let next = blocks.get(i).map_or(2, |block| block.stride);
            if next > 1 && stride <= deepest {
                taps.push(i - 1);
            }
            stride *= next;
        }
        taps
    }
}

const fn stage(kernel: usize, stride: usize, expand: usize, output: usize, blocks: usize) -> Stage {
    Stage { kernel, stride, expand, output, blocks }
}

const B4: Variant = Variant {
    name: "efficientnet-b4",
    stem: 48,
    stages: &[
        stage(3, 1, 1, 24, 2),
        stage(3, 2, 6, 32, 4),
        stage(5, 2, 6, 56, 4),
        stage(3, 2, 6, 112, 6),
        stage(5, 1, 6, 160, 6),
        stage(5, 2, 6, 272, 8),
        stage(3, 1, 6, 448, 2),
    ],
    squeeze_excite: true,
    activation: Activation::Silu,
    eps: 1e-3,
    pads: Pads::Own,
};

const LITE0: Variant = Variant {
    name: "efficientnet-lite0",
    stem: 32,
    stages: &[
        stage(3, 1, 1, 16, 1),
        stage(3, 2, 6, 24, 2),
        stage(5, 2, 6, 40, 2),
        stage(3, 2, 6, 80, 3),
        stage(5, 1, 6, 112, 3),
        stage(5, 2, 6, 192, 4),
        stage(3, 1, 6, 320, 1),
    ],
    squeeze_excite: false,
    activation: Activation::Relu6,
    eps: 1e-3,
    pads: Pads::Own,
};

const LITE1: Variant = Variant {
    name: "efficientnet-lite1",
    stages: &[
        stage(3, 1, 1, 16, 1),
        stage(3, 2, 6, 24, 3),
        stage(5, 2, 6, 40, 3),
        stage(3, 2, 6, 80, 4),
        stage(5, 1, 6, 112, 4),
        stage(5, 2, 6, 192, 5),
        stage(3, 1, 6, 320, 1),
    ],
    ..LITE0
};

const LITE2: Variant = Variant {
    name: "efficientnet-lite2",
    stages: &[
        stage(3, 1, 1, 16, 1),
        stage(3, 2, 6, 24, 3),
        stage(5, 2, 6, 48, 3),
        stage(3, 2, 6, 88, 4),
        stage(5, 1, 6, 120, 4),
        stage(5, 2, 6, 208, 5),
        stage(3, 1, 6, 352, 1),
    ],
    ..LITE0
};

pub(super) static VARIANTS: [Variant; 6] = [
    LITE0,
    LITE1,
    LITE2,
    B4,
    Variant { name: "efficientnet-b4-reference", pads: Pads::Of(380), ..B4 },
    Variant { name: "efficientnet-b4-symmetric", eps: 1e-5, pads: Pads::Symmetric, ..B4 },
];
