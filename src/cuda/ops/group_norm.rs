//! `kernels/group_norm.cu` and `kernels/group_norm_backward.cu`.

use super::column_sums::{Slabs, column_sums};
use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::ops::{Activation, GroupNorm, GroupNormSizes as Sizes};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Threads of a block.
const THREADS: usize = 256;

/// Group norm in f16, with statistics in f32.
pub(crate) fn group_norm(
    x: TensorView,
    norm: GroupNorm,
    y: TensorViewMut,
    stats: TensorViewMut,
    sizes: Sizes,
) -> Result<()> {
    let op = Op::new("group_norm", "x", x.on_cuda())?;
    let shared = Shared::new(&op, &norm, sizes)?;
    let x = op.aligned("x", op.read("x", x, DType::F16)?)?;
    let y = op.aligned("y", op.write("y", y, DType::F16)?)?;
    let stats = op.write("stats", stats, DType::F32)?;
    let Shared { shift, weight, bias, cells, channels, stride, silu } = shared;
    let args = args![x, shift, weight, bias, y, stats, cells, channels, stride, silu, norm.eps];
    // SAFETY: x and y have B·N rows of C numbers, weight and bias C, the shift C at every stride, stats two for
    // each block.
    unsafe { op.launch("group_norm", &[], launch(sizes), &args) }
}

/// Its gradients: x and dy in f16, dx in f16 or f32, the others in f32.
#[allow(clippy::too_many_arguments)]
pub(crate) fn group_norm_backward(
    [x, dy]: [TensorView; 2],
    norm: GroupNorm,
    stats: TensorView,
    dx: TensorViewMut,
    accumulate: bool,
    [dweight, dbias]: [TensorViewMut; 2],
    dtable: Option<TensorViewMut>,
    [to_stride, start]: [usize; 2],
    sizes: Sizes,
) -> Result<()> {
    const OP: &str = "group_norm_backward";
    let op = Op::new(OP, "x", x.on_cuda())?;
    op.load("column_sums", &[])?;
    let shared = Shared::new(&op, &norm, sizes)?;
    let x = op.aligned("x", op.read("x", x, DType::F16)?)?;
    let dy = op.aligned("dy", op.read("dy", dy, DType::F16)?)?;
    let stats = op.read("stats", stats, DType::F32)?;
    let dtype = op.float("dx", dx.dtype())?;
    let dx = op.aligned("dx", op.write("dx", dx, dtype)?)?;
    let dweight = op.write("dweight", dweight, DType::F32)?;
    let dbias = op.write("dbias", dbias, DType::F32)?;
    let dtable = dtable.map(|table| op.write("dtable", table, DType::F32)).transpose()?;
    let dshift = dtable.map(|table| vector(table, start));
    let to_stride = op.int("dtable", to_stride)?;
    let sums = op.context.scratch(group_norm_backward_scratch(sizes.images, sizes.channels))?;
    let Shared { shift, weight, bias, cells, channels, stride, silu } = shared;
    let (add, f16) = (i32::from(accumulate), is_f16(dtype));
    let args = args![
        x, shift, weight, bias, stats, dy, dx, dshift, sums, cells, channels, stride, to_stride,
        silu, add, f16
    ];
    // SAFETY: x, dy and dx have B·N rows of C numbers, weight and bias C, shift and dshift C at every stride, stats
    // two for each block, sums two rows of C for each image.
    unsafe { op.launch(OP, &[], launch(sizes), &args)? };
    let of = Slabs {
        address: sums,
        dtype: DType::F32,
        rows: sizes.images,
        columns: sizes.channels,
        stride: 2 * sizes.channels,
        slab: sizes.images,
    };
    // SAFETY: the kernel has written these rows; both gradients have C numbers.
    unsafe { column_sums(&op, of, &[dbias, dweight], sizes.channels, true) }
}

/// Scratch bytes of [`group_norm_backward`].
pub(crate) fn group_norm_backward_scratch(images: usize, channels: usize) -> usize {
    images * 2 * channels * size_of::<f32>()
}

/// A block for each group of each image.
fn launch(sizes: Sizes) -> Launch {
    Launch { grid: [sizes.groups, sizes.images, 1], block: THREADS as u32, shared: 0 }
}

/// Where a vector in f32 begins.
fn vector(table: u64, start: usize) -> u64 {
    table + (start * size_of::<f32>()) as u64
}

/// What both directions give their kernels.
struct Shared {
    shift: Option<u64>,
    weight: u64,
    bias: u64,
    cells: i32,
    channels: i32,
    /// Numbers between the shifts of images; 0 where they share one.
    stride: i32,
    silu: i32,
}

impl Shared {
    fn new(op: &Op, norm: &GroupNorm, sizes: Sizes) -> Result<Self> {
        let Sizes { cells, channels, .. } = sizes;
        let part = if sizes.group().is_multiple_of(8) { 8 } else { 1 };
        if !channels.is_multiple_of(8) || sizes.group() / part > THREADS {
            let expected = format!(
                "(B, …, C) with C a multiple of 8, and C/groups at most {}, or {THREADS} where that is none, on a GPU",
                8 * THREADS
            );
            let got = format!("C = {channels} in {} groups", sizes.groups);
            return Err(Error::argument(op.name, "x", expected, got));
        }
        let (shift, stride) = match norm.shift {
            Some(shift) => {
                let table = op.read("shift", shift.table, DType::F32)?;
                let [rows, stride] = [0, 1].map(|axis| shift.table.shape()[axis]);
                (Some(vector(table, shift.start)), if rows == 1 { 0 } else { stride })
            }
            None => (None, 0),
        };
        Ok(Self {
            shift,
            weight: op.read("weight", norm.weight, DType::F32)?,
            bias: op.read("bias", norm.bias, DType::F32)?,
            cells: op.int("x", cells)?,
            channels: op.int("x", channels)?,
            stride: op.int("shift", stride)?,
            silu: i32::from(norm.activation == Activation::Silu),
        })
    }
}
