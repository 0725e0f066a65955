//! Images of all formats.

use super::*;
use crate::support::png::chunk;

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
    let control = |order: u32| {
        let mut data: Vec<u8> =
            [order, 16, 12, 0, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
        data.extend([0, 1, 0, 10, 0, 0]);
        data
    };
    let mut apng = png(&first)[..8].to_vec();
    for (kind, data) in chunks(&png(&first)) {
        if kind == b"IDAT" && !apng.windows(4).any(|w| w == b"acTL") {
            apng.extend(chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]));
            apng.extend(chunk(b"fcTL", &control(0)));
        }
        if kind == b"IEND" {
            apng.extend(chunk(b"fcTL", &control(1)));
            let second = chunks(&png(&second));
            let data = second.iter().filter(|(kind, _)| kind == b"IDAT");
            for (order, (_, data)) in (2u32..).zip(data) {
                let data = [&order.to_be_bytes()[..], data].concat();
                apng.extend(chunk(b"fdAT", &data));
            }
        }
        apng.extend(chunk(&kind, &data));
    }
    assert_eq!(load(apng), first);

    // A WebP file's only chunk is the picture; an animation wraps several.
    let riff = |kind: &[u8], data: &[u8]| {
        let padding = vec![0; data.len() % 2];
        [kind, &(data.len() as u32).to_le_bytes(), data, &padding].concat()
    };
    let frame = |picture: &RgbImage| {
        let webp = encode(&picture.clone().into(), ImageFormat::WebP);
        // Place 0, 0; size less 1; 100 ms; no blending.
        let head = [0, 0, 0, 0, 0, 0, 15, 0, 0, 11, 0, 0, 100, 0, 0, 2];
        riff(b"ANMF", &[&head[..], &webp[12..]].concat())
    };
    let parts = [
        b"WEBP".to_vec(),
        riff(b"VP8X", &[2, 0, 0, 0, 15, 0, 0, 11, 0, 0]),
        riff(b"ANIM", &[0; 6]),
        frame(&first),
        frame(&second),
    ];
    let webp = riff(b"RIFF", &parts.concat());
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

/// All levels of 16 bits, and rows of an odd length.
#[test]
fn grey_is_as_the_image_crate_converts_it() {
    let level = |x: u32, y: u32| (257 * y + x) as u16;
    let of_16: [DynamicImage; 2] = [
        ImageBuffer::from_fn(257, 256, |x, y| Luma([level(x, y)])).into(),
        ImageBuffer::from_fn(257, 256, |x, y| LumaA([level(x, y), 7 * x as u16])).into(),
    ];
    let of_8: [DynamicImage; 2] = [
        ImageBuffer::from_fn(257, 3, |x, y| Luma([(x + 85 * y) as u8])).into(),
        ImageBuffer::from_fn(257, 3, |x, y| LumaA([(x + 85 * y) as u8, x as u8])).into(),
    ];
    for image in of_16.into_iter().chain(of_8) {
        let colours = image.color();
        assert!(load(encode(&image, ImageFormat::Png)) == image.into_rgb8(), "{colours:?}");
    }
}

/// Of more than 8 MiB, as a photograph has.
#[test]
fn large_images() {
    let want = picture(1999, 1501);
    assert!(load(encode(&want.clone().into(), ImageFormat::Bmp)) == want);
    let want = GrayImage::from_fn(3001, 2803, |x, y| Luma([(x * 31 + y * y) as u8]));
    let got = load(encode(&want.clone().into(), ImageFormat::Bmp));
    assert!(got == DynamicImage::from(want).into_rgb8());
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
