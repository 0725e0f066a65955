//! Images to features with the built-in backbone.

use image::{Rgb, RgbImage};
use invad::backbones::{
    self, Backbone, BackboneSpec, EfficientNet, Extractor, Loaded, Packed, Workspace,
};
use invad::device::Allocate;
use invad::ops;
use invad::tensor::{TensorView, TensorViewMut};
use invad::weights::Weights;
use invad::{DType, Device, Error, Precision, Result, Tensor};
use std::path::Path;
use std::sync::Arc;

use crate::support::networks::{any_efficientnet_weights, lite0};
use crate::support::numbers::poisoned;

fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let v = |c: u32| ((x * (5 + seed) + y * 3 + x * y / 50 + 60 * c + 17 * seed) % 256) as u8;
        Rgb([v(0), v(1), v(2)])
    })
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, Device::Cpu).unwrap()
}

/// An extractor of batches of some images on the CPU.
fn extractor(batch: usize) -> Box<dyn Extractor> {
    let lite0 = backbones::named("efficientnet-lite0").unwrap();
    let packed = lite0.pack(Device::Cpu, Precision::F32).unwrap();
    packed.extractor(batch, &mut Device::Cpu).unwrap()
}

/// Image by image.
fn by_hand(images: &[RgbImage]) -> Vec<f32> {
    let mut extractor = extractor(1);
    let mut out = Vec::new();
    for image in images {
        let mut small = vec![0; 256 * 256 * 3];
        let from = [image.height() as usize, image.width() as usize];
        ops::resize_antialias(image.as_raw(), from, &mut small, [256, 256]).unwrap();
        let mut y = poisoned(&[1, 16, 16, 192]);
        let rgb = TensorView::from_bytes(&small, &[1, 256, 256, 3]).unwrap();
        extractor.extract(rgb, y.view_mut()).unwrap();
        out.extend(y.to_vec_f32());
    }
    out
}

#[test]
fn the_same_bits_for_any_batch_and_number_of_threads() {
    let images: Vec<RgbImage> = [(300, 200), (256, 256), (64, 512), (1, 3), (257, 256)]
        .map(|(w, h)| picture(w, h, w))
        .into();
    let want = by_hand(&images);
    assert!(want.iter().all(|v| v.is_finite()) && want.iter().any(|v| v.abs() > 1.0));
    let backbone = lite0(Device::Cpu);
    for threads in [1, 2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut workspace = Workspace::default();
        pool.install(|| {
            for _ in 0..2 {
                let mut y = poisoned(&[images.len(), 16, 16, 192]);
                backbone.extract(&images, &mut y, &mut workspace).unwrap();
                assert!(y.to_vec_f32() == want, "{threads} threads");
            }
            let mut y = poisoned(&[1, 16, 16, 192]);
            backbone.extract(&images[2..3], &mut y, &mut workspace).unwrap();
            assert!(
                y.to_vec_f32() == want[2 * y.len()..3 * y.len()],
                "{threads} threads, one image"
            );
        });
    }
}

#[test]
fn says_what_it_is() {
    fn shared<T: Clone + Send + Sync>(_: &T) {}
    let backbone = lite0(Device::Cpu);
    shared(&backbone);
    let spec = backbone.spec();
    assert_eq!(spec.name, "efficientnet-lite0");
    assert_eq!((spec.channels, spec.grid, spec.image_size), (192, 16, 256));
    assert_eq!(spec.hash, "33c8ec7b0a856c49c862c268a16373fcbed83308ae9b310e85a069f11e15543e");
    assert!(backbones::names().contains(&spec.name));
}

#[test]
fn refuses_what_does_not_fit() {
    let (backbone, mut workspace) = (lite0(Device::Cpu), Workspace::default());
    let mut run = |images: &[RgbImage], y: &[usize]| {
        backbone.extract(images, &mut zeros(y), &mut workspace).map_err(|e| e.to_string())
    };
    run(&[], &[0, 16, 16, 192]).unwrap();
    let error = run(&[picture(9, 9, 0)], &[2, 16, 16, 192]).unwrap_err();
    assert!(error.contains("`features` should have shape [1, 16, 16, 192]"), "{error}");
    let error = run(&[picture(9, 9, 0), RgbImage::new(0, 5)], &[2, 16, 16, 192]).unwrap_err();
    assert!(error.contains("0×5 at 1"), "{error}");
    let rgb = vec![0; 224 * 256 * 3];
    let rgb = TensorView::from_bytes(&rgb, &[1, 224, 256, 3]).unwrap();
    let error = extractor(1).extract(rgb, zeros(&[1, 16, 16, 192]).view_mut()).unwrap_err();
    assert!(error.to_string().contains("`rgb` should have shape [1, 256, 256, 3]"), "{error}");
    let error = backbones::named("resnet").unwrap_err().to_string();
    assert!(error.contains("efficientnet-lite0") && error.contains("resnet"), "{error}");
    let lite0 = backbones::named("efficientnet-lite0").unwrap();
    assert!(matches!(lite0.pack(Device::Cpu, Precision::F16), Err(Error::Argument { .. })));
}

/// The mean colour of each quarter of an image, and how many images there were at once.
#[derive(Debug)]
struct Quarters(BackboneSpec);

#[derive(Debug)]
struct PackedQuarters;

impl Backbone for Quarters {
    fn spec(&self) -> &BackboneSpec {
        &self.0
    }

    fn pack(&self, _: Device, _: Precision) -> Result<Arc<dyn Packed>> {
        Ok(Arc::new(PackedQuarters))
    }
}

impl Packed for PackedQuarters {
    fn extractor(
        self: Arc<Self>,
        batch: usize,
        _: &mut dyn Allocate,
    ) -> Result<Box<dyn Extractor>> {
        struct Quarter(usize);
        impl Extractor for Quarter {
            fn extract(
                &mut self,
                rgb: TensorView<'_>,
                mut features: TensorViewMut<'_>,
            ) -> Result<()> {
                assert_eq!((rgb.shape()[0], rgb.dtype()), (self.0, DType::U8));
                let (side, rgb) = (rgb.shape()[1], rgb.to_vec_f32());
                let half = side / 2;
                let sum = |i: usize| -> f32 {
                    let (image, cell, c) = (i / 16, i / 4 % 4, i % 4);
                    let pixel = |p: usize| {
                        let (row, column) =
                            (cell / 2 * half + p / half, cell % 2 * half + p % half);
                        rgb[((image * side + row) * side + column) * 3 + c]
                    };
                    if c == 3 { self.0 as f32 } else { (0..half * half).map(pixel).sum() }
                };
                let sums: Vec<f32> = (0..features.len()).map(sum).collect();
                features.copy_from_slice(&sums)
            }
        }
        Ok(Box::new(Quarter(batch)))
    }
}

#[test]
fn a_backbone_of_somebody_elses() {
    let of =
        |size, channels| Arc::new(Quarters(BackboneSpec::new("quarters", "0", size, channels, 2)));
    backbones::register(of(4, 4)).unwrap();
    assert!(backbones::register(of(8, 4)).unwrap_err().to_string().contains("not taken"));
    assert!(backbones::names().contains(&"quarters".into()));
    let backbone = Loaded::new(backbones::named("quarters").unwrap(), Device::Cpu).unwrap();
    let images = vec![picture(4, 4, 1); 70];
    let mut y = poisoned(&[70, 2, 2, 4]);
    let mut space = Workspace::default();
    // Memory of another backbone is of no use.
    lite0(Device::Cpu).extract(&images[..1], &mut zeros(&[1, 16, 16, 192]), &mut space).unwrap();
    backbone.extract(&images, &mut y, &mut space).unwrap();
    for (i, cells) in y.to_vec_f32().chunks(16).enumerate() {
        assert_eq!(cells[3], if i < 64 { 64.0 } else { 6.0 });
        let image = &images[i];
        let sum: f32 =
            [(2, 0), (3, 0), (2, 1), (3, 1)].map(|(x, y)| image[(x, y)][1].into()).iter().sum();
        assert_eq!(cells[4 + 1], sum);
    }
    // Of a single cell nothing stands out.
    let one = Arc::new(Quarters(BackboneSpec::new("one", "0", 4, 4, 1)));
    for spec in [of(0, 4), of(4, 0), of(1 << 20, 4), one] {
        assert!(matches!(Loaded::new(spec, Device::Cpu), Err(Error::Argument { .. })));
    }
}

fn lite0_of(path: &Path) -> Result<Arc<dyn Backbone>> {
    EfficientNet::named("efficientnet-lite0")?.with_weights("ours", Weights::open(path)?)
}

/// Weights of a file are those of the crate, under a name of their own.
#[test]
fn weights_of_a_file() {
    const ASSET: &[u8] = include_bytes!("../../assets/efficientnet-lite0.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lite0.safetensors");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        lite0_of(&path)
    };
    let ours = open(ASSET).unwrap();
    let own = lite0(Device::Cpu);
    assert_eq!((&ours.spec().name[..], &ours.spec().hash), ("ours", &own.spec().hash));
    backbones::register(ours).unwrap();
    let ours = Loaded::new(backbones::named("ours").unwrap(), Device::Cpu).unwrap();
    let features = |backbone: &Loaded| {
        let mut y = poisoned(&backbone.spec().features().of(1));
        backbone.extract(&[picture(300, 200, 1)], &mut y, &mut Workspace::default()).unwrap();
        y.to_vec_f32()
    };
    assert!(features(&ours) == features(&own));

    let refused = |bytes: &[u8], reason: &str| {
        let refused = open(bytes).unwrap_err();
        assert!(matches!(refused, Error::File { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("lite0.safetensors") && text.contains(reason), "{text}");
    };
    refused(&ASSET[..ASSET.len() - 4], "");
    refused(b"weights", "");
    let find = |name: &[u8]| ASSET.windows(name.len()).position(|at| at == name).unwrap();
    let mut renamed = ASSET.to_vec();
    renamed[find(b"_conv_stem.weight")] = b'-';
    refused(&renamed, "missing: `_conv_stem.weight`; not asked for: `-conv_stem.weight`");
    let mut nan = ASSET.to_vec();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let refused = open(&nan).unwrap().pack(Device::Cpu, Precision::F32).unwrap_err();
    assert!(refused.to_string().contains("holds NaN"), "{refused}");
    std::fs::remove_file(&path).unwrap();
    let refused = lite0_of(&path).unwrap_err();
    assert!(matches!(refused, Error::Io { .. }), "{refused}");
}

/// Each network of the family, and what is refused of it.
#[test]
fn efficientnets() {
    for (name, channels) in [
        ("efficientnet-lite0", 192),
        ("efficientnet-lite1", 192),
        ("efficientnet-lite2", 208),
        ("efficientnet-b4", 272),
        ("efficientnet-b4-reference", 272),
        ("efficientnet-b4-symmetric", 272),
    ] {
        let network = EfficientNet::named(name).unwrap();
        let weights = any_efficientnet_weights(&network);
        let spec = network.clone().with_weights(name, weights).unwrap().spec().clone();
        assert_eq!((spec.channels, spec.image_size, spec.grid), (channels, 256, 16), "{name}");
        let taps: Vec<usize> = vec![0, 3];
        let small = network.image_size(48).taps(taps);
        let weights = any_efficientnet_weights(&small);
        let spec = small.with_weights(name, weights).unwrap().spec().clone();
        assert_eq!((spec.image_size, spec.grid), (48, 3), "{name}");
    }
    let unknown = EfficientNet::named("efficientnet-b9").unwrap_err().to_string();
    assert!(unknown.contains("efficientnet-b4,") && unknown.contains("b9"), "{unknown}");
    let b4 = || EfficientNet::named("efficientnet-b4").unwrap();
    let refused = |network: EfficientNet, arg| {
        let refused = network.with_weights("b4", any_efficientnet_weights(&b4())).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, Error::Argument { .. }) && text.contains(arg), "{text}");
    };
    refused(b4().image_size(250), "`image_size`");
    refused(b4().image_size(0), "`image_size`");
    refused(b4().taps([]), "`taps`");
    refused(b4().taps([3, 3]), "`taps`");
    refused(b4().taps([1, 32]), "`taps`");
    let short = any_efficientnet_weights(&b4().taps([9]));
    let refused = b4().with_weights("b4", short).unwrap_err().to_string();
    assert!(refused.contains("missing: `_blocks.10."), "{refused}");
}

/// timm's names for the same weights, and the features of the blocks one by one.
#[test]
fn names_of_timm_and_single_blocks() {
    // Of _blocks.0 and _blocks.1, whose stage expands nothing, and _blocks.2, the first of the next.
    let timm = |name: &str| {
        let (stage, rest) = match name.split_once('.')? {
            ("_conv_stem", rest) => return Some(format!("conv_stem.{rest}")),
            ("_bn0", rest) => return Some(format!("bn1.{rest}")),
            (_, rest) => rest.split_once('.')?,
        };
        let (place, shift) = match stage {
            "0" => ("0.0", 0),
            "1" => ("0.1", 0),
            _ => ("1.0", 1),
        };
        let (part, rest) = rest.split_once('.')?;
        let part = match part {
            "_expand_conv" => "conv_pw".into(),
            "_depthwise_conv" => "conv_dw".into(),
            "_project_conv" if shift == 0 => "conv_pw".into(),
            "_project_conv" => "conv_pwl".into(),
            "_se_reduce" => "se.conv_reduce".into(),
            "_se_expand" => "se.conv_expand".into(),
            norm => format!("bn{}", norm.strip_prefix("_bn")?.parse::<usize>().ok()? + shift),
        };
        Some(format!("blocks.{place}.{part}.{rest}"))
    };
    let network = || EfficientNet::named("efficientnet-b4").unwrap().image_size(32).taps([1, 2]);
    let weights = || any_efficientnet_weights(&network());
    let ports = network().with_weights("ports", weights()).unwrap();
    let other = network().with_weights("timm", weights().renamed(timm).unwrap()).unwrap();
    let rgb: Vec<u8> = (0..2 * 32 * 32 * 3).map(|i| (i * 89 % 251) as u8).collect();
    let rgb = TensorView::from_bytes(&rgb, &[2, 32, 32, 3]).unwrap();
    let features = |backbone: &dyn Backbone| {
        let mut y = poisoned(&backbone.spec().features().of(2));
        let packed = backbone.pack(Device::Cpu, Precision::F32).unwrap();
        packed.extractor(2, &mut Device::Cpu).unwrap().extract(rgb, y.view_mut()).unwrap();
        y.to_vec_f32()
    };
    let want = features(&*ports);
    assert!(features(&*other) == want);

    let blocks = network().blocks(&weights(), [32, 32], Device::Cpu).unwrap();
    let mut scratch = ops::InvertedResidualScratch::new(&blocks, 2, Device::Cpu).unwrap();
    let mut y = poisoned(&[2, 2, 2, 24 + 32]);
    let mut x = poisoned(&blocks[0].output(2));
    ops::inverted_residual(rgb, &blocks[0], &mut scratch, &mut x).unwrap();
    for (block, first) in blocks[1..].iter().zip([0, 24]) {
        let mut next = poisoned(&block.output(2));
        ops::inverted_residual(&x, block, &mut scratch, &mut next).unwrap();
        let mut gather = ops::Gather::new([next.shape()[1], next.shape()[2]], 2).unwrap();
        ops::gather_features(&next, &mut gather, first, &mut y).unwrap();
        x = next;
    }
    assert!(y.to_vec_f32() == want);
}
