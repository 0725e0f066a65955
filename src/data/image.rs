//! From an image file to RGB.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use ::image::error::ImageError;
use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::{Error, Result};

/// The longest side of an image that is accepted, in pixels.
const MAX_SIDE: u32 = (1 << 16) - 1;
/// The largest image that is accepted, in pixels.
const MAX_PIXELS: u64 = 100_000_000;
/// The largest file that is accepted, and what decoding it may allocate, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// Loads a PNG, JPEG, BMP, TIFF or WebP file as 8-bit RGB.
///
/// The content decides the format, not the name's extension. As PIL's
/// `Image.open(path).convert("RGB")` does it: grey levels are repeated, palettes looked up, CMYK is
/// converted, alpha dropped (the colour below it stays); EXIF orientation and colour profiles are
/// not applied; of several frames or pages the first is taken. 16-bit samples v become v/257,
/// rounded (PIL cuts 16-bit grey off at 255).
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Image`] if it is empty, truncated, damaged,
/// of another format or pixel type, has no pixels, 2¹⁶ or more on a side, or more than 100 million
/// of them (the header is checked before the pixels are decoded).
pub fn load_image(path: impl AsRef<Path>) -> Result<RgbImage> {
    Ok(into_rgb8(decode(path.as_ref())?))
}

/// Decodes the bytes of an image file as [`load_image`] does. `name` is what errors call it.
///
/// # Errors
/// As [`load_image`], but for [`Error::Io`].
pub fn decode_image(name: impl AsRef<Path>, bytes: &[u8]) -> Result<RgbImage> {
    Ok(into_rgb8(decode_bytes(bytes).map_err(|reason| Error::image(name, reason))?))
}

/// Decodes the file at `path`, whatever its pixel type.
pub(super) fn decode(path: &Path) -> Result<DynamicImage> {
    let metadata = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "not a regular file" };
        return Err(Error::image(path, format!("this is {what}; expected an image file")));
    }
    if metadata.len() > MAX_BYTES {
        return Err(Error::image(path, format!("the file has more than {MAX_BYTES} bytes")));
    }
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    decode_bytes(&bytes).map_err(|reason| Error::image(path, reason))
}

/// The reason in the error is one line.
fn decode_bytes(bytes: &[u8]) -> Result<DynamicImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes));
    if let Ok(format) = ::image::guess_format(bytes) {
        reader.set_format(format);
    }
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err("damaged: the JPEG data ends too early".into());
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(reason)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("{width}×{height}: the image has no pixels"));
    }
    let pixels = u64::from(width) * u64::from(height);
    if width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS {
        return Err(format!(
            "{width}×{height} is too large: at most {MAX_SIDE} on a side and {} million pixels",
            MAX_PIXELS / 1_000_000
        ));
    }
    if decoder.total_bytes() > MAX_BYTES {
        return Err(format!("{width}×{height} at this depth needs more than {MAX_BYTES} bytes"));
    }
    DynamicImage::from_decoder(decoder).map_err(reason)
}

/// `DynamicImage::into_rgb8`, which takes longer over grey images than decoding did.
fn into_rgb8(image: DynamicImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let byte = |v: u16| ((u32::from(v) + 128) / 257) as u8;
    match image {
        DynamicImage::ImageLuma8(m) => repeated(width, height, m.iter().copied()),
        DynamicImage::ImageLumaA8(m) => repeated(width, height, m.pixels().map(|p| p[0])),
        DynamicImage::ImageLuma16(m) => repeated(width, height, m.iter().map(|&v| byte(v))),
        DynamicImage::ImageLumaA16(m) => repeated(width, height, m.pixels().map(|p| byte(p[0]))),
        colours => colours.into_rgb8(),
    }
}

/// The image of these grey levels.
fn repeated(width: u32, height: u32, levels: impl Iterator<Item = u8>) -> RgbImage {
    let mut rgb = vec![0; 3 * width as usize * height as usize];
    for (pixel, level) in rgb.as_chunks_mut().0.iter_mut().zip(levels) {
        *pixel = [level; 3];
    }
    RgbImage::from_raw(width, height, rgb).expect("three bytes of each pixel")
}

/// Whether an end-of-image marker follows the last start-of-scan marker. Neither can occur within
/// a scan, and the decoder fills what is missing with grey.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let last = bytes
        .windows(2)
        .rev()
        .find(|pair| pair[0] == 0xFF && matches!(pair[1], START_OF_SCAN | END_OF_IMAGE));
    last.is_some_and(|pair| pair[1] == END_OF_IMAGE)
}

fn reason(error: ImageError) -> String {
    let text = match error {
        ImageError::Unsupported(e) => {
            format!("cannot be read ({e}); PNG, JPEG, BMP, TIFF and WebP are supported")
        }
        ImageError::Limits(_) => format!("decoding needs more than {MAX_BYTES} bytes"),
        e => format!("damaged: {e}"),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
