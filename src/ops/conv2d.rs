//! Convolution of images.

use super::{Activation, Padding, expect_axes, expect_shape};
use crate::cpu::conv2d::{Conv, Window};
use crate::cpu::gemm::Mat;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// How a kernel moves over an image, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Pixels between neighbouring places of the kernel, along both axes.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: Padding,
    /// Applied to each output.
    pub activation: Activation,
}

impl Default for Convolution {
    /// Stride 1, no padding, no activation.
    fn default() -> Self {
        Self { stride: 1, padding: Padding::default(), activation: Activation::None }
    }
}

impl Convolution {
    /// (B, H, W, C) to (B, ⌊(H + padding − KH)/stride⌋ + 1, … , `out_channels`).
    pub(super) fn window(
        &self,
        op: &'static str,
        x: [usize; 4],
        kernel: [usize; 2],
    ) -> Result<Window> {
        Window::new([x[1], x[2]], kernel, self.stride, self.padding).ok_or_else(|| {
            Error::argument(
                op,
                "convolution",
                format!(
                    "a stride of at least 1 and padding that makes a {kernel:?} kernel fit into \
                     an image of {:?}",
                    &x[1..3]
                ),
                format!("{self:?}"),
            )
        })
    }
}

/// y = activation(Σ x·weight + bias): y[b, i, j, o] sums x[b, i·stride + k − top, j·stride + l − left, c] ·
/// weight[k, l, c, o] over k, l and c, where x is zero outside the image.
///
/// `x`: (B, H, W, C). `weight`: (KH, KW, C, O). `bias`: (O). `y`: (B, H', W', O) with
/// H' = ⌊(H + top + bottom − KH)/stride⌋ + 1 and likewise W'.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not agree; [`Error::Argument`] if the kernel does not fit.
pub fn conv2d<'a>(
    x: impl Into<TensorView<'a>>,
    weight: impl Into<TensorView<'a>>,
    bias: impl Into<TensorView<'a>>,
    convolution: Convolution,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "conv2d";
    let (x, weight, bias, y) = (x.into(), weight.into(), bias.into(), y.into());
    let shapes = Shapes::new(OP, x.shape(), weight.shape(), convolution)?;
    expect_shape(OP, "bias", bias.shape(), &shapes.channels[1..])?;
    expect_shape(OP, "y", y.shape(), &shapes.y)?;
    let conv = Conv {
        window: shapes.window,
        channels: shapes.channels,
        weight: shapes.matrix(weight.f32s(OP, "weight")?).into(),
        bias: bias.f32s(OP, "bias")?,
        activation: convolution.activation,
    };
    crate::cpu::conv2d(&conv, x.f32s(OP, "x")?, y.into_f32s(OP, "y")?);
    Ok(())
}

struct Shapes {
    window: Window,
    channels: [usize; 2],
    y: [usize; 4],
}

impl Shapes {
    fn new(
        op: &'static str,
        x: &[usize],
        weight: &[usize],
        convolution: Convolution,
    ) -> Result<Self> {
        let x: [usize; 4] = expect_axes(op, "x", x, "(B, H, W, C)")?;
        let [kh, kw, c, o] = expect_axes(op, "weight", weight, "(KH, KW, C, O)")?;
        expect_shape(op, "weight", weight, &[kh, kw, x[3], o])?;
        if c == 0 || o == 0 {
            return Err(Error::shape(
                op,
                "weight",
                "(KH, KW, C, O) with at least one channel",
                weight,
            ));
        }
        let window = convolution.window(op, x, [kh, kw])?;
        let [height, width] = window.output;
        Ok(Self { window, channels: [c, o], y: [x[0], height, width, o] })
    }

    /// The weight with a row for each number of a patch.
    fn matrix<'a>(&self, weight: &'a [f32]) -> Mat<'a> {
        let [_, o] = self.channels;
        Mat::new(weight, weight.len() / o, o)
    }
}
