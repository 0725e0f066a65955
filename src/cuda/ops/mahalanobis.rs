//! `kernels/mahalanobis.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Images of a warp.
const IMAGES: usize = 2;

/// Distances of x in f16 or f32, the rest f32.
pub(crate) fn mahalanobis(
    x: TensorView,
    mean: TensorView,
    vectors: TensorView,
    map: TensorViewMut,
) -> Result<()> {
    const OP: &str = "mahalanobis";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let &[positions, rank, channels] = vectors.shape() else {
        unreachable!("the shape has been checked")
    };
    if !channels.is_multiple_of(8) {
        let expected = "(P, C) with C a multiple of 8 on a GPU";
        return Err(Error::shape(OP, "mean", expected, mean.shape()));
    }
    let images = map.shape()[0];
    let warps = positions * images.div_ceil(IMAGES);
    op.int("map", warps)?;
    let [b, p] = [op.int("map", images)?, op.int("map", positions)?];
    let [k, c] = [op.int("vectors", rank)?, op.int("vectors", channels)?];
    let dtype = op.float("x", x.dtype())?;
    let x = op.aligned("x", op.read("x", x, dtype)?)?;
    let mean = op.aligned("mean", op.read("mean", mean, DType::F32)?)?;
    let vectors = op.aligned("vectors", op.read("vectors", vectors, DType::F32)?)?;
    let map = op.write("map", map, DType::F32)?;
    let launch = Launch { grid: [warps.div_ceil(8), 1, 1], block: 256, shared: 0 };
    let args = args![x, mean, vectors, map, b, p, k, c, is_f16(dtype)];
    // SAFETY: x has b·p rows of c numbers and map as many numbers, mean has p rows, vectors k times
    // as many.
    unsafe { op.launch(OP, &[], launch, &args) }
}
