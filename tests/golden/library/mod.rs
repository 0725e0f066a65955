//! The library, asked in the layout of the golden files: features are (B, C, G, G) there and (B, G, G, C) here.

mod denoiser;
pub mod efficientnet;
mod imported;
mod operations;
mod vit;

pub use denoiser::*;
pub use imported::*;
pub use operations::*;
pub use vit::*;

use invad::{DType, Device, Tensor};

type Result<T> = std::result::Result<T, String>;

fn text(error: invad::Error) -> String {
    error.to_string()
}

pub fn tensor(data: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_f32(data.to_vec(), shape, Device::Cpu).map_err(text)
}

/// A tensor that an operation is to fill.
pub fn output(shape: &[usize]) -> Result<Tensor> {
    tensor(&vec![f32::NAN; shape.iter().product()], shape)
}

/// The same numbers on a device.
fn on(device: Device, tensor: &Tensor) -> Result<Tensor> {
    tensor.view().copied_to(device, DType::F32).map_err(text)
}

/// (B, R, C) to (B, C, R).
fn transposed<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    let matrix = |m: &[T]| -> Vec<T> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| m[i]).collect()
    };
    x.chunks(rows * columns).flat_map(matrix).collect()
}
