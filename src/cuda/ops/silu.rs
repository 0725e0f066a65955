//! `kernels/silu.cu` and `kernels/silu_backward.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// SiLU from f32 or f16 to f16.
pub(crate) fn silu(x: TensorView, y: TensorViewMut) -> Result<()> {
    let op = Op::new("silu", "x", x.on_cuda())?;
    let (dtype, count) = (op.float("x", x.dtype())?, x.len());
    let n = op.int("x", count)?;
    let x = op.read("x", x, dtype)?;
    let y = op.write("y", y, DType::F16)?;
    let launch = Launch { grid: [count.div_ceil(256), 1, 1], block: 256, shared: 0 };
    // SAFETY: both have n numbers.
    unsafe { op.launch("silu", &[], launch, &args![x, y, n, is_f16(dtype)]) }
}

/// The gradient of SiLU in f32, at x in f32 or f16.
pub(crate) fn silu_backward(x: TensorView, dy: TensorView, dx: TensorViewMut) -> Result<()> {
    let op = Op::new("silu_backward", "x", x.on_cuda())?;
    let (dtype, count) = (op.float("x", x.dtype())?, x.len());
    let n = op.int("x", count)?;
    let x = op.read("x", x, dtype)?;
    let dy = op.read("dy", dy, DType::F32)?;
    let dx = op.write("dx", dx, DType::F32)?;
    let launch = Launch { grid: [count.div_ceil(256), 1, 1], block: 256, shared: 0 };
    let args = args![x, dy, dx, n, is_f16(dtype)];
    // SAFETY: all have n numbers.
    unsafe { op.launch("silu_backward", &[], launch, &args) }
}
