//! Anomaly maps as pictures.
//!
//! A map has one value per pixel of its picture, row by row. Values that are no number (NaN) are
//! shown in grey, and are never part of an anomalous region.

use std::sync::LazyLock;

use image::{GrayImage, Luma, Rgb, RgbImage};

use crate::data::Mask;
use crate::error::{Error, Result};

const NOT_A_NUMBER: Rgb<u8> = Rgb([128, 128, 128]);
const DARK: Rgb<u8> = Rgb([0, 0, 0]);

/// The colour of the contour of a predicted region.
pub const PREDICTED: Rgb<u8> = Rgb([255, 196, 0]);
/// The colour of the contour of a ground-truth region.
pub const TRUTH: Rgb<u8> = Rgb([64, 255, 128]);

/// The colour for a value between 0 and 1: black, violet, red, orange, light yellow, with OKLab
/// lightness in proportion to the value, so that the order is seen by everyone and survives a
/// greyscale print. Values outside are clamped.
pub fn colour(value: f32) -> Rgb<u8> {
    static TABLE: LazyLock<[Rgb<u8>; 256]> =
        LazyLock::new(|| std::array::from_fn(|i| colour_of(i as f64 / 255.0)));
    if value.is_nan() {
        return NOT_A_NUMBER;
    }
    TABLE[(value.clamp(0.0, 1.0) * 255.0).round() as usize]
}

fn colour_of(value: f64) -> Rgb<u8> {
    // Hue in degrees and chroma at equal distances of the value; lightness is linear.
    const PATH: [(f64, f64); 6] =
        [(285.0, 0.06), (300.0, 0.16), (355.0, 0.19), (395.0, 0.19), (430.0, 0.16), (465.0, 0.10)];
    let at = value * (PATH.len() - 1) as f64;
    let i = (at as usize).min(PATH.len() - 2);
    let mix = |a: f64, b: f64| a + (b - a) * (at - i as f64);
    let lightness = 0.10 + 0.87 * value;
    let hue = mix(PATH[i].0, PATH[i + 1].0).to_radians();
    // The most chroma of the path that sRGB can show.
    let mut chroma = mix(PATH[i].1, PATH[i + 1].1);
    loop {
        let rgb = linear_srgb(lightness, chroma * hue.cos(), chroma * hue.sin());
        if chroma <= 0.0 || rgb.iter().all(|v| (-1e-4..=1.0001).contains(v)) {
            return Rgb(rgb.map(gamma));
        }
        chroma -= 0.002;
    }
}

/// OKLab (Björn Ottosson, 2020) to linear sRGB.
fn linear_srgb(lightness: f64, a: f64, b: f64) -> [f64; 3] {
    let l = (lightness + 0.3963377774 * a + 0.2158037573 * b).powi(3);
    let m = (lightness - 0.1055613458 * a - 0.0638541728 * b).powi(3);
    let s = (lightness - 0.0894841775 * a - 1.2914855480 * b).powi(3);
    [
        4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
    ]
}

/// The sRGB transfer function (IEC 61966-2-1), to 8 bits.
fn gamma(linear: f64) -> u8 {
    let v = linear.clamp(0.0, 1.0);
    let v = if v <= 0.0031308 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
    (v * 255.0).round() as u8
}

/// Where `value` lies between `low` (0) and `high` (1), clamped. NaN stays NaN; if the range is
/// empty or not finite, everything above `low` is 1.
pub(crate) fn normalised(value: f32, low: f32, high: f32) -> f32 {
    let t = (value - low) / (high - low);
    if value.is_nan() {
        f32::NAN
    } else if t.is_finite() && high > low {
        t.clamp(0.0, 1.0)
    } else {
        f32::from(u8::from(value > low))
    }
}

/// A map in colours: `low` and below is black, `high` and above light yellow (see [`colour`]).
///
/// `map`: `height` × `width`.
///
/// # Errors
/// [`Error::Shape`] if `map` has another number of values.
pub fn heat_map(map: &[f32], width: u32, height: u32, low: f32, high: f32) -> Result<RgbImage> {
    expect_size("heat_map", "map", map.len(), width, height)?;
    Ok(picture(width, height, |i| colour(normalised(map[i], low, high))))
}

/// A map in colours over its image. `opacity` is given the value's place between `low` (0) and
/// `high` (1) and says how much of the colour is seen (0: image only; 1: colour only); [`fade`] is
/// a good choice.
///
/// `map`: as many values as `image` has pixels.
///
/// # Errors
/// [`Error::Shape`] if `map` has another number of values.
pub fn overlay(
    image: &RgbImage,
    map: &[f32],
    low: f32,
    high: f32,
    opacity: impl Fn(f32) -> f32,
) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    expect_size("overlay", "map", map.len(), width, height)?;
    let pixels: Vec<_> = image.pixels().collect();
    Ok(picture(width, height, |i| {
        let t = normalised(map[i], low, high);
        // What is no number must be seen.
        let share = if t.is_nan() { 1.0 } else { opacity(t).clamp(0.0, 1.0) };
        blend(*pixels[i], colour(t), share)
    }))
}

/// An opacity for [`overlay`]: nothing at the low end of the range, half at the high end, smooth
/// in between.
pub fn fade(t: f32) -> f32 {
    0.5 * t * t * (3.0 - 2.0 * t)
}

/// `share` of `over` and the rest of `under`.
pub(super) fn blend(under: Rgb<u8>, over: Rgb<u8>, share: f32) -> Rgb<u8> {
    let mix = |u: u8, o: u8| (f32::from(u) + (f32::from(o) - f32::from(u)) * share).round() as u8;
    Rgb(std::array::from_fn(|c| mix(under[c], over[c])))
}

/// The image with an outline drawn just outside `region`, so that what is inside stays visible: 2
/// pixels in `colour` and one in black around them, of which one stands out on any background.
/// Where the region reaches the image's edge the outline is open.
///
/// `region`: `true` for every pixel inside, as the pixels of a [`Mask`].
///
/// # Errors
/// [`Error::Shape`] if `region` has not as many pixels as `image`.
pub fn contour(image: &RgbImage, region: &[bool], colour: Rgb<u8>) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    expect_size("contour", "region", region.len(), width, height)?;
    let (w, h) = (width as isize, height as isize);
    let inside = |x: isize, y: isize| {
        (0..w).contains(&x) && (0..h).contains(&y) && region[(y * w + x) as usize]
    };
    let boundary: Vec<(isize, isize)> = (0..h)
        .flat_map(|y| (0..w).map(move |x| (x, y)))
        .filter(|&(x, y)| {
            let beside = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)];
            inside(x, y) && !beside.iter().all(|&(x, y)| inside(x, y))
        })
        .collect();

    let mut drawn = image.clone();
    for (radius, ink) in [(3, DARK), (2, colour)] {
        let disc: Vec<(isize, isize)> = (-radius..=radius)
            .flat_map(|dy| (-radius..=radius).map(move |dx| (dx, dy)))
            .filter(|(dx, dy)| dx * dx + dy * dy <= radius * radius)
            .collect();
        for (x, y) in &boundary {
            for (dx, dy) in &disc {
                let (x, y) = (x + dx, y + dy);
                if (0..w).contains(&x) && (0..h).contains(&y) && !inside(x, y) {
                    drawn.put_pixel(x as u32, y as u32, ink);
                }
            }
        }
    }
    Ok(drawn)
}

/// A mask as a picture: 255 where it is anomalous, 0 elsewhere.
pub fn mask_image(mask: &Mask) -> GrayImage {
    let mut picture = GrayImage::new(mask.width() as u32, mask.height() as u32);
    for (pixel, &inside) in picture.pixels_mut().zip(mask.pixels()) {
        *pixel = Luma([if inside { 255 } else { 0 }]);
    }
    picture
}

fn picture(width: u32, height: u32, pixel: impl Fn(usize) -> Rgb<u8>) -> RgbImage {
    let mut picture = RgbImage::new(width, height);
    for (i, p) in picture.pixels_mut().enumerate() {
        *p = pixel(i);
    }
    picture
}

pub(super) fn expect_size(
    op: &'static str,
    arg: &'static str,
    values: usize,
    width: u32,
    height: u32,
) -> Result<()> {
    if values as u64 == u64::from(width) * u64::from(height) {
        return Ok(());
    }
    Err(Error::shape(op, arg, format!("({height}, {width})"), &[values]))
}
