//! Masks of anomalous pixels.

use super::*;
use crate::support::numbers::Numbers;

fn load(image: DynamicImage, format: ImageFormat) -> Vec<bool> {
    let folder = TempDir::new().unwrap();
    load_mask(put(&folder, "mask", encode(&image, format))).unwrap().pixels().to_vec()
}

#[test]
fn any_sample_that_is_not_zero_counts() {
    let grey = GrayImage::from_vec(4, 1, vec![0, 1, 127, 255]).unwrap();
    assert_eq!(load(grey.into(), ImageFormat::Png), [false, true, true, true]);
    let deep = ImageBuffer::<Luma<u16>, _>::from_vec(4, 1, vec![0, 1, 127, 0]).unwrap();
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let got = load(DynamicImage::ImageLuma16(deep.clone()), format);
        assert_eq!(got, [false, true, true, false]);
    }
    let rgb = RgbImage::from_vec(3, 1, vec![0, 0, 0, 0, 0, 1, 9, 9, 9]).unwrap();
    assert_eq!(load(rgb.into(), ImageFormat::Bmp), [false, true, true]);
    let rgba = RgbaImage::from_vec(3, 1, vec![0, 0, 0, 255, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(load(rgba.into(), ImageFormat::Png), [false, true, false]);
    let alpha = ImageBuffer::from_fn(2, 1, |x, _| LumaA([x as u8, 255]));
    assert_eq!(load(DynamicImage::ImageLumaA8(alpha), ImageFormat::Png), [false, true]);
    let float = ImageBuffer::from_fn(2, 1, |x, _| Rgb([x as f32 * 1e-6, 0.0, 0.0]));
    assert_eq!(load(DynamicImage::ImageRgb32F(float), ImageFormat::Tiff), [false, true]);
}

#[test]
fn palettes_and_single_bits() {
    let mask = load_mask(fixture("palette.png")).unwrap();
    let want = [false, true, true, true, true, true, true, false];
    assert_eq!((mask.width(), mask.height(), mask.pixels()), (4, 2, &want[..]));
    let bits = load_mask(fixture("bits.png")).unwrap();
    assert_eq!(bits.pixels()[..9], [true, false, true, true, false, false, false, false, true]);
}

#[test]
fn pixels_must_fit_the_size() {
    let none = Mask::new(0, 4, vec![]).unwrap();
    assert_eq!(none.resize(2, 1), Mask::new(2, 1, vec![false; 2]).unwrap());
    assert!(none.resize(2, 1).resize(3, 0).pixels().is_empty());
    let error = Mask::new(3, 2, vec![false; 5]).unwrap_err();
    assert_eq!(error.to_string(), "Mask::new: `pixels` should have shape (2, 3), got [5]");
}

#[test]
fn resize_takes_the_nearest_pixel() {
    // Powers of two divide exactly: the centre rule in integers is the oracle.
    let mut random = Numbers::new(3);
    for (w, h) in [(1, 1), (5, 3), (37, 100)] {
        let pixels = (0..w * h).map(|_| random.below(3) == 0).collect();
        let mask = Mask::new(w, h, pixels).unwrap();
        for (to_w, to_h) in [(1, 1), (4, 2), (32, 64), (128, 8)] {
            let got = mask.resize(to_w, to_h);
            assert_eq!((got.width(), got.height()), (to_w, to_h));
            for y in 0..to_h {
                for x in 0..to_w {
                    let from = ((2 * y + 1) * h / (2 * to_h), (2 * x + 1) * w / (2 * to_w));
                    let want = mask.pixels()[from.0 * w + from.1];
                    assert_eq!(got.pixels()[y * to_w + x], want, "{w}×{h} at {x},{y}");
                }
            }
        }
    }
}

#[test]
fn resize_where_pil_rounds_on_an_edge() {
    // PIL 13: arange(4) to 15 and arange(10) to 15. The exact centres of some fall on an edge.
    let cases: [(usize, [usize; 15]); 2] = [(4, PIL_4_TO_15), (10, PIL_10_TO_15)];
    for (from, want) in cases {
        for place in 0..from {
            let row = Mask::new(from, 1, (0..from).map(|x| x == place).collect()).unwrap();
            let want = want.map(|x| x == place);
            assert_eq!(row.resize(15, 1).pixels(), want, "{from}, pixel {place}");
            let column = Mask::new(1, from, row.pixels().to_vec()).unwrap();
            assert_eq!(column.resize(1, 15).pixels(), want, "{from}, pixel {place}");
        }
    }
}

const PIL_4_TO_15: [usize; 15] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3];
const PIL_10_TO_15: [usize; 15] = [0, 1, 1, 2, 2, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9];

/// `unif` of the golden data's generator, as a byte.
fn golden_bytes(seed: u64, name: &str, n: u64) -> Vec<u8> {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    });
    let start = hash ^ seed.wrapping_mul(GOLDEN);
    (1..=n)
        .map(|i| {
            let mut z = start.wrapping_add(i.wrapping_mul(GOLDEN));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 56) as u8
        })
        .collect()
}

#[test]
fn resize_equals_the_golden_masks() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/preproc_lr.safetensors");
    let bytes = fs::read(file).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (side, to) in [(100, 64), (37, 64), (90, 32)] {
        let name = format!("mask.{side}x{side}");
        let pixels = golden_bytes(701, &name, side * side).iter().map(|&v| v > 200).collect();
        let got = Mask::new(side as usize, side as usize, pixels).unwrap().resize(to, to);
        let want = golden.tensor(&format!("mask_nearest.{side}x{side}_{to}")).unwrap();
        let want: Vec<bool> = want.data().iter().map(|&v| v != 0).collect();
        assert!(want.contains(&true) && want.contains(&false));
        assert_eq!(got.pixels(), want, "{name}");
    }
}
