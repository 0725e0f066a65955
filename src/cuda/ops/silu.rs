//! `kernels/silu.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// SiLU from f32 or f16 to f16.
pub(crate) fn silu(x: TensorView, y: TensorViewMut) -> Result<()> {
    let op = Op::new("silu", "x", x.on_cuda())?;
    let (dtype, count) = (x.dtype(), x.len());
    let n = op.int("x", count)?;
    let x = op.read("x", x, dtype)?;
    let y = op.write("y", y, DType::F16)?;
    let launch = Launch { grid: [count.div_ceil(256), 1, 1], block: 256, shared: 0 };
    // SAFETY: both have n numbers.
    unsafe { op.launch("silu", &[("INPUT_F16", is_f16(dtype))], launch, &args![x, y, n]) }
}
