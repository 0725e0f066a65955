//! Random numbers addressed by what they are for, so that any device can draw the same ones.

use crate::cpu;
use crate::error::Result;
use crate::tensor::TensorViewMut;

/// Independent sequences of random numbers of one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights; the step is the parameter's index.
    Init = 0,
    /// The order of the training images; the step is the epoch.
    Order = 1,
    /// Timesteps of training; the step is the optimiser's.
    Timestep = 2,
    /// Noise of training; the step is the optimiser's.
    Noise = 3,
    /// Which images are held out; the step is the category's index.
    HeldOut = 4,
    /// Noise of the reconstruction baseline.
    Reconstruction = 5,
    /// How an optimiser's moments are rounded; the step is the optimiser's.
    Rounding = 6,
    /// Synthetic defects; the step is the defect's index.
    Defects = 7,
    /// Around which vectors the lists of an index begin.
    Lists = 8,
}

/// Where a sequence of random numbers starts.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    /// The run's seed: Philox's key.
    pub seed: u64,
    /// Which sequence.
    pub stream: Stream,
    /// Which part of the sequence, 32 bits of it.
    pub step: u64,
}

impl Random {
    /// The block of four random words at `block`: Philox4x32-10 (Salmon et al., SC 2011) of the
    /// counter (block, step, stream), the block's low and high word first.
    pub fn words(&self, block: u64) -> [u32; 4] {
        let counter = [block as u32, (block >> 32) as u32, self.step as u32, self.stream as u32];
        cpu::philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// A number in 0..n (n ≥ 1), the `element`-th of the sequence: the high word of word·n.
    pub fn below(&self, n: u32, element: u64) -> u32 {
        let word = self.words(element / 4)[(element % 4) as usize];
        ((u64::from(word) * u64::from(n)) >> 32) as u32
    }

    /// The numbers 0..n in random order (Fisher–Yates).
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u32 + 1, i as u64) as usize);
        }
        order
    }
}

/// Fills `out` with standard normal numbers.
///
/// Elements 4i..4i+4 come from the words w of block i by Box–Muller: u = (w₀ + ½)/2³² in f32
/// gives the radius √(−2 ln u), w₁/2³² the angle in turns; cosine first, then sine; then w₂ and
/// w₃ alike. A GPU draws the same numbers, bit for bit.
///
/// # Errors
/// [`Error::DType`](crate::Error::DType) if `out` does not hold f32.
pub fn normal<'a>(random: Random, out: impl Into<TensorViewMut<'a>>) -> Result<()> {
    let out = out.into();
    on_gpu!(out, crate::cuda::ops::normal(random, out));
    cpu::normal(random, out.into_f32s("normal", "out")?);
    Ok(())
}
