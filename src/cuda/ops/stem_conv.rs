//! `kernels/stem_conv.cu`.

use super::Op;
use crate::cpu::conv2d::Window;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::ops::Activation;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// The first convolution of a network, 3 × 3 at stride 2, of RGB images (B, H, W, 3) of bytes, normalised on the
/// way, or of f32 that are, and then activated: y (B, H', W', O) in f16; `normalise` (6), `weight` (3, 3, 3, O) and `bias` (O) in
/// f32, O a multiple of 8 up to 256.
pub(crate) fn stem_conv(
    rgb: TensorView,
    normalise: TensorView,
    weight: TensorView,
    bias: TensorView,
    window: Window,
    activation: Activation,
    y: TensorViewMut,
) -> Result<()> {
    let op = Op::new("stem_conv", "rgb", rgb.on_cuda())?;
    let (images, channels) = (rgb.shape()[0], bias.len());
    let ([height, width], [rows, columns]) = (window.input, window.output);
    assert!(rgb.shape() == [images, height, width, 3]);
    assert!(y.shape() == [images, rows, columns, channels]);
    assert!(channels.is_multiple_of(8) && channels <= 256 && window.stride == 2);
    let int = |value| op.int("rgb", value);
    int(3 * width)?;
    let [h, w, out_h, out_w] = [int(height)?, int(width)?, int(rows)?, int(columns)?];
    let [o, top, left] = [int(channels)?, int(window.top)?, int(window.left)?];
    let dtype = if rgb.dtype() == DType::F32 { DType::F32 } else { DType::U8 };
    let rgb = op.read("rgb", rgb, dtype)?;
    let normalise = op.read("normalise", normalise, DType::F32)?;
    let weight = op.aligned("weight", op.read("weight", weight, DType::F32)?)?;
    let bias = op.aligned("bias", op.read("bias", bias, DType::F32)?)?;
    let y = op.aligned("y", op.write("y", y, DType::F16)?)?;
    let across = (columns.div_ceil(4) * (channels / 8)).div_ceil(128);
    let shared = 112 * channels as u32;
    let launch = Launch { grid: [across, rows, images], block: 128, shared };
    let kind = op.activation("activation", activation)?;
    let normalised = i32::from(dtype == DType::F32);
    let args =
        args![rgb, normalise, weight, bias, y, h, w, out_h, out_w, o, top, left, kind, normalised];
    // SAFETY: the tensors have these sizes; outside the image the kernel reads nothing.
    unsafe { op.launch("stem_conv", &[], launch, &args) }
}
