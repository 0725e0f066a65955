//! The reconstruction that inversion is compared with.

use super::{Inverter, Workspace};
use crate::error::{Error, Result};
use crate::ops::{self, expect_shape};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

/// Features are noised and denoised again: what comes back different is anomalous.
///
/// At the S timesteps of an [`Inverter`], with k its noise step: x_k = √ᾱ_k·x + √(1−ᾱ_k)·n, then from i = k − 1 down to 0
/// DDIM steps (Song et al., 2021, η = 0) from ᾱ_i to ᾱ_{i−1}, ᾱ_{−1} = 1. That the first evaluation is told timestep
/// k − 1 while the noise is that of k is the method's reference implementation's, whose figures depend on it.
#[derive(Debug)]
pub struct Reconstructor {
    inverter: Inverter,
    noise_step: usize,
}

/// How far images are from their reconstructions.
#[derive(Clone, Debug, PartialEq)]
pub struct ReconstructionErrors {
    /// (B, G²): at each cell the mean over channels of the squared difference.
    pub maps: Vec<Vec<f32>>,
    /// Of each image the mean of its map.
    pub means: Vec<f64>,
}

impl Reconstructor {
    /// With the network and timesteps of an inverter, from step `noise_step` on.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `noise_step` is one of the inverter's steps.
    pub fn new(inverter: Inverter, noise_step: usize) -> Result<Self> {
        let steps = inverter.timesteps().len();
        if noise_step >= steps {
            let expected = format!("below {steps}, the number of steps");
            return Err(Error::argument("Reconstructor", "noise_step", expected, noise_step));
        }
        Ok(Self { inverter, noise_step })
    }

    /// The timesteps that the network is told, in the order of its evaluations.
    pub fn timesteps(&self) -> impl Iterator<Item = usize> {
        self.inverter.timesteps()[..self.noise_step].iter().rev().copied()
    }

    /// Buffers for batches of `batch` images.
    ///
    /// # Errors
    /// As [`Inverter::workspace`].
    pub fn workspace(&self, batch: usize) -> Result<Workspace> {
        self.inverter.workspace(batch)
    }

    /// x_k. `x`: (B, G, G, C); `noise`: (1, G, G, C), of all images the same; f32, on the CPU.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes are others; [`Error::Device`] if a tensor is elsewhere.
    pub fn noised(&self, x: &Tensor, noise: &Tensor) -> Result<Tensor> {
        const OP: &str = "Reconstructor::noised";
        let images = x.shape().first().copied().unwrap_or(0);
        let mut one = x.shape().to_vec();
        one.iter_mut().take(1).for_each(|images| *images = 1);
        expect_shape(OP, "noise", noise.shape(), &one)?;
        let alpha = self.inverter.respaced().alpha(self.noise_step);
        let host = |numbers, shape: &[usize]| Tensor::from_f32(numbers, shape, Device::Cpu);
        let factors = |factor: f64| host(vec![factor as f32; images], &[images]);
        let noise = host(noise.view().f32s(OP, "noise")?.repeat(images), x.shape())?;
        let (signal, of_noise) = (factors(alpha.sqrt())?, factors((1.0 - alpha).sqrt())?);
        let mut noised = Tensor::zeros(x.shape(), DType::F32, Device::Cpu)?;
        ops::add_noise(x, &noise, &signal, &of_noise, &mut noised)?;
        Ok(noised)
    }

    /// Evaluates the network at timestep i, i < k, and moves `x` from its noise level to that of i − 1.
    ///
    /// # Errors
    /// As [`Inverter::invert`]; [`Error::Argument`] if there is no such step.
    pub fn step(&self, i: usize, x: TensorViewMut<'_>, space: &mut Workspace) -> Result<()> {
        self.inverter.denoise(i, x, space)
    }

    /// All steps, from x_k to the reconstruction, in place. `x`: (B, G, G, C), f32, on the inverter's device.
    ///
    /// # Errors
    /// As [`Inverter::invert`].
    pub fn reconstruct<'a>(
        &self,
        x: impl Into<TensorViewMut<'a>>,
        space: &mut Workspace,
    ) -> Result<()> {
        let mut x = x.into();
        (0..self.noise_step).rev().try_for_each(|i| self.step(i, x.reborrow(), space))
    }
}

/// How far `x` is from `reconstruction`; (B, G, G, C), f32 or f16.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or are others.
pub fn reconstruction_errors<'a>(
    x: impl Into<TensorView<'a>>,
    reconstruction: impl Into<TensorView<'a>>,
) -> Result<ReconstructionErrors> {
    const OP: &str = "reconstruction_errors";
    let (x, y) = (x.into(), reconstruction.into());
    let [images, height, width, channels] = ops::expect_axes(OP, "x", x.shape(), "(B, G, G, C)")?;
    expect_shape(OP, "reconstruction", y.shape(), x.shape())?;
    let (x, y, cells) = (x.to_vec_f32(), y.to_vec_f32(), height * width);
    if cells * channels == 0 {
        let expected = "(B, G, G, C) with at least one cell and channel";
        return Err(Error::shape(OP, "x", expected, &[images, height, width, channels]));
    }
    let squares = |(x, y): (&[f32], &[f32])| -> f64 {
        let squares = x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
        squares.sum::<f64>() / channels as f64
    };
    let of_cells = x.chunks_exact(channels).zip(y.chunks_exact(channels)).map(squares);
    let of_cells: Vec<f64> = of_cells.collect();
    let images = of_cells.chunks_exact(cells);
    Ok(ReconstructionErrors {
        means: images.clone().map(|map| map.iter().sum::<f64>() / cells as f64).collect(),
        maps: images.map(|map| map.iter().map(|&v| v as f32).collect()).collect(),
    })
}
