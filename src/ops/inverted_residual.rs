//! The block of EfficientNet and MobileNet.

use std::fmt;

use super::{Activation, Padding, expect_shape};
use crate::cpu;
use crate::cpu::conv2d::{Conv, Window};
use crate::cpu::depthwise_conv2d::{DepthwiseConv, SUPPORTED};
use crate::cpu::gemm::{self, Mat, Rhs};
use crate::cpu::inverted_residual::{Band, Gated};
use crate::cuda;
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Shape, Tensor, TensorView, TensorViewMut};

const OP: &str = "inverted_residual";

/// The convolution that a block begins with, M its output channels.
#[derive(Clone, Copy, Debug)]
pub enum Expansion<'a> {
    /// There is none: M = C.
    None,
    /// Of each pixel by itself. `weight`: (C, M).
    Pointwise(FoldedLayer<'a>),
    /// Of a network's first block: 3 × 3 at stride 2, of images of bytes, which are normalised as
    /// [`normalise`](super::normalise) does, or of numbers that have been. `weight`: (3, 3, 3, M): row, column, red,
    /// green and blue.
    Stem {
        /// The convolution.
        layer: FoldedLayer<'a>,
        /// Zeros around the image, after it was normalised.
        padding: Padding,
        /// The mean of red, green and blue, of pixels in [0, 1].
        mean: [f32; 3],
        /// Their standard deviation.
        std: [f32; 3],
    },
}

/// A convolution's weight and bias on the host, in f32, with the batch normalisation after it folded in
/// ([`fold_batch_norm`](super::fold_batch_norm)).
#[derive(Clone, Copy, Debug)]
pub struct FoldedLayer<'a> {
    /// The weight, output channels last.
    pub weight: TensorView<'a>,
    /// A number of each output channel.
    pub bias: TensorView<'a>,
}

/// Squeeze-excite, a gate for each channel that depends on the whole image: σ(expand(SiLU(reduce(mean over pixels)))).
///
/// Hu et al., "Squeeze-and-Excitation Networks", 2018.
#[derive(Clone, Copy, Debug)]
pub struct SqueezeExcite<'a> {
    /// A linear layer to R channels. `weight`: (M, R).
    pub reduce: FoldedLayer<'a>,
    /// The one back. `weight`: (R, M).
    pub expand: FoldedLayer<'a>,
}

/// What an [`InvertedResidual`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct InvertedResidualLayers<'a> {
    /// Height and width of an input.
    pub input: [usize; 2],
    /// The first convolution, to M channels.
    pub expansion: Expansion<'a>,
    /// The depthwise convolution. `weight`: (K, K, M) with K 3 or 5.
    pub depthwise: FoldedLayer<'a>,
    /// Its stride, 1 or 2.
    pub stride: usize,
    /// Zeros around what it is applied to.
    pub padding: Padding,
    /// What its output is multiplied by.
    pub squeeze_excite: Option<SqueezeExcite<'a>>,
    /// The last convolution, of each pixel by itself. `weight`: (M, O).
    pub projection: FoldedLayer<'a>,
    /// What the first two are followed by; on a GPU none, ReLU6 or SiLU.
    pub activation: Activation,
    /// Whether the input is added to the output: where they have the same shape, and the expansion is no stem.
    pub skip: bool,
}

/// A block with its weights as a device computes with them: f32 on a CPU; on a GPU f16, of the stem's and the depthwise
/// convolution and of squeeze-excite f32.
pub struct InvertedResidual {
    /// The expansion, the depthwise convolution and the projection.
    windows: [Window; 3],
    /// C, M and O.
    channels: [usize; 3],
    activation: Activation,
    skip: bool,
    weights: Weights,
}

enum Weights {
    Cpu(Box<OnHost>),
    Cuda(Box<cuda::ops::Residual>),
}

struct OnHost {
    /// Of a stem: what each byte is, normalised.
    table: Option<[[f32; 256]; 3]>,
    expansion: Option<(gemm::Packed, Vec<f32>)>,
    depthwise: (Vec<f32>, Vec<f32>),
    /// The layers of squeeze-excite, weights (R, M).
    squeeze_excite: Option<[(Vec<f32>, Vec<f32>); 2]>,
    projection: (gemm::Packed, Vec<f32>),
}

impl fmt::Debug for InvertedResidual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (input, output, device) = (self.input(1), self.output(1), self.device());
        write!(f, "InvertedResidual {:?} → {:?} on {device}", &input[1..], &output[1..])
    }
}

/// The size of a block, for its memory on a GPU.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct Size {
    pub windows: [Window; 3],
    /// What lies between the convolutions.
    pub channels: usize,
    pub squeezes: bool,
}

impl InvertedResidual {
    /// Packs a block for a device.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit together; [`Error::DType`] or [`Error::Device`] if weights are
    /// not f32 on the host; [`Error::Argument`] for another kernel, stride or activation than there is, a kernel that
    /// does not fit into the padded image, or a skip between unlike shapes; [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it
    /// has not enough memory.
    pub fn new(block: &InvertedResidualLayers, device: Device) -> Result<Self> {
        let InvertedResidualLayers {
            input,
            expansion,
            depthwise,
            stride,
            padding,
            squeeze_excite,
            projection,
            activation,
            skip,
        } = *block;
        let k = depthwise.weight.shape().first().copied().unwrap_or(0);
        let mid = depthwise.weight.shape().last().copied().unwrap_or(0);
        let layer = expansion.layer();
        let c = match (expansion, layer.as_ref().map(|layer| layer.weight.shape())) {
            (Expansion::None, _) => mid,
            (Expansion::Pointwise(_), Some(&[c, to])) if to == mid => c,
            (Expansion::Stem { .. }, Some(&[3, 3, 3, to])) if to == mid => 3,
            (_, got) => {
                let expected = format!("(C, {mid}), or (3, 3, 3, {mid}) of a stem");
                return Err(Error::shape(OP, "expansion", expected, got.unwrap_or_default()));
            }
        };
        expect_shape(OP, "depthwise", depthwise.weight.shape(), &[k, k, mid])?;
        if !SUPPORTED.contains(&(k, stride)) {
            let expected = "a kernel of 3 or 5 with a stride of 1 or 2";
            let got = format!("a kernel of {k} with a stride of {stride}");
            return Err(Error::argument(OP, "depthwise", expected, got));
        }
        let out = projection.weight.shape().last().copied().unwrap_or(0);
        expect_shape(OP, "projection", projection.weight.shape(), &[mid, out])?;
        let mut biases =
            vec![("depthwise's bias", depthwise, mid), ("projection's bias", projection, out)];
        biases.extend(layer.map(|layer| ("expansion's bias", layer, mid)));
        if let Some(SqueezeExcite { reduce, expand }) = squeeze_excite {
            let reduced = reduce.weight.shape().last().copied().unwrap_or(0);
            expect_shape(OP, "squeeze_excite.reduce", reduce.weight.shape(), &[mid, reduced])?;
            expect_shape(OP, "squeeze_excite.expand", expand.weight.shape(), &[reduced, mid])?;
            biases.push(("squeeze_excite.reduce's bias", reduce, reduced));
            biases.push(("squeeze_excite.expand's bias", expand, mid));
        }
        for (arg, layer, channels) in biases {
            expect_shape(OP, arg, layer.bias.shape(), &[channels])?;
        }
        // So that no size overflows.
        Shape::new(OP, &[input[0], input[1], c.max(mid).max(out)])?;
        if [input[0], input[1], c, mid, out].contains(&0) {
            let expected = "at least one pixel and one channel";
            return Err(Error::argument(OP, "block", expected, format!("{block:?}")));
        }
        let first = match expansion {
            Expansion::Stem { padding, .. } => window("expansion", input, 3, 2, padding)?,
            _ => Window::same(input, 1, 1),
        };
        let second = window("padding", first.output, k, stride, padding)?;
        // The padding may have made more of them.
        Shape::new(OP, &[first.output[0], first.output[1], mid])?;
        Shape::new(OP, &[second.output[0], second.output[1], mid.max(out)])?;
        let windows = [first, second, Window::same(second.output, 1, 1)];
        let stem = matches!(expansion, Expansion::Stem { .. });
        if skip && (stem || second.output != input || c != out) {
            let expected = "only where input and output have the same shape, and none for a stem";
            return Err(Error::argument(OP, "skip", expected, skip));
        }
        let weights = Weights::new(block, device)?;
        Ok(Self { windows, channels: [c, mid, out], activation, skip, weights })
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        match &self.weights {
            Weights::Cpu(_) => Device::Cpu,
            Weights::Cuda(weights) => weights.device(),
        }
    }

    fn size(&self) -> Size {
        let squeezes = match &self.weights {
            Weights::Cpu(weights) => weights.squeeze_excite.is_some(),
            Weights::Cuda(weights) => weights.squeezes(),
        };
        Size { windows: self.windows, channels: self.channels[1], squeezes }
    }

    /// The shape of its input, (B, H, W, C).
    pub fn input(&self, images: usize) -> [usize; 4] {
        let [height, width] = self.windows[0].input;
        [images, height, width, self.channels[0]]
    }

    /// The shape of its output, (B, H', W', O).
    pub fn output(&self, images: usize) -> [usize; 4] {
        let [height, width] = self.windows[2].output;
        [images, height, width, self.channels[2]]
    }
}

/// How a kernel moves over an image.
fn window(
    arg: &'static str,
    input: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: Padding,
) -> Result<Window> {
    Window::new(input, [kernel; 2], stride, padding).ok_or_else(|| {
        let expected = format!("that {kernel} × {kernel} pixels fit into {input:?} with it");
        Error::argument(OP, arg, expected, format!("{padding:?}"))
    })
}

impl<'a> Expansion<'a> {
    /// Its weight and bias.
    pub(crate) fn layer(self) -> Option<FoldedLayer<'a>> {
        match self {
            Self::None => None,
            Self::Pointwise(layer) | Self::Stem { layer, .. } => Some(layer),
        }
    }
}

impl Weights {
    fn new(block: &InvertedResidualLayers, device: Device) -> Result<Self> {
        if device != Device::Cpu {
            let weights = cuda::ops::Residual::new(block, device)?;
            return Ok(Self::Cuda(Box::new(weights)));
        }
        let packed = |arg, layer: FoldedLayer| -> Result<_> {
            let (weight, bias) = (layer.weight.f32s(OP, arg)?, layer.bias.f32s(OP, arg)?);
            let rows = weight.len() / bias.len();
            Ok((gemm::Packed::new(Mat::new(weight, rows, bias.len())), bias.to_vec()))
        };
        let plain = |arg, FoldedLayer { weight, bias }: FoldedLayer| -> Result<_> {
            Ok((weight.f32s(OP, arg)?.to_vec(), bias.f32s(OP, arg)?.to_vec()))
        };
        let squeeze_excite = |SqueezeExcite { reduce, expand }| -> Result<_> {
            let (weight, bias) = plain("squeeze_excite.reduce", reduce)?;
            let reduced = bias.len();
            let mid = weight.len() / reduced.max(1);
            let by_output = (0..weight.len()).map(|i| weight[i % mid * reduced + i / mid]);
            Ok([(by_output.collect(), bias), plain("squeeze_excite.expand", expand)?])
        };
        Ok(Self::Cpu(Box::new(OnHost {
            table: match block.expansion {
                Expansion::None | Expansion::Pointwise(_) => None,
                Expansion::Stem { mean, std, .. } => Some(cpu::normalise_table(mean, std)),
            },
            expansion: block
                .expansion
                .layer()
                .map(|layer| packed("expansion", layer))
                .transpose()?,
            depthwise: plain("depthwise", block.depthwise)?,
            squeeze_excite: block.squeeze_excite.map(squeeze_excite).transpose()?,
            projection: packed("projection", block.projection)?,
        })))
    }
}

/// The memory that [`inverted_residual`] works in, made once for the blocks of a network. On a CPU it grows in the
/// first pass.
#[derive(Debug)]
pub struct InvertedResidualScratch(Space);

#[derive(Debug)]
enum Space {
    Cpu {
        /// A stem's image, normalised.
        normalised: Vec<f32>,
        /// One for each thread.
        bands: Vec<Band>,
        gated: Gated,
    },
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    Cuda(Box<cuda::ops::ResidualScratch>),
}

impl InvertedResidualScratch {
    /// For batches of up to `images` images through these blocks, one after another, on all of a CPU's threads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it has not enough memory.
    pub fn new<'b>(
        blocks: impl IntoIterator<Item = &'b InvertedResidual>,
        images: usize,
        device: Device,
    ) -> Result<Self> {
        let zeros = |len, dtype| Tensor::zeros(&[len], dtype, device);
        Self::taken(blocks, images, device, rayon::current_num_threads(), zeros)
    }

    /// The same on so many of a CPU's threads, and a GPU's memory from `take`, which is told how many numbers of which
    /// type.
    pub(crate) fn taken<'b>(
        blocks: impl IntoIterator<Item = &'b InvertedResidual>,
        images: usize,
        device: Device,
        threads: usize,
        take: impl FnMut(usize, DType) -> Result<Tensor>,
    ) -> Result<Self> {
        if device == Device::Cpu {
            let bands = std::iter::repeat_with(Band::default).take(threads.max(1)).collect();
            return Ok(Self(Space::Cpu { normalised: Vec::new(), bands, gated: Gated::default() }));
        }
        let sizes = blocks.into_iter().map(InvertedResidual::size);
        let scratch = cuda::ops::ResidualScratch::new(sizes, images, take)?;
        Ok(Self(Space::Cuda(Box::new(scratch))))
    }
}

/// y = project(gate ∘ depthwise(expand(x))), or x + that, with the gate of [`SqueezeExcite`], or none.
///
/// Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018; Tan & Le, "EfficientNet: Rethinking Model
/// Scaling for Convolutional Neural Networks", 2019.
///
/// `x`: (B, H, W, C), or of a stem (B, H, W, 3) bytes ([`DType::U8`]), or in f32 numbers that are normalised already;
/// `y`: (B, H', W', O): [`InvertedResidual::input`] and [`InvertedResidual::output`]. f32; on a GPU f16, what lies
/// between the convolutions as well, with C, M and O multiples of 8, and M of a stem up to 256.
///
/// On a CPU images are computed one after another, the rows of each split over the threads of `scratch`; the bits do
/// not depend on how many there are.
///
/// # Errors
/// [`Error::Shape`] if the shapes are others, or a GPU's kernels cannot compute them; [`Error::DType`] if `x` or `y`
/// holds others; [`Error::Device`] if the block, `scratch`, `x` and `y` are not on one device; [`Error::Argument`] if
/// `scratch` is too small.
pub fn inverted_residual<'a>(
    x: impl Into<TensorView<'a>>,
    block: &InvertedResidual,
    scratch: &mut InvertedResidualScratch,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    let (x, y) = (x.into(), y.into());
    let images = x.shape().first().copied().unwrap_or(0);
    expect_shape(OP, "x", x.shape(), &block.input(images))?;
    expect_shape(OP, "y", y.shape(), &block.output(images))?;
    let InvertedResidual { windows, channels: [c, mid, out], activation, skip, ref weights } =
        *block;
    on_gpu!(x, {
        let (Weights::Cuda(weights), Space::Cuda(scratch)) = (weights, &mut scratch.0) else {
            let (arg, expected) = ("block or scratch", x.device());
            return Err(Error::Device { op: OP, arg, expected, got: Device::Cpu });
        };
        cuda::ops::inverted_residual(x, weights, block.size(), activation, skip, scratch, y)
    });
    let (Weights::Cpu(weights), Space::Cpu { normalised, bands, gated }) =
        (weights, &mut scratch.0)
    else {
        let (arg, got) = ("x", x.device());
        return Err(Error::Device { op: OP, arg, expected: block.device(), got });
    };
    let OnHost { table, expansion, depthwise, squeeze_excite, projection } = &**weights;
    let squeeze_excite = squeeze_excite.as_ref().map(|layers| {
        let [reduce, expand] = layers.each_ref().map(|(weight, bias)| [&weight[..], &bias[..]]);
        cpu::SqueezeExcite { reduce, expand }
    });
    let block = cpu::InvertedResidual {
        expand: expansion.as_ref().map(|(weight, bias)| Conv {
            window: windows[0],
            channels: [c, mid],
            weight: Rhs::Packed(weight),
            bias,
            activation,
        }),
        depthwise: DepthwiseConv {
            window: windows[1],
            channels: mid,
            weight: &depthwise.0,
            bias: &depthwise.1,
            activation,
        },
        squeeze_excite,
        project: Conv {
            window: windows[2],
            channels: [mid, out],
            weight: Rhs::Packed(&projection.0),
            bias: &projection.1,
            activation: Activation::None,
        },
        skip,
    };
    let len = |size: [usize; 2], channels| size[0] * size[1] * channels;
    let (x_len, y_len) = (len(windows[0].input, c), len(windows[2].output, out));
    let y = y.into_f32s(OP, "y")?.chunks_exact_mut(y_len);
    match table {
        Some(table) if x.dtype() == DType::U8 => {
            normalised.resize(x_len.max(normalised.len()), 0.0);
            let normalised = &mut normalised[..x_len];
            let part = 3 * (x_len / 3).div_ceil(bands.len());
            for (rgb, y) in x.u8s(OP, "x")?.chunks_exact(x_len).zip(y) {
                cpu::normalise_in_parts(table, rgb, normalised, part);
                cpu::inverted_residual(&block, normalised, y, bands, gated);
            }
        }
        _ => {
            for (x, y) in x.f32s(OP, "x")?.chunks_exact(x_len).zip(y) {
                cpu::inverted_residual(&block, x, y, bands, gated);
            }
        }
    }
    Ok(())
}
