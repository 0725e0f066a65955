//! Pixel values to network inputs.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// y = (v/255 − mean)/std, channel by channel.
///
/// `rgb`: (…, 3) bytes ([`DType::U8`](crate::DType::U8)). `y`: (…, 3), as many elements; f32, on a GPU f32 or f16.
///
/// # Errors
/// [`Error::Shape`] if `rgb` and `y` have not as many elements or not three channels; [`Error::DType`] if they
/// hold others.
pub fn normalise<'a>(
    rgb: impl Into<TensorView<'a>>,
    mean: [f32; 3],
    std: [f32; 3],
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "normalise";
    let (rgb, y) = (rgb.into(), y.into());
    for (arg, shape) in [("rgb", rgb.shape()), ("y", y.shape())] {
        if shape.last() != Some(&3) {
            return Err(Error::shape(OP, arg, "(…, 3)", shape));
        }
    }
    expect_shape(OP, "y", &[y.len()], &[rgb.len()])?;
    on_gpu!(rgb, crate::cuda::ops::normalise(rgb, mean, std, y));
    let (rgb, y) = (rgb.u8s(OP, "rgb")?, y.into_f32s(OP, "y")?);
    cpu::normalise(&cpu::normalise_table(mean, std), rgb, y);
    Ok(())
}
