//! Writes what the fuzzer starts from: small whole files, in `corpus` beside this file.

use std::error::Error;
use std::fs;
use std::path::Path;

use image::{ImageFormat, RgbImage, Rgba, RgbaImage};
use invad::checkpoint::{BackboneId, ImageStats, Recipe, TrainingConfig};
use invad::denoisers::DitConfig;
use invad::{Device, Tensor, Trainer};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = |target: &str| {
        let folder = root.join("corpus").join(target);
        fs::create_dir_all(&folder).map(|()| folder)
    };
    let (detectors, states, images) =
        (corpus("detector")?, corpus("training_state")?, corpus("image")?);
    let weights = corpus("weights")?;
    for (name, recipe) in [("whitened", Recipe::whitened()), ("paper", Recipe::paper())] {
        let config = TrainingConfig {
            recipe: recipe.batch(1),
            denoiser: DitConfig { channels: 1, grid: 2, width: 2, depth: 1, heads: 1, patch: 1 }
                .into(),
            backbone: BackboneId { name: "none".into(), hash: "0".into(), image_size: 8 },
            seed: 1,
            steps: 2,
            categories: vec!["nut".into()],
        };
        let features = Tensor::from_f32(vec![0.1, 0.4, 0.2, 0.9], &[1, 2, 2, 1], Device::Cpu)?;
        let mut trainer = Trainer::new(config, features, Device::Cpu)?;
        trainer.step()?;
        trainer.state().save(states.join(name))?;
        let mut checkpoint = trainer.into_checkpoint()?;
        let stats = ImageStats { max: 4.0, abs: 3.0, block: 3.5, top5: 3.7, nll: 9.0 };
        checkpoint.calibration.categories.insert("nut".into(), vec![stats; 2]);
        checkpoint.save(detectors.join(name))?;
    }
    let picture = RgbImage::from_fn(9, 7, |x, y| image::Rgb([20 * x as u8, 30 * y as u8, 90]));
    let alpha = RgbaImage::from_fn(9, 7, |x, y| Rgba([20 * x as u8, 9, 30 * y as u8, x as u8]));
    for (name, format) in [
        ("png", ImageFormat::Png),
        ("jpg", ImageFormat::Jpeg),
        ("bmp", ImageFormat::Bmp),
        ("tif", ImageFormat::Tiff),
        ("webp", ImageFormat::WebP),
    ] {
        picture.save_with_format(images.join(name), format)?;
        if format != ImageFormat::Jpeg {
            alpha.save_with_format(images.join(format!("alpha-{name}")), format)?;
        }
    }
    for entry in root.join("../tests/images").read_dir()? {
        let entry = entry?;
        fs::copy(entry.path(), images.join(entry.file_name()))?;
    }
    for name in ["legacy.pth", "mixed.pth", "nested.pth", "old_zip.pth", "mixed.expected.safetensors"] {
        fs::copy(root.join("../tests/golden/data").join(format!("pth_{name}")), weights.join(name))?;
    }
    Ok(())
}
