//! The patches under a 3×3 kernel, which make its convolution a linear layer.

use super::{expect_axes, expect_shape};
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// Cells under a kernel.
const TAPS: usize = 9;

/// Where the patches of a 3×3 kernel lie, whose middle reaches every cell of a grid that has one row of zeros on
/// each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// One around each cell: stride 1.
    Same,
    /// One around every second cell along both axes, from the first on: stride 2.
    Halve,
    /// One around each cell of a grid twice as high and wide, in which each cell stands for four (nearest neighbour).
    Double,
}

impl Resample {
    /// Rows and columns of patches over a grid of `size` = (height, width).
    pub fn output(self, size: [usize; 2]) -> [usize; 2] {
        size.map(|cells| match self {
            Resample::Same => cells,
            Resample::Halve => cells.div_ceil(2),
            Resample::Double => cells.saturating_mul(2),
        })
    }

    /// Cells between patches, and how many times a cell stands along each axis.
    pub(crate) fn steps(self) -> [usize; 2] {
        match self {
            Resample::Same => [1, 1],
            Resample::Halve => [2, 1],
            Resample::Double => [1, 2],
        }
    }
}

/// patches[b, (i, j), (k, l, c)] = x̄[b, i·stride + k − 1, j·stride + l − 1, c], where x̄ is x, or x with every cell
/// twice along both axes, and zero outside.
///
/// `x`: (B, H, W, C); `patches`: (B, H'·W', 9·C) with (H', W') = `resample.output((H, W))`. A linear layer of weight
/// (O, 9·C) then is the convolution with a weight (O, 3, 3, C), of padding 1. On a GPU `patches` holds f16, `x` f16
/// or f32, and C is a multiple of 8.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn gather_patches<'a>(
    x: impl Into<TensorView<'a>>,
    resample: Resample,
    patches: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "gather_patches";
    let (x, patches) = (x.into(), patches.into());
    let sizes = check(OP, ["x", "patches"], x.shape(), patches.shape(), resample)?;
    on_gpu!(x, crate::cuda::ops::gather_patches(x, resample, patches, sizes));
    cpu::gather_patches(x.f32s(OP, "x")?, resample, patches.into_f32s(OP, "patches")?, sizes);
    Ok(())
}

/// The gradient of [`gather_patches`]: dx[b, p, q, c] is the sum of all dpatches[b, (i, j), (k, l, c)] that are of
/// that cell.
///
/// `dpatches`: (B, H'·W', 9·C); `dx`: (B, H, W, C), written, or added to with `accumulate`. On a GPU `dpatches`
/// holds f16, `dx` f16 or f32, and C is a multiple of 8.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn gather_patches_backward<'a>(
    dpatches: impl Into<TensorView<'a>>,
    resample: Resample,
    dx: impl Into<TensorViewMut<'a>>,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "gather_patches_backward";
    let (dpatches, dx) = (dpatches.into(), dx.into());
    let sizes = check(OP, ["dx", "dpatches"], dx.shape(), dpatches.shape(), resample)?;
    on_gpu!(
        dpatches,
        crate::cuda::ops::gather_patches_backward(dpatches, resample, dx, accumulate, sizes)
    );
    let (dpatches, dx) = (dpatches.f32s(OP, "dpatches")?, dx.into_f32s(OP, "dx")?);
    cpu::gather_patches_backward(dpatches, resample, dx, accumulate, sizes);
    Ok(())
}

/// B, H, W and C.
fn check(
    op: &'static str,
    [grid_name, patches_name]: [&'static str; 2],
    grid: &[usize],
    patches: &[usize],
    resample: Resample,
) -> Result<[usize; 4]> {
    let [images, height, width, channels] = expect_axes(op, grid_name, grid, "(B, H, W, C)")?;
    if grid.contains(&0) {
        return Err(Error::shape(op, grid_name, "(B, H, W, C), none of them 0", grid));
    }
    let [rows, columns] = resample.output([height, width]);
    let expected = [images, rows.saturating_mul(columns), channels.saturating_mul(TAPS)];
    expect_shape(op, patches_name, patches, &expected)?;
    Ok([images, height, width, channels])
}
