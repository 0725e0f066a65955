//! Images and maps to files.

use std::io;
use std::path::Path;

use ::image::{ImageBuffer, ImageFormat, Pixel, PixelWithColorType};
use tiff::encoder::TiffEncoder;
use tiff::encoder::colortype::Gray32Float;

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Writes an 8-bit picture as PNG.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn write_png<P>(path: impl AsRef<Path>, image: &ImageBuffer<P, Vec<u8>>) -> Result<()>
where
    P: Pixel<Subpixel = u8> + PixelWithColorType,
{
    write_atomic(path, |file| image.write_to(file, ImageFormat::Png).map_err(io::Error::other))
}

/// Writes an anomaly map as it is, as a TIFF of one 32-bit float per pixel, which OpenCV, ImageJ
/// and PIL read. `map`: `height` × `width`, row by row.
///
/// # Errors
/// [`Error::Shape`] if `map` has another number of values; [`Error::Io`] if the file cannot be
/// written.
pub fn write_map(path: impl AsRef<Path>, map: &[f32], width: u32, height: u32) -> Result<()> {
    if map.len() as u64 != u64::from(width) * u64::from(height) || map.is_empty() {
        let expected = format!("({height}, {width}), not empty");
        return Err(Error::shape("write_map", "map", expected, &[map.len()]));
    }
    write_atomic(path, |file| {
        TiffEncoder::new(file)
            .and_then(|mut tiff| tiff.write_image::<Gray32Float>(width, height, map))
            .map_err(io::Error::other)
    })
}
