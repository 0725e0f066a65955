//! `kernels/denoising_loss.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::ops::Target;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Prediction, its gradient and x0 in f16, all else in f32.
pub(crate) fn denoising_loss(
    prediction: TensorView,
    target: Target,
    weight: TensorView,
    slope: TensorView,
    loss: TensorViewMut,
    dprediction: Option<TensorViewMut>,
) -> Result<()> {
    let op = Op::new("denoising_loss", "prediction", prediction.on_cuda())?;
    let images = prediction.shape()[0];
    let size = op.int("prediction", prediction.len() / images.max(1))?;
    let f32 = |arg, view| op.read(arg, view, DType::F32);
    let p = op.read("prediction", prediction, DType::F16)?;
    let (x0, noise) = (op.read("x0", target.x0, DType::F16)?, f32("noise", target.noise)?);
    let a = f32("signal_scale", target.signal_scale)?;
    let s = f32("noise_scale", target.noise_scale)?;
    let (weight, slope) = (f32("weight", weight)?, f32("slope", slope)?);
    let loss = op.write("loss", loss, DType::F32)?;
    let dp = dprediction.map(|d| op.write("dprediction", d, DType::F16)).transpose()?;
    let aligned = (p | x0 | noise | dp.unwrap_or(0)).is_multiple_of(16);
    let eights = if aligned && size % 8 == 0 { size / 8 } else { 0 };
    let launch = Launch { grid: [images, 1, 1], block: 512, shared: 0 };
    let args = args![p, x0, noise, a, s, weight, slope, loss, dp, size, eights];
    // SAFETY: p, x0, noise and dp have `size` numbers for each image, the others one.
    unsafe { op.launch("denoising_loss", &[], launch, &args) }
}
