//! What is allocated in the loops that run for every batch, and for files that lie.

use std::fs;

use image::{GrayImage, ImageFormat, RgbImage};
use invad::backbones::Workspace;
use invad::checkpoint::{Checkpoint, TrainingState};
use invad::data::decode_image;
use invad::denoisers::{Dit, DitConfig};
use invad::diffusion::{Inverter, Parameterisation};
use invad::{Device, Trainer};
use serde_json::json;

use crate::support::files::*;
use crate::support::networks::*;
use crate::support::numbers::{Numbers, tensor};
use crate::support::png::chunk;
use crate::{LISTS, alone, assert_few, bytes};

/// A denoiser of the small preset's sizes.
const SMALL: DitConfig =
    DitConfig { channels: 192, grid: 16, width: 128, depth: 2, heads: 2, patch: 1 };

#[test]
fn inversion() {
    let _alone = alone();
    let dit = Dit::new(SMALL).unwrap();
    let velocity = Parameterisation::Velocity;
    let inverter =
        Inverter::new(&dit, &parameters(&dit, 1), velocity, 3, 100, Device::Cpu).unwrap();
    for threads in [1, 3] {
        on_threads(threads, || {
            for batch in [1, 8] {
                let mut z = tensor(1, &[batch, 16, 16, 192], 1.0);
                let mut space = inverter.workspace(batch).unwrap();
                let name = format!("inversion of {batch} on {threads} threads");
                assert_few(&name, LISTS, || {
                    z.view_mut().fill(0.5).unwrap();
                    inverter.invert(&mut z, &mut space).unwrap();
                });
            }
        });
    }
}

/// Products with fewer rows than the tiles of AMX, as those of the timesteps of a batch, are the
/// `gemm` crate's on every machine.
#[test]
fn training_step() {
    let _alone = alone();
    let [whitened, _] = recipes();
    let mut config = training(whitened, 1000);
    config.denoiser = SMALL.into();
    for threads in [1, 3] {
        on_threads(threads, || {
            let features = tensor(1, &[6, 16, 16, 192], 1.0);
            let mut trainer = Trainer::new(config.clone(), features, Device::Cpu).unwrap();
            assert_few(&format!("training step on {threads} threads"), 512 << 10, || {
                trainer.step().unwrap();
            });
        });
    }
}

#[test]
fn features() {
    let _alone = alone();
    let backbone = lite0(Device::Cpu);
    let images = [pictures(Kind::Stripes, 0..1), pictures(Kind::Dots, 0..2)].concat();
    for threads in [1, 2] {
        on_threads(threads, || {
            let mut space = Workspace::default();
            let mut x = tensor(1, &[3, 16, 16, 192], 0.0);
            assert_few(&format!("features of 3 images on {threads} threads"), LISTS, || {
                backbone.extract(&images, &mut x, &mut space).unwrap();
            });
        });
    }
}

/// No file makes its reader set aside much more memory than it has bytes, whatever it claims.
#[test]
fn files_that_claim_much() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let [detector, state] = detector_and_state();
    let mut numbers = Numbers::new(3);
    for (bytes_of, at, tensor) in
        [(&detector, "/config", "denoiser.pos_embed"), (&state, "/config/config", "parameters")]
    {
        let mut files = Vec::new();
        for len in [100_000_000, 1 << 32, 1 << 40, u64::MAX - 8, u64::MAX] {
            files.push([&len.to_le_bytes()[..], &bytes_of[8..]].concat());
        }
        for n in [1u64 << 28, 1 << 40, 1 << 62, u64::MAX] {
            files.push(with_header(bytes_of, |header| {
                header[tensor]["shape"] = json!([n]);
                header[tensor]["data_offsets"] = json!([0, n.saturating_mul(4)]);
            }));
        }
        for (width, depth, heads) in [(16384, 1024, 0), (16384, 1024, 1), (16384, 1024, 16384)] {
            let sizes = json!({"channels": 16384, "grid": 16384, "width": width, "depth": depth,
                "heads": heads, "patch": 1});
            files.push(with_setting(bytes_of, &format!("{at}/denoiser"), sizes));
        }
        for (name, value) in [("inversion_steps", u64::MAX), ("batch", u64::MAX)] {
            files.push(with_setting(bytes_of, &format!("{at}/recipe/{name}"), value.into()));
        }
        for _ in 0..500 {
            let mut mutated = bytes_of.clone();
            let place = numbers.below(mutated.len().min(6000));
            mutated[place] = b"0123456789"[numbers.below(10)];
            files.push(mutated);
        }
        let mut most = 0;
        for (i, file) in files.iter().enumerate() {
            fs::write(&path, file).unwrap();
            let (bytes, _) = bytes(|| {
                let loads = match tensor {
                    "parameters" => TrainingState::load(&path).is_ok(),
                    _ => Checkpoint::load(&path).is_ok(),
                };
                assert!(!loads || i >= 14, "file {i} is accepted");
            });
            assert!(bytes < 8 * file.len() + (8 << 20), "file {i}: {bytes} bytes");
            most = most.max(bytes);
        }
        println!("{} bytes of {tensor} and more: at most {most} allocated", bytes_of.len());
    }
}

/// An image of this format, all black, which takes little room.
fn black(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    match format {
        ImageFormat::Png => GrayImage::new(width, height).write_to(&mut bytes, format),
        _ => RgbImage::new(width, height).write_to(&mut bytes, format),
    }
    .unwrap();
    bytes.into_inner()
}

/// A PNG of 8-bit grey with these chunks between header and end.
fn png(width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 0, 0, 0, 0]);
    let (header, chunks) = (chunk(b"IHDR", &header), chunks.concat());
    [b"\x89PNG\r\n\x1a\n", &header[..], &chunks, &chunk(b"IEND", b"")].concat()
}

/// A little-endian TIFF of one strip with these tags (number, type, count, value).
fn tiff(tags: &[(u16, u16, u32, u32)]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((tags.len() as u16).to_le_bytes());
    for (number, kind, count, value) in tags {
        bytes.extend([number.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 64]);
    bytes
}

/// A BMP with run-length coding whose pixels are all left out.
fn bmp(width: i32, height: i32) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    for number in [1100, 0, 1078, 40, width, height, 1 | 8 << 16, 1, 0, 0, 0, 256, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize(1078, 0);
    bytes.extend([0, 1]);
    bytes
}

/// Small files that decode to much, or say so.
#[test]
fn images_that_claim_much() {
    let _alone = alone();
    // 98 million zeros as a stream of zlib.
    let zeros = {
        let bomb = black(65_000, 1500, ImageFormat::Png);
        let start = bomb.windows(4).position(|w| w == b"IDAT").unwrap();
        let mut stream = Vec::new();
        let mut at = start - 4;
        while &bomb[at + 4..at + 8] == b"IDAT" {
            let len = u32::from_be_bytes(bomb[at..at + 4].try_into().unwrap()) as usize;
            stream.extend_from_slice(&bomb[at + 8..at + 8 + len]);
            at += 12 + len;
        }
        stream
    };
    let idat = chunk(b"IDAT", &zeros);
    let text = |kind, start: &[u8]| chunk(kind, &[start, &zeros].concat());
    let one = chunk(b"IDAT", b"\x78\x01\x01\x02\x00\xfd\xff\x00\x00\x00\x02\x00\x01");
    let strips = |width, height, compression| {
        tiff(&[
            (256, 4, 1, width),
            (257, 4, 1, height),
            (258, 3, 1, 8),
            (259, 3, 1, compression),
            (262, 3, 1, 1),
            (273, 4, 1, 8),
            (277, 3, 1, 1),
            (278, 4, 1, height),
            (279, 4, 1, u32::MAX),
        ])
    };
    // 300 MB of RGB are the most that an image may have; reading it may take a GB more.
    let (none, most) = (1 << 20, (1 << 30) + 300_000_000);
    let mut cases: Vec<(&str, Vec<u8>, usize)> = vec![
        ("PNG, 2³² − 1 a side", png(u32::MAX, u32::MAX, std::slice::from_ref(&idat)), none),
        ("PNG, 2³¹ − 1 a side", png(i32::MAX as u32, i32::MAX as u32, &[]), none),
        ("PNG, 65535 a side", png(65_535, 65_535, std::slice::from_ref(&idat)), none),
        ("PNG, 98 million pixels of zeros", black(65_000, 1500, ImageFormat::Png), most),
        ("PNG, 98 million pixels and no data", png(65_000, 1500, &[]), most),
        ("PNG, a pixel and 98 MB", png(1, 1, std::slice::from_ref(&idat)), 16 << 20),
        ("PNG, 98 MB of text", png(1, 1, &[text(b"zTXt", b"a\0\0"), one.clone()]), 200 << 20),
        (
            "PNG, 98 MB of international text",
            png(1, 1, &[text(b"iTXt", b"a\0\x01\0\0\0"), one.clone()]),
            200 << 20,
        ),
        ("PNG, 98 MB of profile", png(1, 1, &[text(b"iCCP", b"a\0\0"), one]), 200 << 20),
        ("TIFF, 2³² − 1 a side", strips(u32::MAX, u32::MAX, 1), none),
        ("TIFF, 65535 a side, LZW", strips(65_535, 65_535, 5), none),
        ("TIFF, 98 million pixels, deflate", strips(65_000, 1500, 8), most),
        ("TIFF, 98 million pixels, raw", strips(65_000, 1500, 1), most),
        ("TIFF, 98 million pixels, PackBits", strips(65_000, 1500, 32_773), most),
        ("TIFF, 98 million pixels, JPEG", strips(65_000, 1500, 7), most),
        ("BMP, 2³¹ − 1 a side", bmp(i32::MAX, i32::MAX), none),
        ("BMP, 98 million pixels, run lengths", bmp(65_000, 1500), most),
        ("WebP, 98 million pixels", black(16_000, 6100, ImageFormat::WebP), most),
    ];
    let mut jpeg = black(16, 16, ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|m| m == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xFF);
    cases.push(("JPEG, 65535 a side", jpeg.clone(), none));
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x05, 0xDC, 0xFD, 0xE8]);
    cases.push(("JPEG, 98 million pixels, one block of data", jpeg, most));
    let mut webp = black(16, 16, ImageFormat::WebP);
    let size = webp.windows(4).position(|w| w == b"VP8L").unwrap() + 9;
    webp[size..size + 3].fill(0xFF);
    webp[size + 3] |= 0x0F;
    cases.push(("WebP, 16384 a side", webp, none));

    let (mut accepted, mut worst) = (0, 0);
    for (name, file, limit) in &cases {
        let mut outcome = String::new();
        let (bytes, _) = bytes(|| {
            outcome = match decode_image("bomb", file) {
                Ok(image) => format!("{} × {}", image.width(), image.height()),
                Err(e) => e.to_string(),
            };
        });
        println!("{name}: a file of {}, {bytes} allocated: {outcome}", file.len());
        assert!(bytes <= limit + file.len(), "{name}: {bytes} bytes");
        accepted += usize::from(!outcome.starts_with("bomb"));
        worst = worst.max(bytes);
    }
    let tried = cases.len();
    println!(
        "| images that claim much | {tried} files | {accepted} decoded, {} refused, at most {} MB \
         allocated | 0 | 0 |",
        tried - accepted,
        worst / 1_000_000
    );
}
