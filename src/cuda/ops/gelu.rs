//! `kernels/gelu.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// GELU from f16 to f16.
pub(crate) fn gelu(x: TensorView, y: TensorViewMut) -> Result<()> {
    const OP: &str = "gelu";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let count = x.len();
    if !count.is_multiple_of(8) {
        let expected = "a multiple of 8 numbers on a GPU";
        return Err(Error::shape(OP, "x", expected, x.shape()));
    }
    let n = op.int("x", count)?;
    let x = op.aligned("x", op.read("x", x, DType::F16)?)?;
    let y = op.aligned("y", op.write("y", y, DType::F16)?)?;
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    // SAFETY: both have n numbers.
    unsafe { op.launch("gelu", &[], launch, &args![x, y, n]) }
}
