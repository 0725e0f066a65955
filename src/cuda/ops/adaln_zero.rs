//! `kernels/adaln_zero.cu` and `kernels/adaln_zero_backward.cu`.

use super::column_sums::{Slabs, column_sums};
use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::ops::{Chunk, Residual, ResidualBackward};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// The widest row.
pub(crate) const WIDEST: usize = 8192;
/// The widest row that there is a gradient of.
pub(crate) const WIDEST_BACKWARD: usize = 4096;
/// Up to here a warp has a row, above a block.
const WARP_WIDTH: usize = 2048;

/// AdaLN-Zero of a stream in f32 or f16 and a branch in f16 to an output in f16.
#[allow(clippy::too_many_arguments)]
pub(crate) fn adaln_zero(
    x: TensorView,
    residual: Option<Residual>,
    shift: Chunk,
    scale: Chunk,
    eps: f32,
    x_out: Option<TensorViewMut>,
    out: TensorViewMut,
    stats: Option<TensorViewMut>,
) -> Result<()> {
    const OP: &str = "adaln_zero";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let &[images, tokens, width] = x.shape() else { unreachable!("the shape has been checked") };
    if !width.is_multiple_of(8) || width > WIDEST {
        let expected = format!("(B, N, D) with D a multiple of 8 up to {WIDEST} on a GPU");
        return Err(Error::shape(OP, "x", expected, x.shape()));
    }
    let dtype = op.float("x", x.dtype())?;
    let rows = op.int("x", images * tokens)?;
    let x = op.aligned("x", op.read("x", x, dtype)?)?;

    let tables = Tables::like("shift", &shift);
    let vectors = |arg, chunk| tables.vectors(&op, arg, chunk, width);
    let (y, gate) = match residual {
        Some(Residual { y, gate }) => {
            let y = op.aligned("y", op.read("y", y, DType::F16)?)?;
            (Some(y), Some(vectors("gate", gate)?))
        }
        None => (None, None),
    };
    let (shift, scale) = (vectors("shift", shift)?, vectors("scale", scale)?);
    let x_out = x_out.map(|v| op.aligned("x_out", op.write("x_out", v, dtype)?)).transpose()?;
    let out = op.aligned("out", op.write("out", out, DType::F16)?)?;
    let stats = stats.map(|v| op.write("stats", v, DType::F32)).transpose()?;

    let per_block = if width <= WARP_WIDTH { 4 } else { 1 };
    let grid = [(images * tokens).div_ceil(per_block), 1, 1];
    let launch = Launch { grid, block: 128, shared: 0 };
    let defines = [("WIDTH", width as i64)];
    let (tokens, stride) = (op.int("x", tokens)?, op.int("shift", tables.stride)?);
    let f16 = is_f16(dtype);
    let args = args![x, y, gate, shift, scale, x_out, out, stats, rows, tokens, stride, f16, eps];
    // SAFETY: x, y, x_out and out have `rows` rows of WIDTH numbers, stats two numbers for each, and
    // the tables a row for each image, or one where `stride` is 0.
    unsafe { op.launch("adaln_zero", &defines, launch, &args) }
}

/// The gradients of AdaLN-Zero: `x` f32 or f16, what lies between operations f16, `dx`, the tables and
/// their gradient f32.
#[allow(clippy::too_many_arguments)]
pub(crate) fn adaln_zero_backward(
    x: TensorView,
    stats: TensorView,
    shift_index: usize,
    scale: Chunk,
    dout: TensorView,
    dx: TensorViewMut,
    residual: Option<ResidualBackward>,
    dtable: TensorViewMut,
) -> Result<()> {
    const OP: &str = "adaln_zero_backward";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let &[images, tokens, width] = x.shape() else { unreachable!("the shape has been checked") };
    if !width.is_multiple_of(8) || width > WIDEST_BACKWARD {
        let expected = format!("(B, N, D) with D a multiple of 8 up to {WIDEST_BACKWARD} on a GPU");
        return Err(Error::shape(OP, "x", expected, x.shape()));
    }
    op.load("column_sums", &[])?;
    let dtype = op.float("x", x.dtype())?;
    let x = op.aligned("x", op.read("x", x, dtype)?)?;
    let dout = op.aligned("dout", op.read("dout", dout, DType::F16)?)?;
    let stats = op.read("stats", stats, DType::F32)?;
    let dx = op.aligned("dx", op.write("dx", dx, DType::F32)?)?;
    let tables = Tables::like("scale", &scale);
    let gate_index = residual.as_ref().map(|r| r.forward.gate.index);
    let (y, gate, dy) = match residual {
        Some(ResidualBackward { forward: Residual { y, gate }, dy }) => {
            let y = op.aligned("y", op.read("y", y, DType::F16)?)?;
            let dy = op.aligned("dy", op.write("dy", dy, DType::F16)?)?;
            (Some(y), Some(tables.vectors(&op, "gate", gate, width)?), Some(dy))
        }
        None => (None, None, None),
    };
    let stride = op.int("scale", tables.stride)?;
    let scale_index = scale.index;
    let scale = tables.vectors(&op, "scale", scale, width)?;
    let to_stride = dtable.shape()[1];
    let to = op.write("dtable", dtable, DType::F32)?;

    let slab = slab_rows(images * tokens);
    let slabs = tokens.div_ceil(slab);
    let sums = op.context.scratch(adaln_zero_backward_scratch(images, tokens, width))?;
    let block = 32 * width.div_ceil(256) as u32;
    let launch = Launch { grid: [slabs, images, 1], block, shared: 0 };
    let defines = [("WIDTH", width as i64)];
    let (n, rows, f16) = (op.int("x", tokens)?, op.int("x", slab)?, is_f16(dtype));
    let args = args![x, stats, y, gate, scale, dout, dx, dy, sums, n, rows, stride, f16];
    // SAFETY: x, dout, dx, y and dy have a row of WIDTH numbers for each token, stats two numbers, the
    // tables a row for each image, or one where `stride` is 0, and sums three rows for each slab.
    unsafe { op.launch(OP, &defines, launch, &args)? };
    let of = Slabs {
        address: sums,
        dtype: DType::F32,
        rows: images * slabs,
        columns: width,
        stride: 3 * width,
        slab: slabs,
    };
    let vectors = [Some(shift_index), Some(scale_index), gate_index].into_iter().flatten();
    let to: Vec<u64> =
        vectors.map(|index| to + (index * width * size_of::<f32>()) as u64).collect();
    // SAFETY: the kernel has written these rows; dtable has a row for each image.
    unsafe { column_sums(&op, of, &to, to_stride, false) }
}

/// Scratch bytes of [`adaln_zero_backward`].
pub(crate) fn adaln_zero_backward_scratch(images: usize, tokens: usize, width: usize) -> usize {
    images * tokens.div_ceil(slab_rows(images * tokens)) * 3 * width * size_of::<f32>()
}

/// Rows of a slab, for so many in all: fewer where few blocks would have work.
fn slab_rows(rows: usize) -> usize {
    match rows {
        0..2048 => 8,
        2048..8192 => 16,
        _ => 32,
    }
}

/// Tables of modulation vectors with rows equally far apart, as the kernels want them.
struct Tables {
    first: &'static str,
    /// Numbers between rows; 0 where images share one.
    stride: usize,
}

impl Tables {
    fn like(first: &'static str, chunk: &Chunk) -> Self {
        Self { first, stride: Self::stride(chunk) }
    }

    fn stride(chunk: &Chunk) -> usize {
        match *chunk.table.shape() {
            [1, _] => 0,
            [_, stride] => stride,
            _ => unreachable!("the shape has been checked"),
        }
    }

    /// The address of a chunk's first vector.
    fn vectors(&self, op: &Op, arg: &'static str, chunk: Chunk, width: usize) -> Result<u64> {
        if Self::stride(&chunk) != self.stride {
            let expected =
                format!("in a table with rows as long as those of `{}`, on a GPU", self.first);
            let got = format!("{:?}", chunk.table.shape());
            return Err(Error::argument(op.name, arg, expected, got));
        }
        let table = op.read(arg, chunk.table, DType::F32)?;
        op.aligned(arg, table + (chunk.index * width * size_of::<f32>()) as u64)
    }
}
