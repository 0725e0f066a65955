//! Networks of the reference implementation's files, and detectors of them.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use invad::backbones::{self, Backbone, BackboneSpec, Extractor, Packed};
use invad::checkpoint::{Checkpoint, Recipe};
use invad::denoisers::{Denoiser, Imported, Untold, import};
use invad::device::Allocate;
use invad::tensor::{TensorView, TensorViewMut};
use invad::weights::Weights;
use invad::{DType, Detector, Device, Precision, Tensor, metrics, ops};

use super::{Result, channels_last, denoiser, text};
use crate::imported::Detected;
use crate::parameters::{Config, Kind};

/// The network of a file, and its parameters. Both are the same as those by the golden rule.
pub fn imported(c: &Config, file: Vec<u8>) -> Result<(Arc<dyn Denoiser>, Tensor)> {
    let mut untold = Untold::default().grid(c.grid);
    match &c.kind {
        Kind::Dit { heads, .. } => untold.heads = *heads,
        Kind::Unet(sizes) => untold.head_size = sizes.head_size,
        Kind::Mlp => {}
    }
    let weights = Weights::of_bytes("model_ema_latest.pth", file).map_err(text)?;
    let Imported { denoiser: network, parameters, unused } =
        import(weights, &untold).map_err(text)?;
    let (want, numbers) = denoiser(c)?;
    if network.id() != want.id() {
        return Err(format!("{} was imported as {}", want.id(), network.id()));
    }
    let bits = |t: &Tensor| t.to_vec_f32().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    if bits(&parameters) != bits(&numbers) {
        return Err("other parameters were imported".into());
    }
    match unused.iter().any(|name| name == "cls_embed.weight") {
        true => Ok((network, parameters)),
        false => Err(format!("of what has no gradient {unused:?} were left out")),
    }
}

/// Features (n, G, G, C) of the images whose number is the value of their pixels.
#[derive(Debug)]
struct Stored {
    spec: BackboneSpec,
    features: Tensor,
}

/// On the CPU.
#[derive(Debug)]
struct OnHost(Vec<f32>);
struct Copies(Arc<OnHost>);

impl Backbone for Stored {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn pack(&self, _: Device, _: Precision) -> invad::Result<Arc<dyn Packed>> {
        Ok(Arc::new(OnHost(self.features.to_vec_f32())))
    }
}

impl Packed for OnHost {
    fn extractor(
        self: Arc<Self>,
        _: usize,
        _: &mut dyn Allocate,
    ) -> invad::Result<Box<dyn Extractor>> {
        Ok(Box::new(Copies(self)))
    }
}

impl Extractor for Copies {
    fn extract(
        &mut self,
        rgb: TensorView<'_>,
        mut features: TensorViewMut<'_>,
    ) -> invad::Result<()> {
        let images = rgb.shape()[0];
        let each = features.shape()[1..].iter().product::<usize>();
        let mut pixels = Tensor::zeros(rgb.shape(), DType::F32, Device::Cpu)?;
        ops::normalise(rgb, [0.0; 3], [1.0 / 255.0; 3], &mut pixels)?;
        let pixels = pixels.to_vec_f32();
        let numbers = pixels.chunks(pixels.len() / images).map(|image| image[0].round() as usize);
        let all: Vec<f32> = numbers.flat_map(|n| self.0.0[n * each..][..each].to_vec()).collect();
        features.copy_from_slice(&all)
    }
}

/// `features`: (n, C, G, G); `normal`: which of them to calibrate with.
pub fn detected(
    c: &Config,
    file: Vec<u8>,
    steps: usize,
    features: &[f32],
    normal: &[bool],
) -> Result<Detected> {
    const NAME: &str = "features of evaluate_inv";
    let (network, parameters) = imported(c, file)?;
    let spec = BackboneSpec::new(NAME, "1", 2 * c.grid, c.channels, c.grid);
    let stored = Stored { spec: spec.clone(), features: channels_last(c, features)? };
    backbones::register(Arc::new(stored)).map_err(text)?;
    let recipe = Recipe::paper().with_evaluations(steps);
    let checkpoint =
        Checkpoint::of_trained(&*network, parameters, recipe, &spec, vec!["all".into()]);
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("detector.safetensors");
    let mut detector = Detector::new(checkpoint.map_err(text)?).map_err(text)?;
    let images = |wanted: &dyn Fn(usize) -> bool| -> Vec<RgbImage> {
        let side = 2 * c.grid as u32;
        let wanted = (0..normal.len()).filter(|&i| wanted(i));
        wanted.map(|i| RgbImage::from_pixel(side, side, Rgb([i as u8; 3]))).collect()
    };
    detector.calibrate("all", &images(&|i| normal[i]), &[]).map_err(text)?;
    detector.save(&path).map_err(text)?;
    let detector = Detector::load(&path).map_err(text)?;
    let scored = detector.score(&images(&|_| true)).map_err(text)?;
    let stats = |of: fn(&invad::checkpoint::ImageStats) -> f64| -> Vec<f64> {
        scored.iter().map(|scored| of(&scored.stats)).collect()
    };
    let (abs, nll) = (stats(|s| s.abs.into()), stats(|s| s.nll));
    Ok(Detected {
        maps: scored.iter().flat_map(|scored| scored.map.values().to_vec()).collect(),
        paper: metrics::paper_scores(&abs, &nll).map_err(text)?,
        abs,
        nll,
    })
}
