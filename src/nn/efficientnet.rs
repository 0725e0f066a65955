//! EfficientNet as a frozen feature extractor: the outputs of several blocks on one grid.
//!
//! Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019. The Lite
//! variants have no squeeze-excite and ReLU6 in place of swish.

use std::fmt;

#[cfg(feature = "cuda")]
mod on_gpu;

#[cfg(feature = "cuda")]
pub(super) use on_gpu::{EfficientNetOnGpu, Workspace as GpuWorkspace};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use crate::cpu::conv2d::{Conv, Window};
use crate::cpu::depthwise_conv2d::DepthwiseConv;
use crate::cpu::gemm::{Mat, Packed, Rhs};
use crate::cpu::inverted_residual::{Band, InvertedResidual};
use crate::cpu::{self, Taps};
use crate::error::Result;
use crate::ops::{Activation, BatchNorm, expect_axes, expect_shape, fold_batch_norm};
use crate::tensor::{TensorView, TensorViewMut};

/// One block: expansion to `expand` · `input` channels, depthwise convolution, projection.
#[derive(Clone, Copy, Debug)]
struct BlockConfig {
    kernel: usize,
    stride: usize,
    expand: usize,
    input: usize,
    output: usize,
}

/// What distinguishes one EfficientNet from another.
#[derive(Debug)]
struct Config {
    /// Height and width of an image.
    image_size: usize,
    stem: usize,
    blocks: &'static [BlockConfig],
    /// The blocks whose outputs are the features.
    taps: &'static [usize],
    activation: Activation,
    eps: f64,
}

const fn block(
    kernel: usize,
    stride: usize,
    expand: usize,
    input: usize,
    output: usize,
) -> BlockConfig {
    BlockConfig { kernel, stride, expand, input, output }
}

/// Height and width of the grid of features: that of the deepest block.
const STRIDE: usize = 16;

const LITE0: Config = Config {
    image_size: 256,
    stem: 32,
    blocks: &[
        block(3, 1, 1, 32, 16),
        block(3, 2, 6, 16, 24),
        block(3, 1, 6, 24, 24),
        block(5, 2, 6, 24, 40),
        block(5, 1, 6, 40, 40),
        block(3, 2, 6, 40, 80),
        block(3, 1, 6, 80, 80),
        block(3, 1, 6, 80, 80),
        block(5, 1, 6, 80, 112),
        block(5, 1, 6, 112, 112),
        block(5, 1, 6, 112, 112),
    ],
    taps: &[0, 2, 4, 10],
    activation: Activation::Relu6,
    eps: 1e-3,
};

/// ImageNet weights of EfficientNet-Lite0, cut after block 10; see `scripts/lite0_weights.py`.
pub(super) static LITE0_WEIGHTS: &[u8] =
    include_bytes!("../../assets/efficientnet-lite0.safetensors");

/// A convolution with the batch normalisation after it folded in.
struct ConvLayer {
    window: Window,
    /// Input and output channels.
    channels: [usize; 2],
    weight: Packed,
    bias: Vec<f32>,
    activation: Activation,
}

impl ConvLayer {
    fn conv(&self) -> Conv<'_> {
        Conv {
            window: self.window,
            channels: self.channels,
            weight: Rhs::Packed(&self.weight),
            bias: &self.bias,
            activation: self.activation,
        }
    }
}

/// A depthwise convolution with the batch normalisation after it folded in.
struct DepthwiseLayer {
    window: Window,
    weight: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

impl DepthwiseLayer {
    fn conv(&self) -> DepthwiseConv<'_> {
        DepthwiseConv {
            window: self.window,
            channels: self.bias.len(),
            weight: &self.weight,
            bias: &self.bias,
            activation: self.activation,
        }
    }
}

/// Where a block's output goes among the features.
struct Tap {
    resize: Taps,
    first_channel: usize,
}

struct Block {
    /// The first block's is the stem, which comes right before its depthwise convolution.
    expand: ConvLayer,
    depthwise: DepthwiseLayer,
    project: ConvLayer,
    skip: bool,
    tap: Option<Tap>,
}

impl Block {
    fn output_len(&self) -> usize {
        let [height, width] = self.project.window.output;
        height * width * self.project.channels[1]
    }

    fn inverted_residual(&self) -> InvertedResidual<'_> {
        InvertedResidual {
            expand: self.expand.conv(),
            depthwise: self.depthwise.conv(),
            project: self.project.conv(),
            skip: self.skip,
        }
    }
}

/// A frozen EfficientNet with its batch normalisations folded into its convolutions.
pub struct EfficientNet {
    image_size: usize,
    channels: usize,
    blocks: Vec<Block>,
}

impl fmt::Debug for EfficientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EfficientNet")
            .field("image_size", &self.image_size)
            .field("channels", &self.channels)
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

/// The memory [`EfficientNet::forward`] works in; after the first call nothing more is allocated.
#[derive(Debug, Default)]
pub struct Workspace {
    /// One for each image in progress.
    images: Vec<Maps>,
    /// One for each thread.
    bands: Vec<Band>,
}

/// A block's input and output, and a row for resizing.
#[derive(Debug, Default)]
struct Maps {
    input: Vec<f32>,
    output: Vec<f32>,
    line: Vec<f32>,
}

impl EfficientNet {
    /// EfficientNet-Lite0 with ImageNet weights, up to block 10: 192 channels.
    pub fn lite0() -> Self {
        Self::read(&LITE0, LITE0_WEIGHTS).expect("the embedded weights are whole")
    }

    /// Height and width of an image.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// Channels of the features.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height and width of the grid of features.
    pub fn grid(&self) -> usize {
        self.image_size / STRIDE
    }

    /// The outputs of the tapped blocks, each resized bilinearly to the grid and concatenated.
    ///
    /// `images`: (B, S, S, 3) with S the [image size](Self::image_size), normalised. `features`: (B, G,
    /// G, C) with G the [grid](Self::grid) and C the [channels](Self::channels).
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the shapes are others.
    pub fn forward<'a>(
        &self,
        images: impl Into<TensorView<'a>>,
        features: impl Into<TensorViewMut<'a>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        const OP: &str = "EfficientNet::forward";
        let (images, features) = (images.into(), features.into());
        let [b, ..]: [usize; 4] = expect_axes(OP, "images", images.shape(), "(B, S, S, 3)")?;
        let (size, grid) = (self.image_size, self.grid());
        expect_shape(OP, "images", images.shape(), &[b, size, size, 3])?;
        expect_shape(OP, "features", features.shape(), &[b, grid, grid, self.channels])?;
        let (x, y) = (images.f32s(OP, "images")?, features.into_f32s(OP, "features")?);
        let (x_len, y_len) = (size * size * 3, grid * grid * self.channels);

        let threads = rayon::current_num_threads();
        let each = b / threads;
        let Workspace { images, bands } = workspace;
        bands.resize_with(threads.max(bands.len()), Band::default);
        images.resize_with(threads.min(b).max(images.len()), Maps::default);
        // As many images as can be shared out evenly, a thread for each; then the others one after
        // another, all threads working on parts of one.
        let (x_even, x_rest) = x.split_at(each * threads * x_len);
        let (y_even, y_rest) = y.split_at_mut(each * threads * y_len);
        if each > 0 {
            let parts = x_even.par_chunks(each * x_len).zip(y_even.par_chunks_mut(each * y_len));
            parts.zip(&mut images[..]).zip(bands.par_chunks_mut(1)).for_each(
                |(((x, y), maps), band)| {
                    for (x, y) in x.chunks_exact(x_len).zip(y.chunks_exact_mut(y_len)) {
                        self.image(x, y, maps, band);
                    }
                },
            );
        }
        for (x, y) in x_rest.chunks_exact(x_len).zip(y_rest.chunks_exact_mut(y_len)) {
            self.image(x, y, &mut images[0], &mut bands[..threads]);
        }
        Ok(())
    }

    /// One image, its rows split over `bands`.
    fn image(&self, x: &[f32], y: &mut [f32], maps: &mut Maps, bands: &mut [Band]) {
        let longest = self.blocks.iter().map(Block::output_len).max().unwrap_or(0);
        maps.input.resize(longest, 0.0);
        maps.output.resize(longest, 0.0);
        for (i, block) in self.blocks.iter().enumerate() {
            let input = if i == 0 { x } else { &maps.input };
            let output = &mut maps.output[..block.output_len()];
            cpu::inverted_residual(&block.inverted_residual(), input, output, bands);
            if let Some(Tap { resize, first_channel }) = &block.tap {
                let channels = block.project.channels[1];
                let y = &mut y[*first_channel..];
                let (resize, rows) = ([resize, resize], 0..self.grid());
                cpu::resize_rows(resize, channels, output, rows, y, self.channels, &mut maps.line);
            }
            std::mem::swap(&mut maps.input, &mut maps.output);
        }
    }

    /// Reads what `config` needs from a safetensors file; on failure says what is wrong with it.
    fn read(config: &Config, weights: &[u8]) -> Result<Self, String> {
        let mut blocks = Vec::new();
        let mut channels = 0;
        for block in read(config, weights)? {
            let tap = block.tap.map(|first_channel| {
                channels = first_channel + block.project.channels[1];
                let from = block.depthwise.window.output[0];
                Tap { resize: Taps::new(from, config.image_size / STRIDE), first_channel }
            });
            blocks.push(Block {
                expand: block.expand.packed(),
                depthwise: block.depthwise,
                project: block.project.packed(),
                skip: block.skip,
                tap,
            });
        }
        Ok(Self { image_size: config.image_size, channels, blocks })
    }
}

/// A convolution as it is in a file, with the batch normalisation after it folded in; its weight is
/// (kernel height · kernel width · input channels, output channels).
struct ReadConv {
    window: Window,
    channels: [usize; 2],
    weight: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

impl ReadConv {
    fn packed(self) -> ConvLayer {
        let Self { window, channels, weight, bias, activation } = self;
        let outputs = channels[1];
        let weight = Packed::new(Mat::new(&weight, weight.len() / outputs, outputs));
        ConvLayer { window, channels, weight, bias, activation }
    }
}

/// A block as it is in a file.
struct ReadBlock {
    expand: ReadConv,
    depthwise: DepthwiseLayer,
    project: ReadConv,
    skip: bool,
    /// The first of its channels among the features.
    tap: Option<usize>,
}

/// The blocks of a file.
fn read(config: &Config, weights: &[u8]) -> Result<Vec<ReadBlock>, String> {
    let file = SafeTensors::deserialize(weights).map_err(|e| e.to_string())?;
    let reader = Reader { file, eps: config.eps };
    let mut size = [config.image_size; 2];
    let mut channels = 0;
    let mut blocks = Vec::new();
    for (i, block) in config.blocks.iter().enumerate() {
        let names =
            |conv: &str, norm: &str| [format!("_blocks.{i}.{conv}"), format!("_blocks.{i}.{norm}")];
        let expanded = block.expand * block.input;
        let (expand, expand_names) = if i == 0 {
            let window = Window::same(size, 3, 2);
            (([3, config.stem], window), ["_conv_stem".into(), "_bn0".into()])
        } else {
            let window = Window::same(size, 1, 1);
            (([block.input, expanded], window), names("_expand_conv", "_bn0"))
        };
        let expand = reader.conv(expand_names, expand.0, expand.1, config.activation)?;
        let window = Window::same(expand.window.output, block.kernel, block.stride);
        let depthwise = reader.depthwise(
            names("_depthwise_conv", "_bn1"),
            expanded,
            window,
            config.activation,
        )?;
        size = window.output;
        let project = reader.conv(
            names("_project_conv", "_bn2"),
            [expanded, block.output],
            Window::same(size, 1, 1),
            Activation::None,
        )?;
        let tap = config.taps.contains(&i).then_some(channels);
        channels += if tap.is_some() { block.output } else { 0 };
        let skip = i > 0 && block.stride == 1 && block.input == block.output;
        blocks.push(ReadBlock { expand, depthwise, project, skip, tap });
    }
    Ok(blocks)
}

/// Takes layers from a file with the names of the PyTorch ports of EfficientNet, (`_conv_stem`,
/// `_blocks.3._bn1`, …), whose weights are (output channels, input channels, height, width).
struct Reader<'a> {
    file: SafeTensors<'a>,
    eps: f64,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let tensor = self.file.tensor(name).map_err(|_| format!("there is no tensor `{name}`"))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let (dtype, got) = (tensor.dtype(), tensor.shape());
            return Err(format!("`{name}` should be F32 {shape:?}, it is {dtype:?} {got:?}"));
        }
        Ok(tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    fn conv(
        &self,
        [conv, norm]: [String; 2],
        [input, output]: [usize; 2],
        window: Window,
        activation: Activation,
    ) -> Result<ReadConv, String> {
        let [kh, kw] = window.kernel;
        let by_output = self.tensor(&format!("{conv}.weight"), &[output, input, kh, kw])?;
        let taps = kh * kw;
        let weight = (0..taps * input * output).map(|i| {
            let (tap, c, o) = (i / (input * output), i / output % input, i % output);
            by_output[(o * input + c) * taps + tap]
        });
        let mut weight: Vec<f32> = weight.collect();
        let bias = self.fold(norm, &mut weight, output)?;
        Ok(ReadConv { window, channels: [input, output], weight, bias, activation })
    }

    fn depthwise(
        &self,
        [conv, norm]: [String; 2],
        channels: usize,
        window: Window,
        activation: Activation,
    ) -> Result<DepthwiseLayer, String> {
        let [kh, kw] = window.kernel;
        let by_channel = self.tensor(&format!("{conv}.weight"), &[channels, 1, kh, kw])?;
        let taps = kh * kw;
        let weight = (0..taps * channels).map(|i| by_channel[i % channels * taps + i / channels]);
        let mut weight: Vec<f32> = weight.collect();
        let bias = self.fold(norm, &mut weight, channels)?;
        Ok(DepthwiseLayer { window, weight, bias, activation })
    }

    /// Folds the normalisation into the weight; returns the bias.
    fn fold(&self, norm: String, weight: &mut [f32], channels: usize) -> Result<Vec<f32>, String> {
        let part = |name: &str| self.tensor(&format!("{norm}.{name}"), &[channels]);
        let norm = BatchNorm {
            scale: &part("weight")?,
            shift: &part("bias")?,
            mean: &part("running_mean")?,
            variance: &part("running_var")?,
            eps: self.eps,
        };
        let mut bias = vec![0.0; channels];
        fold_batch_norm(norm, weight, &mut bias).map_err(|e| e.to_string())?;
        Ok(bias)
    }
}
