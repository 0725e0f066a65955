//! Grids of features as sequences of patches.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// Where a patch's numbers stand within its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOrder {
    /// (C, p, p), as a patch embedding's convolution weight is laid out.
    ChannelsFirst,
    /// (p, p, C), as the final layer's linear emits them.
    ChannelsLast,
}

/// Rearranges a grid into patches.
///
/// `grid`: (B, H, W, C); `patches`: (B, H/p · W/p, C·p²), p the side of a patch. On a GPU `patches`
/// hold f16, `grid` f32 or f16.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn patchify<'a>(
    grid: impl Into<TensorView<'a>>,
    patches: impl Into<TensorViewMut<'a>>,
    patch: usize,
    order: PatchOrder,
) -> Result<()> {
    const OP: &str = "patchify";
    let (grid, patches) = (grid.into(), patches.into());
    let (expected, sizes) = layout(OP, "grid", grid.shape(), patch)?;
    expect_shape(OP, "patches", patches.shape(), &expected)?;
    on_gpu!(grid, crate::cuda::ops::patchify(grid, patches, patch, order));
    let (grid, patches) = (grid.f32s(OP, "grid")?, patches.into_f32s(OP, "patches")?);
    cpu::patchify(grid, patches, sizes, order);
    Ok(())
}

/// Rearranges patches into a grid: the inverse of [`patchify`] and its gradient.
///
/// `patches`: (B, H/p · W/p, C·p²); `grid`: (B, H, W, C). On a GPU both hold f16.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn unpatchify<'a>(
    patches: impl Into<TensorView<'a>>,
    grid: impl Into<TensorViewMut<'a>>,
    patch: usize,
    order: PatchOrder,
) -> Result<()> {
    const OP: &str = "unpatchify";
    let (patches, grid) = (patches.into(), grid.into());
    let (expected, sizes) = layout(OP, "grid", grid.shape(), patch)?;
    expect_shape(OP, "patches", patches.shape(), &expected)?;
    on_gpu!(patches, crate::cuda::ops::unpatchify(patches, grid, patch, order));
    let (patches, grid) = (patches.f32s(OP, "patches")?, grid.into_f32s(OP, "grid")?);
    cpu::unpatchify(patches, grid, sizes, order);
    Ok(())
}

fn layout(
    op: &'static str,
    arg: &'static str,
    shape: &[usize],
    patch: usize,
) -> Result<([usize; 3], cpu::PatchSizes)> {
    match *shape {
        [b, height, width, channels] if patch > 0 && height % patch == 0 && width % patch == 0 => {
            let sizes = cpu::PatchSizes { grid: [height, width], patch, channels };
            Ok(([b, height / patch * (width / patch), channels * patch * patch], sizes))
        }
        _ => {
            let expected = format!("(B, H, W, C), H and W multiples of {patch}");
            Err(Error::shape(op, arg, expected, shape))
        }
    }
}
