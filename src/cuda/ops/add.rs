//! `kernels/add.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// y += x, each in f32 or f16.
pub(crate) fn add(y: TensorViewMut, x: TensorView) -> Result<()> {
    let op = Op::new("add", "x", x.on_cuda())?;
    let count = x.len();
    let n = op.int("x", count)?;
    let (of_x, of_y) = (op.float("x", x.dtype())?, op.float("y", y.dtype())?);
    let x = op.aligned("x", op.read("x", x, of_x)?)?;
    let y = op.aligned("y", op.write("y", y, of_y)?)?;
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    // SAFETY: both have n numbers.
    unsafe { op.launch("add", &[], launch, &args![x, y, n, is_f16(of_x), is_f16(of_y)]) }
}
