//! Small defects painted into photographs of good parts.

use std::f32::consts::{PI, TAU};

use ::image::imageops::blur;
use ::image::{ImageBuffer, Luma, Rgb, Rgb32FImage, RgbImage};

use super::Mask;
use crate::error::{Error, Result};
use crate::ops::{Random, Stream};

/// Kinds of defects that [`paint_defect`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DefectKind {
    /// A piece of the image from another place.
    CutPaste,
    /// A long thin stroke, lighter or darker.
    Scar,
    /// Noise.
    Noise,
    /// A blurred spot.
    Blur,
    /// A tinted spot.
    Colour,
    /// What was there is gone: the mean colour of what surrounds it.
    MissingPart,
}

impl DefectKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::CutPaste, Self::Scar, Self::Noise, Self::Blur, Self::Colour, Self::MissingPart];
}

/// Sizes below are in parts of an image whose shorter side is this.
const SIDE: f32 = 256.0;
/// No defect's middle is nearer to an edge.
const MARGIN: f32 = 10.0;
/// How far around a place its contrast is taken.
const AROUND: f32 = 6.0;
/// Over which distance a defect fades out.
const EDGE: f32 = 1.5;
/// How far around a missing part its colour is taken.
const RING: f32 = 5.0;

/// Paints a defect into an image: a spot of 8 to 26 pixels, or a stroke of 16 to 56, if the image's shorter
/// side has 256 of them. It lies where the image has contrast, on the part rather than on a plain
/// background. The same defect for the same `seed` and `index`.
///
/// Returns the mask with it.
///
/// # Errors
/// [`Error::Argument`] if the image has no pixels.
pub fn paint_defect(
    image: &RgbImage,
    kind: DefectKind,
    seed: u64,
    index: u64,
) -> Result<(RgbImage, Mask)> {
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        let got = format!("{width}×{height}");
        return Err(Error::argument("paint_defect", "image", "one with pixels", got));
    }
    let mut draw = Draw { random: Random { seed, stream: Stream::Defects, step: index }, next: 0 };
    let unit = width.min(height) as f32 / SIDE;
    let pixels: Rgb32FImage = ImageBuffer::from_fn(width, height, |x, y| {
        Rgb(image[(x, y)].0.map(|v| f32::from(v) / 255.0))
    });
    let shape = Shape::drawn(kind, place(&pixels, unit, draw.uniform(0.0, 1.0)), unit, &mut draw);
    let paint = Paint::drawn(kind, &pixels, &shape, unit, &mut draw);
    let mut mask = Vec::with_capacity((width * height) as usize);
    let painted = RgbImage::from_fn(width, height, |x, y| {
        let cover = shape.cover(x, y);
        mask.push(cover >= 0.5);
        if cover == 0.0 {
            return image[(x, y)];
        }
        let old = pixels[(x, y)].0;
        let new = paint.over(&pixels, x, y, &mut draw);
        let mixed = |c: usize| 255.0 * (old[c] + cover * (new[c] - old[c])).clamp(0.0, 1.0);
        Rgb([0, 1, 2].map(|c| (mixed(c) + 0.5) as u8))
    });
    let mut mask = Mask::new(width as usize, height as usize, mask)?;
    // However small the image is, something of it is defective.
    if !mask.pixels().contains(&true) {
        mask = Mask::new(1, 1, vec![true])?.resize(width as usize, height as usize);
    }
    Ok((painted, mask))
}

/// Random numbers, one after the other.
struct Draw {
    random: Random,
    next: u64,
}

impl Draw {
    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        let word = self.random.below(1 << 24, self.next);
        self.next += 1;
        low + (high - low) * word as f32 / (1 << 24) as f32
    }

    fn sign(&mut self) -> f32 {
        if self.uniform(0.0, 1.0) < 0.5 { -1.0 } else { 1.0 }
    }

    /// By Box–Muller.
    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform(0.0, 1.0)).ln()).sqrt();
        radius * self.uniform(0.0, TAU).cos()
    }
}

/// The pixel below which the share `at` of all contrast lies, row by row.
fn place(pixels: &Rgb32FImage, unit: f32, at: f32) -> [f32; 2] {
    let (width, height) = pixels.dimensions();
    let low = blur(pixels, AROUND * unit);
    let squares: ImageBuffer<Luma<f32>, Vec<f32>> = ImageBuffer::from_fn(width, height, |x, y| {
        let (p, low) = (pixels[(x, y)].0, low[(x, y)].0);
        Luma([p.iter().zip(low).map(|(p, low)| (p - low).powi(2)).sum()])
    });
    let contrast = blur(&squares, AROUND * unit);
    let margin = (MARGIN * unit) as u32;
    let inside = |x: u32, size: u32| x >= margin && x + margin < size;
    let weight = |x: u32, y: u32| match inside(x, width) && inside(y, height) {
        // An image without any is painted anywhere.
        true => f64::from(contrast[(x, y)].0[0].max(0.0).sqrt() + 1e-4),
        false => 0.0,
    };
    let all = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let mut left = f64::from(at) * all().map(|(x, y)| weight(x, y)).sum::<f64>();
    let found = all().find(|&(x, y)| {
        left -= weight(x, y);
        left < 0.0
    });
    found.map_or([width as f32 / 2.0, height as f32 / 2.0], |(x, y)| [x as f32, y as f32])
}

/// An ellipse, or a stroke.
struct Shape {
    middle: [f32; 2],
    /// Cosine and sine.
    turn: [f32; 2],
    /// Half its length and width.
    half: [f32; 2],
    edge: f32,
    straight: bool,
}

impl Shape {
    fn drawn(kind: DefectKind, middle: [f32; 2], unit: f32, draw: &mut Draw) -> Self {
        let angle = draw.uniform(0.0, PI);
        let straight = kind == DefectKind::Scar;
        let half = if straight {
            [draw.uniform(8.0, 28.0), draw.uniform(0.8, 2.0)]
        } else {
            let (size, ratio) = (draw.uniform(4.0, 13.0), draw.uniform(0.6, 1.6));
            [size * ratio, size / ratio]
        };
        let half = half.map(|v| v * unit);
        Self { middle, turn: [angle.cos(), angle.sin()], half, edge: EDGE * unit, straight }
    }

    fn offset(&self, x: u32, y: u32) -> [f32; 2] {
        [x as f32 - self.middle[0], y as f32 - self.middle[1]]
    }

    /// How much of a pixel it covers: 1 inside, 0 outside, between them at the edge.
    fn cover(&self, x: u32, y: u32) -> f32 {
        let [dx, dy] = self.offset(x, y);
        let [cos, sin] = self.turn;
        let [along, across] = [dx * cos + dy * sin, dy * cos - dx * sin];
        let [a, b] = self.half;
        let within = match self.straight {
            true => (a - along.abs()).min(b - across.abs()),
            false => (1.0 - (along / a).hypot(across / b)) * a.min(b),
        };
        (within / self.edge + 0.5).clamp(0.0, 1.0)
    }
}

/// What is painted.
enum Paint {
    From { offset: [u32; 2] },
    Lighter(f32),
    Noise(f32),
    Blurred(Rgb32FImage),
    Tint([f32; 3]),
    Plain([f32; 3]),
}

impl Paint {
    fn drawn(
        kind: DefectKind,
        pixels: &Rgb32FImage,
        shape: &Shape,
        unit: f32,
        draw: &mut Draw,
    ) -> Self {
        let (width, height) = pixels.dimensions();
        match kind {
            DefectKind::CutPaste => {
                let mut from = |size: u32| (draw.uniform(0.25, 0.75) * size as f32) as u32;
                Self::From { offset: [from(width), from(height)] }
            }
            DefectKind::Scar => Self::Lighter(draw.sign() * draw.uniform(0.12, 0.35)),
            DefectKind::Noise => Self::Noise(draw.uniform(0.06, 0.2)),
            DefectKind::Blur => Self::Blurred(blur(pixels, unit * draw.uniform(2.0, 4.0))),
            DefectKind::Colour => {
                let gain = draw.sign() * draw.uniform(0.12, 0.35);
                Self::Tint([(); 3].map(|()| 1.0 + gain * draw.uniform(0.3, 1.0)))
            }
            DefectKind::MissingPart => {
                let reach = shape.half[0].max(shape.half[1]) + RING * unit;
                let mut sums = [0.0; 3];
                let mut count = 0.0;
                for (x, y, pixel) in pixels.enumerate_pixels() {
                    let [dx, dy] = shape.offset(x, y);
                    if dx.hypot(dy) < reach && shape.cover(x, y) == 0.0 {
                        sums.iter_mut().zip(pixel.0).for_each(|(sum, v)| *sum += v);
                        count += 1.0;
                    }
                }
                Self::Plain(sums.map(|sum| if count > 0.0 { sum / count } else { 0.5 }))
            }
        }
    }

    fn over(&self, pixels: &Rgb32FImage, x: u32, y: u32, draw: &mut Draw) -> [f32; 3] {
        let old = pixels[(x, y)].0;
        match self {
            Self::From { offset: [dx, dy] } => {
                pixels[((x + dx) % pixels.width(), (y + dy) % pixels.height())].0
            }
            Self::Lighter(by) => old.map(|v| v + by),
            Self::Noise(std) => old.map(|v| v + std * draw.normal()),
            Self::Blurred(blurred) => blurred[(x, y)].0,
            Self::Tint(gain) => [0, 1, 2].map(|c| old[c] * gain[c]),
            Self::Plain(colour) => *colour,
        }
    }
}
