//! Feature maps of several sizes as the channels of one grid.

use std::fmt;

use super::{expect_axes, expect_shape};
use crate::cpu::{self, Taps};
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// Where the cells of a grid lie on a map, prepared once, and the memory that [`gather_features`] works in on a CPU.
pub struct Gather {
    input: [usize; 2],
    grid: usize,
    taps: [Taps; 2],
    line: Vec<f32>,
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gather from {:?} to a grid of {}", self.input, self.grid)
    }
}

impl Gather {
    /// From maps of `input` = [H, W] to a grid of side `grid`.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is a pixel, and a grid of at most 65535 × 65535 cells.
    pub fn new(input: [usize; 2], grid: usize) -> Result<Self> {
        if input.contains(&0) {
            let (expected, got) = ("at least one pixel", format!("{input:?}"));
            return Err(Error::argument("Gather", "input", expected, got));
        }
        if !(1..=65_535).contains(&grid) {
            return Err(Error::argument("Gather", "grid", "in 1..=65535", grid));
        }
        let taps = input.map(|input| Taps::new(input, grid));
        Ok(Self { input, grid, taps, line: Vec::new() })
    }
}

/// features[b, i, j, first_channel + c]: x interpolated linearly along both axes, as
/// [`resize_bilinear`](super::resize_bilinear) does.
///
/// `x`: (B, H, W, C), with the H and W of `gather`. `features`: (B, G, G, F) with the G of `gather`, of which
/// channels from `first_channel` on are written and the others left. f32; on a GPU `x` holds f16, `features` f16
/// or f32, and C, F and `first_channel` are multiples of 8.
///
/// On a CPU images are computed one after another, by the calling thread.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together; [`Error::Argument`] if `features` has not so many channels.
pub fn gather_features<'a>(
    x: impl Into<TensorView<'a>>,
    gather: &mut Gather,
    first_channel: usize,
    features: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "gather_features";
    let (x, features) = (x.into(), features.into());
    let Gather { input: [height, width], grid, ref taps, ref mut line } = *gather;
    let [b, _, _, channels] = expect_axes(OP, "x", x.shape(), "(B, H, W, C)")?;
    expect_shape(OP, "x", x.shape(), &[b, height, width, channels])?;
    let [.., all] = expect_axes::<4>(OP, "features", features.shape(), "(B, G, G, F)")?;
    expect_shape(OP, "features", features.shape(), &[b, grid, grid, all])?;
    if first_channel.checked_add(channels).is_none_or(|end| end > all) {
        let expected = format!("such that {channels} channels from it on are among {all}");
        return Err(Error::argument(OP, "first_channel", expected, first_channel));
    }
    on_gpu!(x, crate::cuda::ops::gather_features(x, features, first_channel));
    let (x, y) = (x.f32s(OP, "x")?, features.into_f32s(OP, "features")?);
    let (x_len, y_len) = (height * width * channels, grid * grid * all);
    if x_len == 0 || y_len == 0 {
        return Ok(());
    }
    for (x, y) in x.chunks_exact(x_len).zip(y.chunks_exact_mut(y_len)) {
        let y = &mut y[first_channel..];
        cpu::resize_rows([&taps[0], &taps[1]], channels, x, 0..grid, y, all, line);
    }
    Ok(())
}
