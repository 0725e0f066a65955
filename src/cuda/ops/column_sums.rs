//! `kernels/column_sums.cu`, a part of other operations.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::DType;

/// Matrices side by side in f32 or f16, cut into slabs of rows.
pub(super) struct Slabs {
    pub address: u64,
    pub dtype: DType,
    pub rows: usize,
    /// Columns of each matrix.
    pub columns: usize,
    /// Numbers between the beginnings of rows.
    pub stride: usize,
    /// Rows of a slab.
    pub slab: usize,
}

/// Writes or adds the sums of each slab's columns, in f32, for each matrix to rows at one of up to three
/// addresses, which begin `to_stride` numbers apart.
///
/// # Safety
/// The memory is there.
pub(super) unsafe fn column_sums(
    op: &Op,
    of: Slabs,
    to: &[u64],
    to_stride: usize,
    accumulate: bool,
) -> Result<()> {
    let Slabs { address, dtype, rows, columns, stride, slab } = of;
    let grid = [columns.div_ceil(32), rows.div_ceil(slab), to.len()];
    let launch = Launch { grid, block: 256, shared: 0 };
    let [y0, y1, y2] = [0, 1, 2].map(|i| to.get(i).copied());
    let int = |value| op.int("columns", value);
    let (rows, columns, stride) = (int(rows)?, int(columns)?, int(stride)?);
    let (slab, to_stride) = (int(slab)?, int(to_stride)?);
    let (accumulate, f16) = (i32::from(accumulate), is_f16(dtype));
    let args = args![address, y0, y1, y2, rows, columns, stride, slab, to_stride, accumulate, f16];
    // SAFETY: the caller vouches for the memory.
    unsafe { op.launch("column_sums", &[], launch, &args) }
}
