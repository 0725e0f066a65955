//! `kernels/gather_patches.cu` and `kernels/gather_patches_backward.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::ops::Resample;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Patches in f16 of a grid in f32 or f16.
pub(crate) fn gather_patches(
    x: TensorView,
    resample: Resample,
    patches: TensorViewMut,
    sizes: [usize; 4],
) -> Result<()> {
    let op = Op::new("gather_patches", "x", x.on_cuda())?;
    let ([height, width, channels], [rows, columns]) = check(&op, "x", sizes, resample)?;
    let dtype = op.float("x", x.dtype())?;
    let x = op.aligned("x", op.read("x", x, dtype)?)?;
    let patches = op.aligned("patches", op.write("patches", patches, DType::F16)?)?;
    let grid = [rows * columns, (9 * sizes[3] / 8).div_ceil(128), sizes[0]];
    let [stride, copies] = resample.steps().map(|step| step as i32);
    let columns = columns as i32;
    let args = args![x, patches, height, width, channels, columns, stride, copies, is_f16(dtype)];
    // SAFETY: x has the shape that the sizes say, and patches 9·C numbers for each block of the first axis.
    unsafe { op.launch("gather_patches", &[], Launch { grid, block: 128, shared: 0 }, &args) }
}

/// The gradient of a grid in f32 or f16, from that of its patches in f16.
pub(crate) fn gather_patches_backward(
    dpatches: TensorView,
    resample: Resample,
    dx: TensorViewMut,
    accumulate: bool,
    sizes: [usize; 4],
) -> Result<()> {
    const OP: &str = "gather_patches_backward";
    let op = Op::new(OP, "dpatches", dpatches.on_cuda())?;
    let ([height, width, channels], [rows, columns]) = check(&op, "dx", sizes, resample)?;
    let dtype = op.float("dx", dx.dtype())?;
    let dpatches = op.aligned("dpatches", op.read("dpatches", dpatches, DType::F16)?)?;
    let dx = op.aligned("dx", op.write("dx", dx, dtype)?)?;
    let grid = [(sizes[1] * sizes[2] * sizes[3] / 8).div_ceil(128), sizes[0], 1];
    let [stride, copies] = resample.steps().map(|step| step as i32);
    let ([rows, columns], add) = ([rows as i32, columns as i32], i32::from(accumulate));
    let f16 = is_f16(dtype);
    let args =
        args![dpatches, dx, height, width, channels, rows, columns, stride, copies, add, f16];
    // SAFETY: dx has the shape that the sizes say, and dpatches that of its patches.
    unsafe { op.launch(OP, &[], Launch { grid, block: 128, shared: 0 }, &args) }
}

/// H, W and C as kernels take them, and H' and W'.
fn check(
    op: &Op,
    arg: &'static str,
    [_, height, width, channels]: [usize; 4],
    resample: Resample,
) -> Result<([i32; 3], [usize; 2])> {
    if !channels.is_multiple_of(8) {
        let expected = "(B, H, W, C) with C a multiple of 8, on a GPU";
        return Err(Error::argument(op.name, arg, expected, format!("C = {channels}")));
    }
    let output = resample.output([height, width]);
    op.int(arg, height * width * channels)?;
    op.int(arg, output[0] * output[1])?;
    op.int(arg, 9 * channels)?;
    Ok(([height as i32, width as i32, channels as i32], output))
}
