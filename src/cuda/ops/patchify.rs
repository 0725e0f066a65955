//! `kernels/patchify.cu` and `kernels/unpatchify.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Arg, Launch, args};
use crate::error::Result;
use crate::ops::PatchOrder;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// A grid in f32 or f16 as patches in f16.
pub(crate) fn patchify(
    grid: TensorView,
    patches: TensorViewMut,
    patch: usize,
    order: PatchOrder,
) -> Result<()> {
    let op = Op::new("patchify", "grid", grid.on_cuda())?;
    let (launch, sizes) = launch(&op, grid.shape(), patch, order)?;
    let dtype = op.float("grid", grid.dtype())?;
    let grid = op.read("grid", grid, dtype)?;
    let patches = op.write("patches", patches, DType::F16)?;
    let [width, patch, channels, last] = sizes;
    let args = args![grid, patches, width, patch, channels, last, is_f16(dtype)];
    // SAFETY: both have as many numbers, in the shapes that the sizes say.
    unsafe { op.launch("patchify", &[], launch, &args) }
}

/// Patches as a grid, both in f16.
pub(crate) fn unpatchify(
    patches: TensorView,
    grid: TensorViewMut,
    patch: usize,
    order: PatchOrder,
) -> Result<()> {
    let op = Op::new("unpatchify", "patches", patches.on_cuda())?;
    let (launch, sizes) = launch(&op, grid.shape(), patch, order)?;
    let patches = op.read("patches", patches, DType::F16)?;
    let grid = op.write("grid", grid, DType::F16)?;
    let [width, patch, channels, last] = sizes;
    let args: [Arg; 6] = args![patches, grid, width, patch, channels, last];
    // SAFETY: both have as many numbers, in the shapes that the sizes say.
    unsafe { op.launch("unpatchify", &[], launch, &args) }
}

/// A block per token, and the kernel's sizes: W, p, C, and whether channels come last.
fn launch(op: &Op, shape: &[usize], patch: usize, order: PatchOrder) -> Result<(Launch, [i32; 4])> {
    let &[images, height, width, channels] = shape else {
        unreachable!("the shape has been checked")
    };
    let tokens = images * (height / patch) * (width / patch);
    let last = i32::from(order == PatchOrder::ChannelsLast);
    let int = |value| op.int("grid", value);
    int(patch * patch * channels)?;
    let sizes = [int(width)?, int(patch)?, int(channels)?, last];
    Ok((Launch { grid: [tokens, 1, 1], block: 128, shared: 0 }, sizes))
}
