//! Images, masks and data sets on disk, good and bad.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage,
};
use invad::data::{
    Dataset, Mask, TestImage, collect_inputs, load_image, load_mask, load_test, write_map,
    write_png,
};
use invad::files::write_atomic;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data")
}

/// Writes `bytes` to the file `name`, and its folders first.
fn put(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
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

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

mod images {
    use super::*;

    fn load(bytes: Vec<u8>) -> RgbImage {
        let folder = TempDir::new().unwrap();
        load_image(put(&folder, "image", bytes)).unwrap()
    }

    #[test]
    fn lossless_formats_whatever_the_extension() {
        let folder = TempDir::new().unwrap();
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            for (w, h) in [(1, 1), (1, 7), (16, 12), (33, 5)] {
                let want = picture(w, h);
                let path = put(&folder, "image.jpg", encode(&want.clone().into(), format));
                assert_eq!(load_image(path).unwrap(), want, "{format:?} {w}×{h}");
            }
        }
    }

    #[test]
    fn jpeg() {
        let smooth = RgbImage::from_fn(24, 16, |x, y| Rgb([10 * x as u8, 15 * y as u8, 128]));
        let got = load(encode(&smooth.clone().into(), ImageFormat::Jpeg));
        assert_eq!(got.dimensions(), (24, 16));
        for (g, w) in got.pixels().zip(smooth.pixels()) {
            assert!((0..3).all(|c| g[c].abs_diff(w[c]) <= 24), "{g:?} {w:?}");
        }
        assert_eq!(load_image(fixture("progressive.jpg")).unwrap().dimensions(), (32, 24));
        let grey = GrayImage::from_pixel(9, 9, Luma([77]));
        let got = load(encode(&grey.into(), ImageFormat::Jpeg));
        assert!(got.pixels().all(|p| p[0] == p[1] && p[1] == p[2] && p[0].abs_diff(77) <= 1));
    }

    #[test]
    fn cmyk_as_pil_converts_it() {
        let want = [[0, 255, 255], [191, 0, 191], [122, 117, 27], [0, 0, 0]];
        for (name, tolerance) in [("cmyk.jpg", 3), ("cmyk.tif", 1)] {
            let got = load_image(fixture(name)).unwrap();
            for (at, want) in [(4, 4), (12, 4), (4, 12), (12, 12)].into_iter().zip(want) {
                let got = got.get_pixel(at.0, at.1);
                assert!(
                    (0..3).all(|c| got[c].abs_diff(want[c]) <= tolerance),
                    "{name} {at:?}: {got:?}, PIL has {want:?}"
                );
            }
        }
    }

    #[test]
    fn of_an_animation_the_first_picture_is_taken() {
        let (first, second) = (picture(16, 12), RgbImage::from_pixel(16, 12, Rgb([9, 9, 200])));
        let png = |picture: &RgbImage| encode(&picture.clone().into(), ImageFormat::Png);
        let chunks = |png: &[u8]| {
            let (mut at, mut chunks) = (8, Vec::new());
            while at < png.len() {
                let len = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
                chunks.push((png[at + 4..at + 8].to_vec(), png[at + 8..at + 8 + len].to_vec()));
                at += 12 + len;
            }
            chunks
        };
        let put = |animation: &mut Vec<u8>, kind: &[u8], data: &[u8]| {
            let body = [kind, data].concat();
            animation.extend((data.len() as u32).to_be_bytes());
            animation.extend(&body);
            animation.extend(bad_images::crc(&body).to_be_bytes());
        };
        let control = |order: u32| {
            let mut data: Vec<u8> =
                [order, 16, 12, 0, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
            data.extend([0, 1, 0, 10, 0, 0]);
            data
        };
        let mut apng = png(&first)[..8].to_vec();
        for (kind, data) in chunks(&png(&first)) {
            if kind == b"IDAT" && !apng.windows(4).any(|w| w == b"acTL") {
                put(&mut apng, b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]);
                put(&mut apng, b"fcTL", &control(0));
            }
            if kind == b"IEND" {
                put(&mut apng, b"fcTL", &control(1));
                let second = chunks(&png(&second));
                let data = second.iter().filter(|(kind, _)| kind == b"IDAT");
                for (order, (_, data)) in (2u32..).zip(data) {
                    put(&mut apng, b"fdAT", &[&order.to_be_bytes()[..], data].concat());
                }
            }
            put(&mut apng, &kind, &data);
        }
        assert_eq!(load(apng), first);

        // A WebP file's only chunk is the picture; an animation wraps several.
        let chunk = |kind: &[u8], data: &[u8]| {
            let padding = vec![0; data.len() % 2];
            [kind, &(data.len() as u32).to_le_bytes(), data, &padding].concat()
        };
        let frame = |picture: &RgbImage| {
            let webp = encode(&picture.clone().into(), ImageFormat::WebP);
            // Place 0, 0; size less 1; 100 ms; no blending.
            let head = [0, 0, 0, 0, 0, 0, 15, 0, 0, 11, 0, 0, 100, 0, 0, 2];
            chunk(b"ANMF", &[&head[..], &webp[12..]].concat())
        };
        let parts = [
            b"WEBP".to_vec(),
            chunk(b"VP8X", &[2, 0, 0, 0, 15, 0, 0, 11, 0, 0]),
            chunk(b"ANIM", &[0; 6]),
            frame(&first),
            frame(&second),
        ];
        let webp = chunk(b"RIFF", &parts.concat());
        assert_eq!(load(webp), first);
    }

    #[test]
    fn exif_orientation_is_not_applied() {
        let got = load_image(fixture("oriented.jpg")).unwrap();
        assert_eq!(got.dimensions(), (24, 8));
        assert!(got.get_pixel(2, 2)[0] > 240 && got.get_pixel(21, 2)[2] > 240);
    }

    #[test]
    fn grey_is_repeated() {
        let grey = GrayImage::from_fn(5, 3, |x, y| Luma([(x * 50 + y) as u8]));
        for (got, want) in
            load(encode(&grey.clone().into(), ImageFormat::Png)).pixels().zip(grey.pixels())
        {
            assert_eq!(got.0, [want[0]; 3]);
        }
    }

    #[test]
    fn alpha_is_dropped_and_the_colour_below_it_stays() {
        let image = RgbaImage::from_fn(4, 4, |x, y| Rgba([200, x as u8, y as u8, 80 * x as u8]));
        for format in [ImageFormat::Png, ImageFormat::Tiff, ImageFormat::WebP] {
            let got = load(encode(&image.clone().into(), format));
            for (got, want) in got.pixels().zip(image.pixels()) {
                assert_eq!(got.0, [want[0], want[1], want[2]], "{format:?}");
            }
        }
        let grey = ImageBuffer::from_pixel(2, 2, LumaA([90u8, 0]));
        let got = load(encode(&DynamicImage::ImageLumaA8(grey), ImageFormat::Png));
        assert!(got.pixels().all(|p| p.0 == [90; 3]));
    }

    #[test]
    fn sixteen_bits_are_rounded() {
        let values: [u16; 8] = [0, 128, 129, 257, 1000, 32768, 65407, 65535];
        let want = values.map(|v| (f64::from(v) / 257.0).round() as u8);
        let grey = ImageBuffer::from_fn(8, 1, |x, _| Luma([values[x as usize]]));
        let colour = ImageBuffer::from_fn(8, 1, |x, _| {
            let x = x as usize;
            Rgb([values[x], values[7 - x], 514])
        });
        for format in [ImageFormat::Png, ImageFormat::Tiff] {
            let got = load(encode(&DynamicImage::ImageLuma16(grey.clone()), format));
            for (x, p) in got.pixels().enumerate() {
                assert_eq!(p.0, [want[x]; 3], "{format:?} {x}");
            }
            let got = load(encode(&DynamicImage::ImageRgb16(colour.clone()), format));
            for (x, p) in got.pixels().enumerate() {
                assert_eq!(p.0, [want[x], want[7 - x], 2], "{format:?} {x}");
            }
        }
    }

    #[test]
    fn palettes_and_single_bits() {
        const TABLE: [[u8; 3]; 4] = [[0, 0, 0], [255, 0, 0], [0, 128, 0], [7, 8, 9]];
        for name in ["palette.png", "palette.bmp"] {
            let got = load_image(fixture(name)).unwrap();
            let want = [0, 1, 2, 3, 3, 2, 1, 0].map(|i| TABLE[i]);
            assert!(got.pixels().map(|p| p.0).eq(want), "{name}");
        }
        let bits = [1u8, 0, 1, 1, 0, 0, 0, 0, 1].repeat(2);
        let got = load_image(fixture("bits.png")).unwrap();
        assert!(got.pixels().map(|p| p.0).eq(bits.iter().map(|b| [b * 255; 3])));
    }
}

mod bad_images {
    use super::*;

    #[test]
    fn what_is_no_image() {
        let folder = TempDir::new().unwrap();
        let missing = folder.path().join("missing.png");
        refused(load_image(&missing), &missing, "No such file");
        refused(load_image(folder.path()), folder.path(), "folder");
        let empty = put(&folder, "empty.png", "");
        refused(load_image(&empty), &empty, "empty");
        for text in ["x", "hello, world: this is no image at all\n", "GIF89a trailing bytes"] {
            let path = put(&folder, "text.png", text);
            refused(load_image(&path), &path, "PNG, JPEG, BMP, TIFF and WebP are supported");
        }
        refused(load_mask(&empty), &empty, "empty");
        let huge = folder.path().join("huge.jpg");
        fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        refused(load_image(&huge), &huge, "bytes");
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_not_read() {
        let path = Path::new("/dev/zero");
        refused(load_image(path), path, "not a regular file");
    }

    #[test]
    fn truncated_anywhere() {
        let folder = TempDir::new().unwrap();
        let image = DynamicImage::from(picture(40, 30));
        let files = [
            ("png", encode(&image, ImageFormat::Png)),
            ("jpg", encode(&image, ImageFormat::Jpeg)),
            ("progressive.jpg", fs::read(fixture("progressive.jpg")).unwrap()),
            ("bmp", encode(&image, ImageFormat::Bmp)),
            ("tif", encode(&image, ImageFormat::Tiff)),
            ("webp", encode(&image, ImageFormat::WebP)),
        ];
        for (name, bytes) in files {
            let whole = load_image(put(&folder, name, &bytes)).unwrap();
            for length in 0..bytes.len() {
                let path = put(&folder, name, &bytes[..length]);
                match load_image(&path) {
                    Err(_) => refused(load_image(&path), &path, ""),
                    // The checksum of the empty chunk that ends a PNG may be missing.
                    Ok(image) => {
                        assert!(name == "png" && length + 4 >= bytes.len(), "{name}: {length}");
                        assert!(image == whole, "{name}: the first {length} bytes");
                    }
                }
            }
        }
    }

    #[test]
    fn mutated_bytes_do_not_panic() {
        let folder = TempDir::new().unwrap();
        let image = DynamicImage::from(picture(24, 17));
        let alpha = DynamicImage::from(image.to_rgba8());
        let mut files = vec![
            encode(&image, ImageFormat::Png),
            encode(&image, ImageFormat::Jpeg),
            encode(&image, ImageFormat::Bmp),
            encode(&image, ImageFormat::Tiff),
            encode(&image, ImageFormat::WebP),
            encode(&alpha, ImageFormat::WebP),
        ];
        for name in
            ["progressive.jpg", "cmyk.jpg", "palette.png", "palette.bmp", "cmyk.tif", "bits.png"]
        {
            files.push(fs::read(fixture(name)).unwrap());
        }
        let mutations: usize = std::env::var("INVAD_MUTATIONS").map_or(400, |n| n.parse().unwrap());
        let mut random = Random(7);
        let (mut accepted, mut refused) = (0, 0);
        for (file, bytes) in files.iter().enumerate() {
            for _ in 0..mutations {
                let mut bytes = bytes.clone();
                for _ in 0..=random.below(4) {
                    let at = random.below(bytes.len());
                    match random.below(6) {
                        0 => bytes[at] = 0xFF,
                        1 => bytes[at] = 0,
                        2 => bytes[at] ^= 1 << random.below(8),
                        3 => drop(bytes.remove(at)),
                        4 => bytes.insert(at, random.below(256) as u8),
                        // Headers are where it hurts.
                        _ => bytes[at.min(at % 64)] = random.below(256) as u8,
                    }
                }
                let path = put(&folder, &format!("{file}"), &bytes);
                match load_image(&path) {
                    Ok(image) => {
                        accepted += 1;
                        let mask = load_mask(&path).unwrap();
                        assert_eq!((mask.width() as u32, mask.height() as u32), image.dimensions());
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(!error.to_string().contains('\n'), "{error}");
                        assert!(load_mask(&path).is_err());
                    }
                }
            }
        }
        assert!(accepted > 0 && refused > 0, "{accepted} {refused}");
        println!(
            "| images with changed bytes | {} files | {accepted} decoded, {refused} refused | 0 | 0 |",
            accepted + refused
        );
    }

    /// CRC-32 as PNG has it.
    pub fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| {
                if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 }
            })
        })
    }

    #[test]
    fn headers_that_claim_too_much_or_nothing() {
        let folder = TempDir::new().unwrap();
        let check = |name: &str, bytes: &[u8], reason: &str| {
            let path = put(&folder, name, bytes);
            refused(load_image(&path), &path, reason);
        };
        let sizes: [(u32, u32, &str); 6] = [
            (0, 5, ""),
            (5, 0, ""),
            (65_536, 1, "too large"),
            (1, 65_536, "too large"),
            (20_000, 5_001, "too large"),
            (u32::MAX >> 1, u32::MAX >> 1, ""),
        ];
        for (w, h, reason) in sizes {
            let mut png = png();
            png[16..20].copy_from_slice(&w.to_be_bytes());
            png[20..24].copy_from_slice(&h.to_be_bytes());
            let sum = crc(&png[12..29]);
            png[29..33].copy_from_slice(&sum.to_be_bytes());
            check("lying.png", &png, reason);

            let mut bmp = encode(&picture(16, 12).into(), ImageFormat::Bmp);
            bmp[18..22].copy_from_slice(&w.to_le_bytes());
            bmp[22..26].copy_from_slice(&h.to_le_bytes());
            check("lying.bmp", &bmp, "");
        }
        let mut jpeg = encode(&picture(16, 12).into(), ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|m| m == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 9].fill(0xFF);
        check("lying.jpg", &jpeg, "65535×65535 is too large");
        jpeg[frame + 5..frame + 9].fill(0);
        check("lying.jpg", &jpeg, "");
    }
}

mod masks {
    use super::*;

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
        let mut random = Random(3);
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
}

mod datasets {
    use super::*;

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap().into()).collect()
    }

    fn tree(files: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for file in files {
            put(&folder, file, "x");
        }
        folder
    }

    #[test]
    fn the_demo() {
        let set = Dataset::open(demo(), &[]).unwrap();
        let categories = set.categories();
        assert!(categories.iter().map(|c| c.name.as_str()).eq(["brick", "cup", "gravel"]));
        assert!(set.warnings().is_empty());
        for category in categories {
            assert_eq!((category.train.len(), category.test.len()), (40, 48));
            assert!(category.train.is_sorted());
            assert!(category.test.is_sorted_by_key(|t| &t.path));
            for test in &category.test {
                let (image, mask) = load_test(test).unwrap();
                match (&test.defect, mask) {
                    (None, None) => {}
                    (Some(defect), Some(mask)) => {
                        assert!(mask.pixels().contains(&true));
                        assert_eq!(mask.width() as u32, image.width());
                        let stem = test.path.file_stem().unwrap().to_str().unwrap();
                        let end = format!("{defect}/{stem}_mask.png");
                        assert!(test.mask.as_ref().unwrap().ends_with(end));
                    }
                    other => panic!("{}: {:?}", test.path.display(), other.0),
                }
            }
        }
    }

    #[test]
    fn one_category_by_itself_or_by_name() {
        let all = Dataset::open(demo(), &[]).unwrap();
        let cup = Dataset::open(demo().join("cup"), &[]).unwrap();
        assert_eq!(cup.categories(), &all.categories()[1..2]);
        let cup = Dataset::open(demo(), &["cup".into(), "brick".into(), "cup".into()]).unwrap();
        assert_eq!(cup.categories(), &all.categories()[..2]);
        Dataset::open(demo().join("cup"), &["cup".into()]).unwrap();
        // A folder reached by a name that is none.
        let dots = Dataset::open(demo().join("cup/train/.."), &[]).unwrap();
        assert_eq!(dots.categories()[0].name, "cup");
    }

    #[test]
    fn plain_folders() {
        let folder = tree(&[
            "nuts/b.PNG",
            "nuts/a.jpeg",
            "nuts/.hidden.png",
            "nuts/notes.txt",
            "nuts/Thumbs.db",
            "nuts/good/c.tif",
            "nuts/bad/d.png",
            "nuts/__MACOSX/e.png",
            "nuts/good/._c.tif",
        ]);
        let set = Dataset::open(folder.path().join("nuts"), &[]).unwrap();
        let [nuts] = set.categories() else { panic!("{set:?}") };
        assert_eq!(nuts.name, "nuts");
        assert_eq!(names(&nuts.train), ["a.jpeg", "b.PNG", "c.tif"]);
        assert!(nuts.test.is_empty());
        fs::create_dir_all(folder.path().join("bolts/train")).unwrap();
        fs::rename(folder.path().join("nuts/good"), folder.path().join("bolts/train/good"))
            .unwrap();
        for inside in ["bolts/train/good", "bolts/train"] {
            let set = Dataset::open(folder.path().join(inside), &[]).unwrap();
            let [bolts] = set.categories() else { panic!("{set:?}") };
            assert_eq!(
                (&bolts.name[..], names(&bolts.train)),
                ("bolts", vec!["c.tif".to_string()])
            );
        }
        let wrong = folder.path().join("nuts");
        refused(
            Dataset::open(&wrong, &["bolts".into()]),
            &wrong,
            "no category `bolts`; there are: nuts",
        );
    }

    #[test]
    fn masks_are_paired_by_name() {
        let folder = tree(&[
            "a/train/good/0.png",
            "a/test/good/0.png",
            "a/ground_truth/good/0.png",
            "a/test/cut/1.png",
            "a/test/cut/2.JPG",
            "a/test/cut/3.png",
            "a/test/cut/4.part.png",
            "a/test/cut/deep/1.png",
            // Sorted by name, the masks are in another order than their images.
            "a/ground_truth/cut/1.bmp",
            "a/ground_truth/cut/2_mask.png",
            "a/ground_truth/cut/4.part_mask.png",
            "a/ground_truth/cut/deep/1_mask.png",
            "a/ground_truth/cut/9_mask.png",
            "a/ground_truth/gone/1_mask.png",
        ]);
        let set = Dataset::open(folder.path(), &[]).unwrap();
        let test = &set.categories()[0].test;
        let got: Vec<_> = test
            .iter()
            .map(|t| {
                let below = |p: &Path, of: &str| {
                    let root = folder.path().join("a").join(of);
                    p.strip_prefix(root).unwrap().to_str().unwrap().to_string()
                };
                let mask = t.mask.as_ref().map(|m| below(m, "ground_truth"));
                (below(&t.path, "test"), t.defect.clone(), mask)
            })
            .collect();
        let want = [
            ("cut/1.png", Some("cut"), Some("cut/1.bmp")),
            ("cut/2.JPG", Some("cut"), Some("cut/2_mask.png")),
            ("cut/3.png", Some("cut"), None),
            ("cut/4.part.png", Some("cut"), Some("cut/4.part_mask.png")),
            ("cut/deep/1.png", Some("cut"), Some("cut/deep/1_mask.png")),
            ("good/0.png", None, None),
        ]
        .map(|(path, defect, mask)| (path.into(), defect.map(Into::into), mask.map(Into::into)));
        assert_eq!(got, want);
        let [first, second] = set.warnings() else { panic!("{:?}", set.warnings()) };
        assert!(first.contains("9_mask.png") && second.contains("gone"), "{first} {second}");
    }

    #[test]
    fn what_is_no_data_set() {
        let folder = tree(&["file.png", "none/notes.txt", "none/sub/a.png"]);
        let at = |name: &str| folder.path().join(name);
        refused(Dataset::open(at("missing"), &[]), &at("missing"), "no such folder");
        refused(Dataset::open(at("file.png"), &[]), &at("file.png"), "this is a file");
        refused(Dataset::open(at("none"), &[]), &at("none"), "<category>/train/good");

        let folder = tree(&["a/train/good/0.png", "b/train/good/0.txt", "c/test/good/0.png"]);
        let dataset = Dataset::open(folder.path(), &[]).unwrap();
        let counts: Vec<_> =
            dataset.categories().iter().map(|c| (c.train.len(), c.test.len())).collect();
        assert_eq!(counts, [(1, 0), (0, 0), (0, 1)]);
        refused(
            Dataset::open(folder.path(), &["a".into(), "d".into()]),
            folder.path(),
            "no category `d`; there are: a, b, c",
        );
        Dataset::open(folder.path(), &["a".into()]).unwrap();
    }

    #[test]
    fn a_mask_of_another_size_is_refused() {
        let folder = TempDir::new().unwrap();
        let image = put(&folder, "image.png", encode(&picture(16, 12).into(), ImageFormat::Png));
        let mask = encode(&GrayImage::new(12, 16).into(), ImageFormat::Png);
        let mask = put(&folder, "mask.png", mask);
        let test = TestImage { path: image, defect: Some("cut".into()), mask: Some(mask.clone()) };
        refused(load_test(&test), &mask, "12×16");
        refused(load_test(&test), &mask, "16×12");
        let (_, none) = load_test(&TestImage { mask: None, ..test }).unwrap();
        assert_eq!(none, None);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_not_back() {
        let folder = tree(&["a/train/good/0.png", "elsewhere/1.png"]);
        let good = folder.path().join("a/train/good");
        std::os::unix::fs::symlink(folder.path().join("a"), good.join("back")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), good.join("other")).unwrap();
        std::os::unix::fs::symlink("nowhere", good.join("latest")).unwrap();
        let set = Dataset::open(folder.path(), &["a".into()]).unwrap();
        assert_eq!(names(&set.categories()[0].train), ["0.png", "1.png"]);
        let inputs = collect_inputs(&[good.display().to_string()]);
        assert_eq!(inputs.len(), 2);

        let dangling = good.join("2.png");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        let set = Dataset::open(folder.path(), &["a".into()]).unwrap();
        assert_eq!(names(&set.categories()[0].train), ["0.png", "2.png", "1.png"]);
        refused(load_image(&dangling), &dangling, "No such file");
    }

    #[test]
    fn folders_of_images_beside_categories_are_told() {
        let folder = tree(&["a/train/good/0.png", "more/1.png", "notes/readme.txt"]);
        let set = Dataset::open(folder.path(), &[]).unwrap();
        assert_eq!(set.categories().len(), 1);
        let [warning] = set.warnings() else { panic!("{:?}", set.warnings()) };
        assert!(warning.contains("more: ignored"), "{warning}");
        assert!(Dataset::open(folder.path(), &["a".into()]).unwrap().warnings().is_empty());
    }
}

mod inputs {
    use super::*;

    fn collect(folder: &TempDir, args: &[&str]) -> Vec<Result<String, String>> {
        let root = folder.path();
        let args: Vec<_> = args.iter().map(|a| root.join(a).display().to_string()).collect();
        let below = |p: PathBuf| p.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        collect_inputs(&args).into_iter().map(|r| r.map(below).map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn files_folders_and_patterns() {
        let folder = TempDir::new().unwrap();
        for file in [
            "b.png",
            "a.JPG",
            "sub/c.png",
            "sub/deep/d.webp",
            "x.txt",
            ".h.png",
            "p[1].png",
            "none/x.txt",
        ] {
            put(&folder, file, "x");
        }
        let all = ["a.JPG", "b.png", "p[1].png", "sub/c.png", "sub/deep/d.webp"];
        let ok = |paths: &[&str]| paths.iter().map(|p| Ok(p.to_string())).collect::<Vec<_>>();
        assert_eq!(collect(&folder, &[""]), ok(&all));
        assert_eq!(collect(&folder, &["**/*"]), ok(&all));
        assert_eq!(collect(&folder, &["*.png"]), ok(&["b.png", "p[1].png"]));
        assert_eq!(collect(&folder, &["s*"]), ok(&all[3..]));
        assert_eq!(collect(&folder, &["sub", "b.png"]), ok(&[all[3], all[4], "b.png"]));
        // Files are taken as they are.
        assert_eq!(collect(&folder, &["p[1].png", "x.txt"]), ok(&["p[1].png", "x.txt"]));

        let got = collect(&folder, &["gone.png", "b.png", "*.gif", "none", "[.png"]);
        let errors: Vec<_> = got.iter().filter_map(|r| r.as_ref().err()).collect();
        assert_eq!(got[1], Ok("b.png".into()));
        assert!(errors[0].contains("gone.png: No such file"), "{errors:?}");
        assert!(errors[1].contains("*.gif: no images"), "{errors:?}");
        assert!(errors[2].contains("none: no images"), "{errors:?}");
        assert!(errors[3].contains("[.png: not a valid pattern"), "{errors:?}");
    }
}

mod files {
    use super::*;

    fn files(folder: &TempDir) -> usize {
        folder.path().read_dir().unwrap().count()
    }

    #[test]
    fn written_whole_or_not_at_all() {
        let folder = TempDir::new().unwrap();
        let path = put(&folder, "file", "before");
        let failed = write_atomic(&path, |file| {
            use std::io::Write;
            file.write_all(b"half")?;
            Err(std::io::Error::other("the disk is full"))
        });
        refused(failed, &path, "the disk is full");
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(files(&folder), 1);

        write_atomic(&path, |file| std::io::Write::write_all(file, b"after")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(files(&folder), 1);
    }

    #[test]
    fn where_nothing_can_be_written() {
        let folder = TempDir::new().unwrap();
        let missing = folder.path().join("no/file");
        refused(write_atomic(&missing, |_| Ok(())), &missing, "No such file");
        refused(write_atomic(folder.path(), |_| Ok(())), folder.path(), "directory");
        assert_eq!(files(&folder), 0);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_the_umask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        let plain = put(&folder, "plain", "x");
        let path = folder.path().join("atomic");
        write_atomic(&path, |_| Ok(())).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn pictures_and_maps_come_back() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("picture.png");
        write_png(&path, &picture(9, 7)).unwrap();
        assert_eq!(load_image(&path).unwrap(), picture(9, 7));
        let grey = GrayImage::from_pixel(3, 2, Luma([255]));
        write_png(&path, &grey).unwrap();
        assert_eq!(image::open(&path).unwrap(), DynamicImage::from(grey));

        let path = folder.path().join("map.tiff");
        let map = [0.0, -1.5, f32::MIN_POSITIVE, 1e30, f32::INFINITY, f32::NAN];
        write_map(&path, &map, 3, 2).unwrap();
        let mut tiff = tiff::decoder::Decoder::new(fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(tiff.dimensions().unwrap(), (3, 2));
        let tiff::decoder::DecodingResult::F32(got) = tiff.read_image().unwrap() else {
            panic!("not 32-bit floats")
        };
        assert!(got.iter().map(|v| v.to_bits()).eq(map.iter().map(|v| v.to_bits())));
        let error = write_map(&path, &map, 2, 2).unwrap_err().to_string();
        assert_eq!(error, "write_map: `map` should have shape (2, 2), not empty, got [6]");
        assert_eq!(files(&folder), 2);
    }
}
