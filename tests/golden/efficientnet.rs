//! What the sections of EfficientNets share.

use invad::Device;

use crate::golden::{Shared, compare, compare_absolute, compare_as_good, statistics};

/// Relative to the largest number, in f32.
pub const TOLERANCE: f64 = 5e-6;

/// The images that a network begins with, of a shape (B, 3, H, W).
#[derive(Clone)]
pub enum Pixels {
    /// (B, H, W, 3).
    Bytes { rgb: Vec<u8>, shape: [usize; 4] },
    /// (B, 3, H, W).
    Normalised { x: Vec<f32>, shape: [usize; 4] },
}

impl Pixels {
    pub fn shape(&self) -> [usize; 4] {
        match self {
            Pixels::Bytes { shape, .. } | Pixels::Normalised { shape, .. } => *shape,
        }
    }
}

/// What the blocks of a network make of images.
#[derive(Default)]
pub struct Outputs {
    pub blocks: Vec<Map>,
    /// For each image, the channels of the features so far.
    features: Vec<Vec<f32>>,
}

/// (B, C, H, W).
pub struct Map {
    pub data: Vec<f32>,
}

impl Outputs {
    /// Appends channels (B, C, h, w) to the features.
    pub fn tap(&mut self, images: usize, resized: &[f32]) {
        self.features.resize(images, Vec::new());
        let each = resized.chunks(resized.len() / images);
        self.features.iter_mut().zip(each).for_each(|(all, new)| all.extend_from_slice(new));
    }

    /// (B, C, h, w).
    pub fn features(&self) -> Vec<f32> {
        self.features.concat()
    }
}

impl Map {
    pub fn statistics(&self) -> Vec<f64> {
        statistics(&self.data)
    }
}

/// Outputs that have been computed, or why they could not be.
fn ready(outputs: &Shared<Outputs>) -> Result<&Outputs, String> {
    outputs.as_ref().as_ref().map_err(Clone::clone)
}

/// On the CPU against the reference; on a GPU as good as a plain computation in f16.
pub fn compare_features(
    device: Device,
    got: Vec<f32>,
    want: &[f64],
    naive: &Shared<Outputs>,
) -> Result<(), String> {
    match device {
        Device::Cpu => compare(got, want, TOLERANCE),
        _ => compare_as_good(got, want, ready(naive)?.features()),
    }
}

/// The same of all features of a network's outputs.
pub fn compare_all(
    device: Device,
    got: &Shared<Outputs>,
    want: &[f64],
    naive: &Shared<Outputs>,
) -> Result<(), String> {
    compare_features(device, ready(got)?.features(), want, naive)
}

/// The same of the statistics of a block, the third of which is the largest magnitude. So few numbers can be right by
/// chance, so that the plain computation in f16 is judged by all of the block, and against that in f32.
pub fn compare_block(
    device: Device,
    block: usize,
    got: &Shared<Outputs>,
    [halves, plain]: [&Shared<Outputs>; 2],
    want: &[f64],
) -> Result<(), String> {
    let map = |outputs| {
        let map = ready(outputs)?.blocks.get(block);
        map.ok_or_else(|| format!("there is no block {block}"))
    };
    let got = map(got)?.statistics();
    if device == Device::Cpu {
        return compare_absolute(got, want, TOLERANCE * want[2]);
    }
    let both = map(halves)?.data.iter().zip(&map(plain)?.data);
    let error = both.fold(0.0, |m, (half, plain)| f64::from((half - plain).abs()).max(m));
    compare_absolute(got, want, 2.0 * error + want[2] / 4096.0)
}
