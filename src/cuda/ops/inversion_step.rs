//! `kernels/inversion_step.cu`.

use super::Op;
use crate::cuda::SliceMut;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// x ← a·x + b·output; x is f32, output f16.
pub(crate) fn inversion_step(x: TensorViewMut, output: TensorView, a: f32, b: f32) -> Result<()> {
    let count = x.len();
    let x = x.into_cuda().map(SliceMut::into_slice);
    let op = Op::new("inversion_step", "x", x)?;
    let output = op.aligned("output", op.read("output", output, DType::F16)?)?;
    let x = op.aligned("x", op.address("x", x, DType::F32)?)?;
    let n = op.int("x", count)?;
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    // SAFETY: both have n numbers; x is the only way to what is written.
    unsafe { op.launch("inversion_step", &[], launch, &args![x, output, n, a, b]) }
}
