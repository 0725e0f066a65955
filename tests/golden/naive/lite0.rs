//! EfficientNet-Lite0.

use invad::Tensor;
use invad::ops::{self, Activation, BatchNorm, Convolution, Padding};
use safetensors::SafeTensors;

use super::Stored;
use crate::library;

type Result<T> = std::result::Result<T, String>;

/// Kernel size, stride, and input, expanded and output channels of each block.
const BLOCKS: [(usize, usize, [usize; 3]); 11] = [
    (3, 1, [32, 32, 16]),
    (3, 2, [16, 96, 24]),
    (3, 1, [24, 144, 24]),
    (5, 2, [24, 144, 40]),
    (5, 1, [40, 240, 40]),
    (3, 2, [40, 240, 80]),
    (3, 1, [80, 480, 80]),
    (3, 1, [80, 480, 80]),
    (5, 1, [80, 480, 112]),
    (5, 1, [112, 672, 112]),
    (5, 1, [112, 672, 112]),
];
/// The blocks whose outputs are features.
const TAPS: [usize; 4] = [0, 2, 4, 10];
const GRID: usize = 16;

struct Network<'a> {
    weights: SafeTensors<'a>,
    stored: Stored,
}

impl Network<'_> {
    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.weights.tensor(name).map_err(|e| format!("{name}: {e}"))?;
        Ok(tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    /// The convolution with the normalisation after it folded in, of `channels` input and output channels (none to
    /// go in: depthwise). x: (1, H, W, C).
    fn conv(
        &self,
        [conv, norm]: [String; 2],
        x: &Tensor,
        [kernel, stride]: [usize; 2],
        channels: [usize; 2],
        activation: Activation,
    ) -> Result<Tensor> {
        let [_, h, w, _] = *x.shape() else { return Err("an image has four axes".into()) };
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
        let (scale, shift) = (part("weight")?, part("bias")?);
        let (mean, variance) = (part("running_mean")?, part("running_var")?);
        let norm =
            BatchNorm { scale: &scale, shift: &shift, mean: &mean, variance: &variance, eps: 1e-3 };
        ops::fold_batch_norm(norm, &mut weight, &mut bias).map_err(text)?;
        let bias = library::tensor(&self.stored.all(bias), &[output])?;
        let weight = self.stored.all(weight);
        let padding = Padding::same([h, w], [kernel; 2], stride);
        let convolution = Convolution { stride, padding, activation };
        let mut y = library::output(&[1, h.div_ceil(stride), w.div_ceil(stride), output])?;
        if input == 0 {
            let weight = library::tensor(&weight, &[kernel, kernel, output])?;
            ops::depthwise_conv2d(x, &weight, &bias, convolution, &mut y).map_err(text)?;
        } else {
            let weight = library::tensor(&weight, &[kernel, kernel, input, output])?;
            ops::conv2d(x, &weight, &bias, convolution, &mut y).map_err(text)?;
        }
        self.kept(&y)
    }

    fn kept(&self, x: &Tensor) -> Result<Tensor> {
        library::tensor(&self.stored.all(x.to_vec_f32()), x.shape())
    }
}

fn text(error: invad::Error) -> String {
    error.to_string()
}

/// (C, G, G), of an image of 256 × 256.
pub fn lite0_features(rgb: &[u8], stored: Stored) -> Result<Vec<f32>> {
    let bytes = include_bytes!("../../../assets/efficientnet-lite0.safetensors");
    let weights = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let network = Network { weights, stored };
    let x = library::normalise(rgb)?;
    let pixels = rgb.len() / 3;
    let x: Vec<f32> = (0..rgb.len()).map(|i| x[i % 3 * pixels + i / 3]).collect();
    let side = pixels.isqrt();
    let mut x = network.kept(&library::tensor(&x, &[1, side, side, 3])?)?;
    let mut features = Vec::new();
    for (i, (kernel, stride, [input, expanded, output])) in BLOCKS.into_iter().enumerate() {
        let names = |conv: &str, norm: &str| [conv, norm].map(|n| format!("_blocks.{i}.{n}"));
        let relu6 = Activation::Relu6;
        let wide = match i {
            0 => {
                let names = ["_conv_stem", "_bn0"].map(String::from);
                network.conv(names, &x, [3, 2], [3, input], relu6)?
            }
            _ => {
                network.conv(names("_expand_conv", "_bn0"), &x, [1, 1], [input, expanded], relu6)?
            }
        };
        let depthwise = names("_depthwise_conv", "_bn1");
        let filtered = network.conv(depthwise, &wide, [kernel, stride], [0, expanded], relu6)?;
        let project = names("_project_conv", "_bn2");
        let none = Activation::None;
        let mut y = network.conv(project, &filtered, [1, 1], [expanded, output], none)?;
        if i > 0 && stride == 1 && input == output {
            let sum = stored.zip(&y.to_vec_f32(), &x.to_vec_f32(), |y, x| y + x);
            y = library::tensor(&sum, y.shape())?;
        }
        if TAPS.contains(&i) {
            let mut resized = library::output(&[1, GRID, GRID, output])?;
            ops::resize_bilinear(&y, &mut resized).map_err(text)?;
            let resized = stored.all(resized.to_vec_f32());
            let by_channel =
                (0..output).flat_map(|c| (0..GRID * GRID).map(move |p| p * output + c));
            features.extend(by_channel.map(|i| resized[i]));
        }
        x = y;
    }
    Ok(features)
}
