//! `kernels/gelu.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// GELU from f16 to f16.
pub(crate) fn gelu(x: TensorView, y: TensorViewMut) -> Result<()> {
    const OP: &str = "gelu";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let n = numbers(&op, "x", x.shape())?;
    let x = op.aligned("x", op.read("x", x, DType::F16)?)?;
    let y = op.aligned("y", op.write("y", y, DType::F16)?)?;
    // SAFETY: both have n numbers.
    unsafe { launch(&op, x, y, n, false) }
}

/// How many numbers there are, of which the kernel takes eight at a time.
pub(super) fn numbers(op: &Op, arg: &'static str, shape: &[usize]) -> Result<i32> {
    let count: usize = shape.iter().product();
    if !count.is_multiple_of(8) {
        return Err(Error::shape(op.name, arg, "a multiple of 8 numbers on a GPU", shape));
    }
    op.int(arg, count)
}

/// Queues GELU of n numbers, with the error function or in its tanh form.
///
/// # Safety
/// There are n numbers at both addresses, which may be one and are aligned to 16 bytes.
pub(super) unsafe fn launch(op: &Op, x: u64, y: u64, n: i32, erf: bool) -> Result<()> {
    let grid = [(n as usize).div_ceil(2048), 1, 1];
    let args = args![x, y, n, i32::from(erf)];
    // SAFETY: the caller vouches for it.
    unsafe { op.launch("gelu", &[], Launch { grid, block: 256, shared: 0 }, &args) }
}
