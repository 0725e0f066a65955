//! EfficientNets: features of pictures, and blocks one by one.

use image::RgbImage;
use invad::backbones::{EfficientNet, Loaded};
use invad::ops::{self, InvertedResidualScratch};
use invad::tensor::TensorView;
use invad::weights::Weights;
use invad::{DType, Device, Tensor};

use super::{Result, on, output, tensor, text, transposed};
use crate::efficientnet::{Map, Outputs, Pixels};

/// (C, G, G), of an image of h × h.
pub fn features(
    network: EfficientNet,
    weights: Weights,
    rgb: &[u8],
    [h, w]: [usize; 2],
    device: Device,
) -> Result<Vec<f32>> {
    let image = RgbImage::from_raw(w as u32, h as u32, rgb.to_vec()).ok_or("not an RGB image")?;
    let network = network.image_size(h).with_weights("of the file", weights).map_err(text)?;
    let backbone = Loaded::new(network, device).map_err(text)?;
    let [_, grid, _, channels] = backbone.spec().features().of(1);
    let mut y = on(device, &output(&[1, grid, grid, channels])?)?;
    backbone.extract(&[image], &mut y, &mut Default::default()).map_err(text)?;
    Ok(transposed(&y.to_vec_f32(), grid * grid, channels))
}

/// What the blocks make of images (B, 3, H, W), and those of `taps` resized to a sixteenth.
pub fn blocks(
    network: &EfficientNet,
    weights: &Weights,
    x: &Pixels,
    taps: &[usize],
    device: Device,
) -> Result<Outputs> {
    let [b, _, h, w] = x.shape();
    let blocks = network.blocks(weights, [h, w], device).map_err(text)?;
    let mut scratch = InvertedResidualScratch::new(&blocks, b, device).map_err(text)?;
    let shape = [b, h, w, 3];
    let mut x = match x {
        Pixels::Bytes { rgb, .. } => {
            TensorView::from_bytes(rgb, &shape).and_then(|x| x.copied_to(device, DType::U8))
        }
        Pixels::Normalised { x, .. } => Ok(on(device, &tensor(&transposed(x, 3, h * w), &shape)?)?),
    }
    .map_err(text)?;
    let dtype = if device == Device::Cpu { DType::F32 } else { DType::F16 };
    let mut outputs = Outputs::default();
    for (i, block) in blocks.iter().enumerate() {
        let mut y = Tensor::zeros(&block.output(b), dtype, device).map_err(text)?;
        y.view_mut().fill(f32::NAN).map_err(text)?;
        ops::inverted_residual(&x, block, &mut scratch, &mut y).map_err(text)?;
        let [_, rows, columns, channels] = block.output(b);
        let data = y.to_vec_f32();
        if taps.contains(&i) {
            let mut resized = output(&[b, h / 16, w / 16, channels])?;
            ops::resize_bilinear(&tensor(&data, y.shape())?, &mut resized).map_err(text)?;
            outputs.tap(b, &transposed(&resized.to_vec_f32(), h / 16 * (w / 16), channels));
        }
        let data = transposed(&data, rows * columns, channels);
        outputs.blocks.push(Map { data });
        x = y;
    }
    Ok(outputs)
}
