//! `kernels/depthwise_conv2d.cu`.

use super::Op;
use crate::cpu::conv2d::Window;
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Channels of a thread, its pixels, and the threads of a block.
const CHANNELS: usize = 8;
const PIXELS: usize = 4;
const THREADS: usize = 128;

/// Sums that a row of an output is left in for each channel.
pub(super) fn sums_of_row(width: usize, channels: usize) -> usize {
    let columns = width.div_ceil(PIXELS);
    match channels / CHANNELS {
        groups if groups <= THREADS => (columns * groups).div_ceil(THREADS),
        _ => columns,
    }
}

/// A depthwise convolution of images in f16, with weight and bias in f32, between two activations. `sums`, in f32, has
/// [`sums_of_row`] for each row, then C.
pub(crate) fn depthwise_conv2d(
    x: TensorView,
    weight: TensorView,
    bias: TensorView,
    window: Window,
    [before, after]: [Activation; 2],
    y: TensorViewMut,
    sums: Option<TensorViewMut>,
) -> Result<()> {
    const OP: &str = "depthwise_conv2d";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let &[images, height, width, channels] = x.shape() else {
        unreachable!("the shape has been checked")
    };
    if !channels.is_multiple_of(8) {
        let expected = "(B, H, W, C) with C a multiple of 8 on a GPU";
        return Err(Error::shape(OP, "x", expected, x.shape()));
    }
    let [before, after] =
        [op.activation("convolution", before)?, op.activation("convolution", after)?];
    let [out_height, out_width] = window.output;
    op.int("x", width * channels)?;
    let int = |value| op.int("x", value);
    let [height, width, count] = [int(height)?, int(width)?, int(channels)?];
    let [rows, columns] = [int(out_height)?, int(out_width)?];
    let [top, left] = [int(window.top)?, int(window.left)?];
    let x = op.aligned("x", op.read("x", x, DType::F16)?)?;
    let weight = op.aligned("weight", op.read("weight", weight, DType::F32)?)?;
    let bias = op.aligned("bias", op.read("bias", bias, DType::F32)?)?;
    let y = op.aligned("y", op.write("y", y, DType::F16)?)?;
    let sums = match sums {
        Some(sums) => {
            let rows = images * out_height * sums_of_row(out_width, channels);
            assert!(sums.len() == rows * channels);
            Some(op.aligned("sums", op.write("sums", sums, DType::F32)?)?)
        }
        None => None,
    };
    let across = (out_width.div_ceil(PIXELS) * (channels / CHANNELS)).div_ceil(THREADS);
    let launch = Launch { grid: [across, out_height, images], block: THREADS as u32, shared: 0 };
    let defines = [("KERNEL_SIZE", window.kernel[0] as i64), ("STRIDE", window.stride as i64)];
    let args = args![
        x, weight, bias, y, height, width, count, rows, columns, top, left, after, before, sums
    ];
    // SAFETY: the tensors have these sizes; outside the image the kernel reads nothing.
    unsafe { op.launch("depthwise_conv2d", &defines, launch, &args) }
}
