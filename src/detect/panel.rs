//! Results side by side on one page.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::overlay::{self, PREDICTED, TRUTH, blend, expect_size};
use crate::data::Mask;
use crate::error::{Error, Result};

/// What one row of the page shows: an image, its map, and what was predicted and what is true.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The category of the image.
    pub category: &'a str,
    /// The kind of defect; `None` if the image is good.
    pub defect: Option<&'a str>,
    /// The image's score.
    pub score: f64,
    /// The image counts as anomalous if its score is above.
    pub score_threshold: f64,
    /// The image.
    pub image: &'a RgbImage,
    /// Its anomaly map, one value per pixel.
    pub map: &'a [f32],
    /// The map values shown as the darkest and the lightest colour.
    pub range: (f32, f32),
    /// Which of its pixels are anomalous ([`Scored::region`](super::Scored::region)).
    pub predicted: &'a Mask,
    /// The mask of the defect, of the image's size, if there is one.
    pub truth: Option<&'a Mask>,
}

const MARGIN: u32 = 32;
const GAP: u32 = 12;
const CAPTION: u32 = 168;
/// Images are scaled to fit a square of this side.
const PANE: u32 = 256;
const LINE: u32 = 22;
const CAPTION_LINES: u32 = 5;
const TITLES: [&str; 4] = ["Image", "Anomaly map", "Predicted", "Ground truth"];

const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([32, 33, 36]);
const FAINT: Rgb<u8> = Rgb([110, 114, 120]);
const EMPTY: Rgb<u8> = Rgb([243, 244, 246]);
const ALARM: Rgb<u8> = Rgb([197, 34, 31]);
const PASS: Rgb<u8> = Rgb([24, 128, 56]);

/// A page with one row for each of `rows`: a caption, the image, its heat map laid over it, the
/// contour of the predicted region and that of the true one.
///
/// # Errors
/// [`Error::Shape`] if a map or a mask is not of its image's size; [`Error::Argument`] if there are
/// no rows or an image has no pixels.
pub fn panel(rows: &[Row<'_>]) -> Result<RgbImage> {
    if rows.is_empty() {
        return Err(Error::argument("panel", "rows", "at least one row", "none"));
    }
    let columns = TITLES.len() as u32;
    let panes = rows.iter().map(panes).collect::<Result<Vec<_>>>()?;
    let heights: Vec<u32> = panes.iter().map(|p| p[0].height().max(CAPTION_LINES * LINE)).collect();
    let left = |column: u32| MARGIN + CAPTION + column * (PANE + GAP);
    let width = left(columns) - GAP + MARGIN;
    let height =
        2 * MARGIN + LINE + GAP + heights.iter().sum::<u32>() + GAP * (rows.len() as u32 - 1);
    let mut page = RgbImage::from_pixel(width, height, PAPER);

    for (column, title) in (0..).zip(TITLES) {
        write_centred(&mut page, title, left(column), MARGIN, FontWeight::Bold, INK);
    }
    let mut top = MARGIN + LINE + GAP;
    for ((row, panes), row_height) in rows.iter().zip(&panes).zip(heights) {
        write_caption(&mut page, row, MARGIN, top + (row_height - CAPTION_LINES * LINE) / 2);
        for (column, pane) in (0..).zip(panes) {
            let x = left(column) + (PANE - pane.width()) / 2;
            let y = top + (row_height - pane.height()) / 2;
            imageops::replace(&mut page, pane, i64::from(x), i64::from(y));
        }
        if row.defect.is_some() && row.truth.is_none() {
            let y = top + (row_height - LINE) / 2;
            write_centred(&mut page, "no mask", left(3), y, FontWeight::Regular, FAINT);
        }
        top += row_height + GAP;
    }
    Ok(page)
}

/// The four pictures of a row, all of the same size.
fn panes(row: &Row<'_>) -> Result<[RgbImage; 4]> {
    let (width, height) = row.image.dimensions();
    if width == 0 || height == 0 {
        let got = format!("{width}×{height}");
        return Err(Error::argument("panel", "image", "an image with pixels", got));
    }
    expect_size("panel", "map", row.map.len(), width, height)?;
    // Contours are drawn after scaling, so that they are of the same width on all images.
    let scale = f64::from(PANE) / f64::from(width.max(height));
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).clamp(1, PANE);
    let (w, h) = (scaled(width), scaled(height));

    let image = imageops::resize(row.image, w, h, FilterType::Triangle);
    let (low, high) = row.range;
    let heat = overlay::overlay(row.image, row.map, low, high, overlay::fade)?;
    let heat = imageops::resize(&heat, w, h, FilterType::Triangle);
    let outlined = |name, mask: &Mask, colour| {
        if (mask.width(), mask.height()) != (width as usize, height as usize) {
            let got = [mask.height(), mask.width()];
            return Err(Error::shape("panel", name, format!("({height}, {width})"), &got));
        }
        overlay::contour(&image, mask.resize(w as usize, h as usize).pixels(), colour)
    };
    let predicted = outlined("predicted", row.predicted, PREDICTED)?;
    let truth = match row.truth {
        Some(mask) => outlined("truth", mask, TRUTH)?,
        None if row.defect.is_some() => RgbImage::from_pixel(w, h, EMPTY),
        None => image.clone(),
    };
    Ok([image, heat, predicted, truth])
}

fn write_caption(page: &mut RgbImage, row: &Row<'_>, x: u32, y: u32) {
    let (verdict, ink) =
        if row.score > row.score_threshold { ("anomalous", ALARM) } else { ("normal", PASS) };
    let lines = [
        (row.category, FontWeight::Bold, INK),
        (row.defect.unwrap_or("good"), FontWeight::Regular, INK),
        (&format!("score {:.2}", row.score), FontWeight::Regular, FAINT),
        (&format!("threshold {:.2}", row.score_threshold), FontWeight::Regular, FAINT),
        (verdict, FontWeight::Bold, ink),
    ];
    for (line, (text, weight, ink)) in (0..).zip(lines) {
        write(page, &shortened(text, CAPTION - GAP, weight), x, y + line * LINE, weight, ink);
    }
}

/// `text`, cut with an ellipsis if it is wider than `width` pixels.
fn shortened(text: &str, width: u32, weight: FontWeight) -> String {
    let fits = width as usize / get_raster_width(weight, SIZE);
    if text.chars().count() <= fits {
        return text.into();
    }
    text.chars().take(fits.saturating_sub(3)).chain("...".chars()).collect()
}

const SIZE: RasterHeight = RasterHeight::Size16;

/// `text` above the middle of the pane whose left edge is `x`.
fn write_centred(
    page: &mut RgbImage,
    text: &str,
    x: u32,
    y: u32,
    weight: FontWeight,
    ink: Rgb<u8>,
) {
    let width = (text.chars().count() * get_raster_width(weight, SIZE)) as u32;
    write(page, text, x + PANE.saturating_sub(width) / 2, y, weight, ink);
}

/// Writes a line of text; `x` and `y` are its upper left corner. Characters that the font lacks
/// become `?`.
fn write(page: &mut RgbImage, text: &str, x: u32, y: u32, weight: FontWeight, ink: Rgb<u8>) {
    let mut left = x;
    for c in text.chars() {
        let Some(glyph) = get_raster(c, weight, SIZE).or_else(|| get_raster('?', weight, SIZE))
        else {
            continue;
        };
        for (row, pixels) in (y..).zip(glyph.rows()) {
            for (column, &coverage) in (left..).zip(pixels) {
                if let Some(pixel) = page.get_pixel_mut_checked(column, row) {
                    *pixel = blend(*pixel, ink, f32::from(coverage) / 255.0);
                }
            }
        }
        left += glyph.width() as u32;
    }
}
