//! Pixel values to network inputs.

use super::expect_shape;
use crate::cpu;
use crate::error::Result;
use crate::tensor::TensorViewMut;

/// y = (v/255 − mean)/std, channel by channel.
///
/// `rgb`: bytes of any number of RGB pixels. `y`: (…, 3), as many elements.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if `y` has not as many elements or not three channels.
pub fn normalise<'a>(
    rgb: &[u8],
    mean: [f32; 3],
    std: [f32; 3],
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "normalise";
    let y = y.into();
    expect_shape(OP, "y", &y.shape()[y.shape().len().saturating_sub(1)..], &[3])?;
    expect_shape(OP, "rgb", &[rgb.len()], &[y.len()])?;
    cpu::normalise(&cpu::normalise_table(mean, std), rgb, y.into_f32s(OP, "y")?);
    Ok(())
}
