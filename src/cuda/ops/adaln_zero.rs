//! `kernels/adaln_zero.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Define, Launch, args};
use crate::error::{Error, Result};
use crate::ops::{Chunk, Residual};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// The widest row.
pub(crate) const WIDEST: usize = 8192;
/// Up to here a warp has a row, above a block.
const WARP_WIDTH: usize = 2048;

pub(super) fn defines() -> Vec<Vec<Define>> {
    let f32_stream = [64, 128, 384, 1024, 2048, 4096, 8192].map(|width| (width, 0));
    let f16_stream = [1024, 2048, 8192].map(|width| (width, 1));
    let of = |(width, half)| vec![("WIDTH", width), ("STREAM_F16", half)];
    f32_stream.into_iter().chain(f16_stream).map(of).collect()
}

/// AdaLN-Zero of a stream in f32 or f16 and a branch in f16 to an output in f16.
#[allow(clippy::too_many_arguments)]
pub(crate) fn adaln_zero(
    x: TensorView,
    residual: Option<Residual>,
    shift: Chunk,
    scale: Chunk,
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
    let dtype = x.dtype();
    let rows = op.int("x", images * tokens)?;
    let x = op.aligned("x", op.read("x", x, dtype)?)?;

    // The kernel has one distance between the rows of a table.
    let layout = |v: &Chunk| match *v.table.shape() {
        [1, _] => 0,
        [_, stride] => stride,
        _ => unreachable!("the shape has been checked"),
    };
    let stride = layout(&shift);
    let vectors = |arg, v: Chunk| {
        if layout(&v) != stride {
            let expected = "in a table with rows as long as those of `shift`, on a GPU";
            return Err(Error::argument(OP, arg, expected, format!("{:?}", v.table.shape())));
        }
        let table = op.read(arg, v.table, DType::F32)?;
        op.aligned(arg, table + (v.index * width * size_of::<f32>()) as u64)
    };
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
    let defines = [("WIDTH", width as i64), ("STREAM_F16", is_f16(dtype))];
    let (tokens, stride) = (op.int("x", tokens)?, op.int("shift", stride)?);
    let args = args![x, y, gate, shift, scale, x_out, out, stats, rows, tokens, stride];
    // SAFETY: x, y, x_out and out have `rows` rows of WIDTH numbers, stats two numbers for each, and
    // the tables a row for each image, or one where `stride` is 0.
    unsafe { op.launch("adaln_zero", &defines, launch, &args) }
}
