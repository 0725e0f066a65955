//! Convolution of each channel with a kernel of its own.

#[cfg(feature = "cuda")]
use super::Activation;
use super::{Convolution, expect_axes, expect_shape};
use crate::cpu::conv2d::Window;
use crate::cpu::depthwise_conv2d::{DepthwiseConv, SUPPORTED};
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// y = activation(Σ x·weight + bias): y[b, i, j, c] sums x[b, i·stride + k − top, j·stride + l − left, c] ·
/// weight[k, l, c] over k and l, where x is zero outside the image.
///
/// `x`: (B, H, W, C). `weight`: (K, K, C) with K 3 or 5. `bias`: (C). `y`: (B, H', W', C) with
/// H' = ⌊(H + top + bottom − K)/stride⌋ + 1 and likewise W'. The stride is 1 or 2. On a GPU `x` and
/// `y` hold f16, C is a multiple of 8, and the activation none, ReLU6 or SiLU.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not agree; [`Error::Argument`] if the kernel does not fit or
/// the kernel size and stride are others than these.
pub fn depthwise_conv2d<'a>(
    x: impl Into<TensorView<'a>>,
    weight: impl Into<TensorView<'a>>,
    bias: impl Into<TensorView<'a>>,
    convolution: Convolution,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "depthwise_conv2d";
    let (x, weight, bias, y) = (x.into(), weight.into(), bias.into(), y.into());
    let (window, y_shape) = shapes(OP, x.shape(), weight.shape(), convolution)?;
    expect_shape(OP, "bias", bias.shape(), &y_shape[3..])?;
    expect_shape(OP, "y", y.shape(), &y_shape)?;
    let activation = convolution.activation;
    on_gpu!(x, {
        let activations = [Activation::None, activation];
        crate::cuda::ops::depthwise_conv2d(x, weight, bias, window, activations, y, None)
    });
    let conv = DepthwiseConv {
        window,
        channels: y_shape[3],
        weight: weight.f32s(OP, "weight")?,
        bias: bias.f32s(OP, "bias")?,
        activation,
    };
    crate::cpu::depthwise_conv2d(&conv, x.f32s(OP, "x")?, y.into_f32s(OP, "y")?);
    Ok(())
}

/// How the kernel moves, and the shape of the output.
fn shapes(
    op: &'static str,
    x: &[usize],
    weight: &[usize],
    convolution: Convolution,
) -> Result<(Window, [usize; 4])> {
    let x: [usize; 4] = expect_axes(op, "x", x, "(B, H, W, C)")?;
    let [k, l, _] = expect_axes(op, "weight", weight, "(K, K, C)")?;
    expect_shape(op, "weight", weight, &[k, k, x[3]])?;
    if !SUPPORTED.contains(&(k, convolution.stride)) {
        return Err(Error::argument(
            op,
            "convolution",
            "a kernel of 3 or 5 with a stride of 1 or 2",
            format!("a kernel of {k} with a stride of {}", convolution.stride),
        ));
    }
    let window = convolution.window(op, x, [k, l])?;
    Ok((window, [x[0], window.output[0], window.output[1], x[3]]))
}
