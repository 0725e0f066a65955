//! Images, masks and data sets on disk, good and bad.

mod bad_images;
mod datasets;
mod files;
mod images;
mod inputs;
mod layouts;
mod lists;
mod masks;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage,
};
use invad::data::{
    Dataset, Mask, Sample, collect_inputs, load_image, load_mask, load_sample, write_map, write_png,
};
use invad::files::write_atomic;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)
}

/// Writes `bytes` to the file `name`, and its folders first.
fn put(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Files of these names, none of which is an image.
fn tree(files: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in files {
        put(&folder, file, "x");
    }
    folder
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A picture without symmetries.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 37 + y * 11) as u8, (x * x + 5 * y) as u8, (200 + x * y) as u8])
    })
}

fn png() -> Vec<u8> {
    encode(&picture(16, 12).into(), ImageFormat::Png)
}

/// The message is one line that begins with the file.
#[track_caller]
fn refused<T>(result: invad::Result<T>, path: &Path, contains: &str) {
    let message = match result {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(error) => error.to_string(),
    };
    assert!(message.starts_with(&path.display().to_string()), "{message}");
    assert!(message.contains(contains), "{message:?} does not say {contains:?}");
    assert!(!message.contains('\n'), "{message}");
}
