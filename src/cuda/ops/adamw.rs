//! `kernels/adamw.cu`, `kernels/global_norm.cu` and `kernels/global_norm_clip.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::ops::{Moved, Stream};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Numbers of which a block of `global_norm` sums the squares.
const BLOCK: usize = 16_384;

/// The norm of a gradient in f32, and its factor.
pub(crate) fn global_norm(
    gradient: TensorView,
    max_norm: f64,
    numbers: TensorView,
    norm: TensorViewMut,
) -> Result<()> {
    const OP: &str = "global_norm";
    let op = Op::new(OP, "gradient", gradient.on_cuda())?;
    op.load("global_norm_clip", &[])?;
    let count = gradient.len();
    let n = op.int("gradient", count)?;
    let gradient = op.aligned("gradient", op.read("gradient", gradient, DType::F32)?)?;
    let numbers = op.read("numbers", numbers, DType::F32)?;
    let norm = op.write("norm", norm, DType::F32)?;
    let blocks = count.div_ceil(BLOCK);
    let sums = op.context.scratch(global_norm_scratch(count))?;
    let launch = Launch { grid: [blocks, 1, 1], block: 256, shared: 0 };
    // SAFETY: gradient has n numbers, sums one for each block.
    unsafe { op.launch(OP, &[], launch, &args![gradient, sums, n])? };
    let launch = Launch { grid: [1, 1, 1], block: 256, shared: 0 };
    let blocks = op.int("gradient", blocks)?;
    let args = args![sums, numbers, norm, blocks, max_norm];
    // SAFETY: sums has as many numbers, `numbers` one at least, norm two.
    unsafe { op.launch("global_norm_clip", &[], launch, &args) }
}

/// Scratch bytes of [`global_norm`].
pub(crate) fn global_norm_scratch(count: usize) -> usize {
    count.div_ceil(BLOCK) * size_of::<f32>()
}

/// A step of AdamW in f32, with moments in f32 or bf16 and a copy of the parameters in f16.
pub(crate) fn adamw(
    gradient: TensorView,
    numbers: TensorView,
    norm: TensorView,
    seed: u64,
    moved: Moved,
) -> Result<()> {
    const OP: &str = "adamw";
    let op = Op::new(OP, "gradient", gradient.on_cuda())?;
    let Moved { parameters, m, v, average, rounded } = moved;
    let count = gradient.len();
    let n = op.int("gradient", count)?;
    let halves = m.dtype() == DType::BF16;
    let moments = if halves { DType::BF16 } else { DType::F32 };
    let write = |arg, view, dtype| op.aligned(arg, op.write(arg, view, dtype)?);
    let gradient = op.aligned("gradient", op.read("gradient", gradient, DType::F32)?)?;
    let numbers = op.read("numbers", numbers, DType::F32)?;
    let norm = op.read("norm", norm, DType::F32)?;
    let p = write("parameters", parameters, DType::F32)?;
    let (m, v) = (write("m", m, moments)?, write("v", v, moments)?);
    let average = average.map(|a| write("average", a, DType::F32)).transpose()?;
    let rounded = rounded.map(|r| write("rounded", r, DType::F16)).transpose()?;
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    let (low, high, stream) = (seed as i32, (seed >> 32) as i32, Stream::Rounding as i32);
    let halves = i32::from(halves);
    let args =
        args![gradient, p, m, v, average, rounded, numbers, norm, low, high, stream, n, halves];
    // SAFETY: all have n numbers, but for `numbers` and norm, which have those of the operation.
    unsafe { op.launch(OP, &[], launch, &args) }
}
