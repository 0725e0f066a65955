//! Images to features with the built-in backbone.

use image::{Rgb, RgbImage};
use invad::nn::efficientnet::{self, EfficientNet};
use invad::nn::features::{self, Backbone};
use invad::ops;
use invad::{DType, Device, Tensor};

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

/// What a user who has only the operations would do.
fn by_hand(images: &[RgbImage]) -> Vec<f32> {
    let (network, mut workspace) = (EfficientNet::lite0(), efficientnet::Workspace::default());
    let mut out = Vec::new();
    for image in images {
        let mut small = vec![0; 256 * 256 * 3];
        let from = [image.height() as usize, image.width() as usize];
        ops::resize_antialias(image.as_raw(), from, &mut small, [256, 256]).unwrap();
        let (mut x, mut y) = (zeros(&[1, 256, 256, 3]), poisoned(&[1, 16, 16, 192]));
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        ops::normalise(&small, mean, std, &mut x).unwrap();
        network.forward(&x, &mut y, &mut workspace).unwrap();
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
    let backbone = Backbone::lite0();
    for threads in [1, 2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut workspace = features::Workspace::default();
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
    fn shared<T: Send + Sync>(_: &T) {}
    let backbone = Backbone::lite0();
    shared(&backbone);
    assert_eq!(backbone.name(), "efficientnet-lite0");
    assert_eq!((backbone.channels(), backbone.grid(), backbone.image_size()), (192, 16, 256));
    assert_eq!(backbone.hash(), "33c8ec7b0a856c49c862c268a16373fcbed83308ae9b310e85a069f11e15543e");
}

#[test]
fn refuses_what_does_not_fit() {
    let (backbone, mut workspace) = (Backbone::lite0(), features::Workspace::default());
    let mut run = |images: &[RgbImage], y: &[usize]| {
        backbone.extract(images, &mut zeros(y), &mut workspace).map_err(|e| e.to_string())
    };
    run(&[], &[0, 16, 16, 192]).unwrap();
    let error = run(&[picture(9, 9, 0)], &[2, 16, 16, 192]).unwrap_err();
    assert!(error.contains("`features` should have shape [1, 16, 16, 192]"), "{error}");
    let error = run(&[picture(9, 9, 0), RgbImage::new(0, 5)], &[2, 16, 16, 192]).unwrap_err();
    assert!(error.contains("0×5 at 1"), "{error}");
    let network = EfficientNet::lite0();
    let mut workspace = efficientnet::Workspace::default();
    let error = network
        .forward(&zeros(&[1, 224, 256, 3]), &mut zeros(&[1, 16, 16, 192]), &mut workspace)
        .unwrap_err();
    assert!(error.to_string().contains("`images` should have shape [1, 256, 256, 3]"), "{error}");
}
