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
    let x = op.aligned("x", op.read("x", x, dtype)?)?;
    let y = op.aligned("y", op.write("y", y, DType::F16)?)?;
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    // SAFETY: both have n numbers.
    unsafe { op.launch("silu", &[], launch, &args![x, y, n, is_f16(dtype)]) }
}

/// The gradient of SiLU in f32 or f16, at x in f32 or f16.
pub(crate) fn silu_backward(x: TensorView, dy: TensorView, dx: TensorViewMut) -> Result<()> {
    let op = Op::new("silu_backward", "x", x.on_cuda())?;
    let (dtype, count) = (op.float("x", x.dtype())?, x.len());
    let n = op.int("x", count)?;
    let of_gradients = op.float("dy", dy.dtype())?;
    let x = op.aligned("x", op.read("x", x, dtype)?)?;
    let dy = op.aligned("dy", op.read("dy", dy, of_gradients)?)?;
    let dx = op.aligned("dx", op.write("dx", dx, of_gradients)?)?;
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    let args = args![x, dy, dx, n, is_f16(dtype), is_f16(of_gradients)];
    // SAFETY: all have n numbers.
    unsafe { op.launch("silu_backward", &[], launch, &args) }
}
