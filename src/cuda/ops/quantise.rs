//! `kernels/quantise.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};
use crate::types::EightBits;

/// Codes of int8 and a scale of each row, from f32 or f16.
pub(crate) fn quantise(
    x: TensorView,
    format: EightBits,
    codes: TensorViewMut,
    scales: TensorViewMut,
    (rows, k): (usize, usize),
) -> Result<()> {
    const OP: &str = "quantise";
    let op = Op::new(OP, "x", x.on_cuda())?;
    require_int8(OP, format)?;
    if scales.len() != rows {
        return Err(Error::shape(OP, "scales", format!("[{rows}] on a GPU"), scales.shape()));
    }
    let dtype = op.float("x", x.dtype())?;
    let of = Rows { address: op.aligned("x", op.read("x", x, dtype)?)?, dtype, rows, k };
    let codes = op.aligned("codes", op.write("codes", codes, DType::U8)?)?;
    let scales = op.write("scales", scales, DType::F32)?;
    // SAFETY: x and codes have these rows of k numbers, scales a number for each.
    unsafe { launch(&op, of, codes, scales) }
}

pub(super) fn require_int8(op: &'static str, format: EightBits) -> Result<()> {
    match format {
        EightBits::Int8 => Ok(()),
        other => Err(Error::argument(op, "format", "Int8 on a GPU", format!("{other:?}"))),
    }
}

/// Rows of numbers, aligned to 16 bytes.
pub(super) struct Rows {
    pub address: u64,
    pub dtype: DType,
    pub rows: usize,
    pub k: usize,
}

/// Queues the kernel.
///
/// # Safety
/// There are as many codes, aligned to 16 bytes, and a scale for each row.
pub(super) unsafe fn launch(op: &Op, of: Rows, codes: u64, scales: u64) -> Result<()> {
    let Rows { address, dtype, rows, k } = of;
    if !k.is_multiple_of(8) {
        return Err(Error::shape(op.name, "x", "(…, a multiple of 8) on a GPU", &[rows, k]));
    }
    let (columns, launch) = (op.int("x", k)?, Launch { grid: [rows, 1, 1], block: 256, shared: 0 });
    // SAFETY: the caller vouches for the memory.
    unsafe {
        op.launch("quantise", &[], launch, &args![address, codes, scales, columns, is_f16(dtype)])
    }
}
