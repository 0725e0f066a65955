//! `kernels/add_noise.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// out = signal_scale·x + noise_scale·noise for each image; x in f16, all else in f32.
pub(crate) fn add_noise(
    x: TensorView,
    noise: TensorView,
    signal_scale: TensorView,
    noise_scale: TensorView,
    out: TensorViewMut,
) -> Result<()> {
    let op = Op::new("add_noise", "x", x.on_cuda())?;
    let images = x.shape()[0];
    let size = x.len() / images.max(1);
    let n = op.int("x", size)?;
    let x = op.read("x", x, DType::F16)?;
    let noise = op.read("noise", noise, DType::F32)?;
    let a = op.read("signal_scale", signal_scale, DType::F32)?;
    let s = op.read("noise_scale", noise_scale, DType::F32)?;
    let out = op.write("out", out, DType::F32)?;
    let launch = Launch { grid: [size.div_ceil(256), images, 1], block: 256, shared: 0 };
    // SAFETY: x, noise and out have `size` numbers for each image, the scales one.
    unsafe { op.launch("add_noise", &[], launch, &args![x, noise, a, s, out, n]) }
}
