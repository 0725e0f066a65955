//! EfficientNet.

use std::collections::BTreeMap;

use invad::Tensor;
use invad::ops::{self, Activation, BatchNorm, Convolution, Padding};
use serde_json::Value;

use super::Stored;
use crate::efficientnet::{Map, Outputs, Pixels};
use crate::library;

type Result<T> = std::result::Result<T, String>;

/// What a network is made of.
#[derive(Clone)]
pub struct Plain {
    /// Kernel size, stride, expansion, and input and output channels of each block.
    blocks: Vec<[usize; 5]>,
    squeeze_excite: bool,
    activation: Activation,
    /// The size of images that padding is made for, if it is not their own.
    pads_for: Option<usize>,
}

impl Plain {
    /// Of a list of [kernel size, stride, expansion, input channels, output channels, squeeze-excite, activation].
    pub fn of_blocks(list: &Value) -> Result<Self> {
        let list = list.as_array().ok_or("manifest: a list of blocks")?;
        let block = |block: &Value| -> Option<[usize; 5]> {
            let sizes: Vec<_> = block
                .as_array()?
                .iter()
                .take(5)
                .filter_map(|n| Some(n.as_u64()? as usize))
                .collect();
            let plain = block[5] == Value::Bool(false) && block[6] == "ReLU6";
            sizes.try_into().ok().filter(|_| plain)
        };
        let blocks = list.iter().map(block).collect::<Option<Vec<_>>>();
        let blocks = blocks.ok_or("manifest: blocks without squeeze-excite, of ReLU6")?;
        Ok(Self { blocks, squeeze_excite: false, activation: Activation::Relu6, pads_for: None })
    }
}

/// EfficientNet-B4 up to stride 16.
pub fn b4(pads_for: Option<usize>) -> Plain {
    let mut blocks = vec![[3, 1, 1, 48, 24], [3, 1, 1, 24, 24]];
    for (kernel, stride, input, output, more) in
        [(3, 2, 24, 32, 3), (5, 2, 32, 56, 3), (3, 2, 56, 112, 5), (5, 1, 112, 160, 5)]
    {
        blocks.push([kernel, stride, 6, input, output]);
        blocks.extend(std::iter::repeat_n([kernel, 1, 6, output, output], more));
    }
    Plain { blocks, squeeze_excite: true, activation: Activation::Silu, pads_for }
}

struct Network<'a> {
    of: &'a Plain,
    values: BTreeMap<String, Vec<f32>>,
    stored: Stored,
}

impl Network<'_> {
    fn values(&self, name: &str) -> Result<&[f32]> {
        self.values.get(name).map(Vec::as_slice).ok_or_else(|| format!("no `{name}`"))
    }

    /// The convolution with the normalisation after it folded in, of `channels` input and output channels (none to
    /// go in: depthwise). x: (B, H, W, C); `strides`: those of the layers before.
    fn conv(
        &self,
        [conv, norm]: [String; 2],
        x: &Tensor,
        [kernel, stride, strides]: [usize; 3],
        channels: [usize; 2],
        activation: Activation,
    ) -> Result<Tensor> {
        let [b, h, w, _] = *x.shape() else { return Err("images have four axes".into()) };
        let [input, output] = channels;
        let taps = kernel * kernel;
        let by_output = self.values(&format!("{conv}.weight"))?;
        let inputs = input.max(1);
        let order = (0..taps * inputs * output).map(|i| {
            let (tap, c, o) = (i / (inputs * output), i / output % inputs, i % output);
            by_output[(o * inputs + c) * taps + tap]
        });
        let mut weight: Vec<f32> = order.collect();
        let mut bias = vec![0.0; output];
        let part = |name: &str| self.values(&format!("{norm}.{name}"));
        let norm = BatchNorm {
            scale: part("weight")?,
            shift: part("bias")?,
            mean: part("running_mean")?,
            variance: part("running_var")?,
            eps: 1e-3,
        };
        ops::fold_batch_norm(norm, &mut weight, &mut bias).map_err(text)?;
        let bias = library::tensor(&self.stored.all(bias), &[output])?;
        let weight = self.stored.all(weight);
        let size = self.of.pads_for.map_or([h, w], |side| [side.div_ceil(strides); 2]);
        let padding = Padding::same(size, [kernel; 2], stride);
        let convolution = Convolution { stride, padding, activation };
        let mut y = library::output(&[b, h.div_ceil(stride), w.div_ceil(stride), output])?;
        if input == 0 {
            let weight = library::tensor(&weight, &[kernel, kernel, output])?;
            ops::depthwise_conv2d(x, &weight, &bias, convolution, &mut y).map_err(text)?;
        } else {
            let weight = library::tensor(&weight, &[kernel, kernel, input, output])?;
            ops::conv2d(x, &weight, &bias, convolution, &mut y).map_err(text)?;
        }
        self.kept(&y)
    }

    /// Each image's channels times their gates.
    fn squeezed(&self, i: usize, x: &Tensor, reduced: usize) -> Result<Tensor> {
        let [b, h, w, c] = *x.shape() else { return Err("images have four axes".into()) };
        let stored = self.stored;
        let part = |layer: &str, part: &str| {
            self.values(&format!("_blocks.{i}._se_{layer}.{part}")).map(|v| stored.all(v.to_vec()))
        };
        let linear = |x: &[f32], layer: &str| -> Result<Vec<f32>> {
            let y = library::linear(x, &part(layer, "weight")?, &part(layer, "bias")?)?;
            Ok(stored.all(y))
        };
        let mut y = x.to_vec_f32();
        for image in y.chunks_mut(h * w * c) {
            let mean = (0..c).map(|c_| {
                let sum: f64 = image.iter().skip(c_).step_by(c).map(|&v| f64::from(v)).sum();
                (sum / (h * w) as f64) as f32
            });
            let hidden = linear(&stored.all(mean.collect()), "reduce")?;
            assert_eq!(hidden.len(), reduced);
            let hidden = stored.map(&hidden, |v| v / (1.0 + (-v).exp()));
            let gate = stored.map(&linear(&hidden, "expand")?, |v| 1.0 / (1.0 + (-v).exp()));
            image.copy_from_slice(&stored.zip(image, &gate, |v, gate| v * gate));
        }
        library::tensor(&y, &[b, h, w, c])
    }

    fn kept(&self, x: &Tensor) -> Result<Tensor> {
        library::tensor(&self.stored.all(x.to_vec_f32()), x.shape())
    }
}

fn text(error: invad::Error) -> String {
    error.to_string()
}

/// (B, H, W, C) to (B, C, H, W).
fn channels_first(x: &Tensor) -> Vec<f32> {
    let [b, h, w, c] = *x.shape() else { unreachable!("images have four axes") };
    let x = x.to_vec_f32();
    let at = |i: usize| {
        let (image, channel, pixel) = (i / (c * h * w), i / (h * w) % c, i % (h * w));
        x[(image * h * w + pixel) * c + channel]
    };
    (0..b * h * w * c).map(at).collect()
}

/// What the blocks up to the last of `taps` make of images.
pub fn efficientnet(
    of: &Plain,
    values: BTreeMap<String, Vec<f32>>,
    images: &Pixels,
    taps: &[usize],
    stored: Stored,
) -> Result<Outputs> {
    let network = Network { of, values, stored };
    let [b, _, height, width] = images.shape();
    let pixels = height * width;
    let x: Vec<f32> = match images {
        Pixels::Bytes { rgb, .. } => {
            let x = library::normalise(rgb)?;
            (0..x.len()).map(|i| x[i % 3 * b * pixels + i / 3]).collect()
        }
        Pixels::Normalised { x, .. } => (0..x.len())
            .map(|i| x[(i / 3 / pixels * 3 + i % 3) * pixels + i / 3 % pixels])
            .collect(),
    };
    let mut x = network.kept(&library::tensor(&x, &[b, height, width, 3])?)?;
    let mut outputs = Outputs::default();
    let mut strides = 2;
    let last = taps.iter().max().ok_or("no taps")?;
    for (i, &[kernel, stride, expand, input, output]) in of.blocks.iter().enumerate().take(last + 1)
    {
        let names = |conv: &str, norm: &str| [conv, norm].map(|n| format!("_blocks.{i}.{n}"));
        let (act, expanded) = (of.activation, expand * input);
        let wide = match i {
            0 => {
                let names = ["_conv_stem", "_bn0"].map(String::from);
                network.conv(names, &x, [3, 2, 1], [3, input], act)?
            }
            _ if expand == 1 => network.kept(&x)?,
            _ => {
                let names = names("_expand_conv", "_bn0");
                network.conv(names, &x, [1, 1, strides], [input, expanded], act)?
            }
        };
        let depthwise = names("_depthwise_conv", "_bn1");
        let shape = [kernel, stride, strides];
        let mut filtered = network.conv(depthwise, &wide, shape, [0, expanded], act)?;
        if of.squeeze_excite {
            filtered = network.squeezed(i, &filtered, input / 4)?;
        }
        strides *= stride;
        let project = names("_project_conv", "_bn2");
        let none = Activation::None;
        let mut y = network.conv(project, &filtered, [1, 1, strides], [expanded, output], none)?;
        if i > 0 && stride == 1 && input == output {
            let sum = stored.zip(&y.to_vec_f32(), &x.to_vec_f32(), |y, x| y + x);
            y = library::tensor(&sum, y.shape())?;
        }
        if taps.contains(&i) {
            let mut resized = library::output(&[b, height / 16, width / 16, output])?;
            ops::resize_bilinear(&y, &mut resized).map_err(text)?;
            outputs.tap(b, &stored.all(channels_first(&resized)));
        }
        outputs.blocks.push(Map { data: channels_first(&y) });
        x = y;
    }
    Ok(outputs)
}
