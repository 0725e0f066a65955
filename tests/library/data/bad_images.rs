//! Files that are no image, or a damaged one, or claim too much.

use super::*;
use crate::support::numbers::Numbers;
use crate::support::png::crc;

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
    let mut random = Numbers::new(7);
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
