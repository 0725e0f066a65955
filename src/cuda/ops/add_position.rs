//! `kernels/add_position.cu`, and its gradient.

use super::column_sums::{Slabs, column_sums};
use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// x = tokens + position, which may have more rows, the first ones: tokens f16, position f32, x f32 or f16.
pub(crate) fn add_position(
    tokens: TensorView,
    position: TensorView,
    x: TensorViewMut,
) -> Result<()> {
    const OP: &str = "add_position";
    let op = Op::new(OP, "tokens", tokens.on_cuda())?;
    if !tokens.shape().last().is_some_and(|width| width.is_multiple_of(8)) {
        let expected = "(B, N, D) with D a multiple of 8 on a GPU";
        return Err(Error::shape(OP, "tokens", expected, tokens.shape()));
    }
    let images = tokens.shape()[0];
    let dtype = op.float("x", x.dtype())?;
    let count = position.len();
    let size = op.int("position", count)?;
    let before = size - (tokens.shape()[1] * tokens.shape()[2]) as i32;
    let tokens = op.aligned("tokens", op.read("tokens", tokens, DType::F16)?)?;
    let position = op.aligned("position", op.read("position", position, DType::F32)?)?;
    let x = op.aligned("x", op.write("x", x, dtype)?)?;
    let launch = Launch { grid: [count.div_ceil(2048), images, 1], block: 256, shared: 0 };
    let args = args![tokens, position, x, size, before, is_f16(dtype)];
    // SAFETY: x has `size` numbers for each image, tokens `before` fewer, and position has them once.
    unsafe { op.launch(OP, &[], launch, &args) }
}

/// dposition += Σ over images of dx, in f32.
pub(crate) fn add_position_backward(dx: TensorView, dposition: TensorViewMut) -> Result<()> {
    let op = Op::new("add_position_backward", "dx", dx.on_cuda())?;
    let (rows, columns) = (dx.shape()[0], dposition.len());
    let address = op.read("dx", dx, DType::F32)?;
    let to = op.write("dposition", dposition, DType::F32)?;
    let slab = rows.max(1);
    let of = Slabs { address, dtype: DType::F32, rows, columns, stride: columns, slab };
    // SAFETY: dx has `rows` rows of `columns` numbers, dposition one.
    unsafe { column_sums(&op, of, &[to], columns, true) }
}
