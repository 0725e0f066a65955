//! A backbone of one's own: the lowest frequencies of each patch of an image.
//!
//! It is registered by name, a detector is trained with it on the bundled photographs, and good and defective ones are
//! scored. On a GPU the same operations compute it.

mod common;

use std::f32::consts::PI;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::own::{Options, try_out};
use invad::backbones::{self, Backbone, BackboneSpec, Extractor, Packed};
use invad::device::{Allocate, Purpose};
use invad::ops::{self, Activation, PackedWeight, PatchOrder};
use invad::tensor::{TensorView, TensorViewMut};
use invad::{Device, FitOptions, Precision, Result, Tensor};

/// Side of a patch.
const PATCH: usize = 16;
/// Frequencies of each colour.
const FREQUENCIES: usize = 16;

/// The discrete cosine transform of each patch, of each colour the lowest frequencies.
#[derive(Debug)]
struct Cosines(BackboneSpec);

/// Its basis on a device, a row for each channel of the features.
#[derive(Debug)]
struct Basis {
    spec: BackboneSpec,
    weight: PackedWeight,
    precision: Precision,
}

/// A batch: normalised pixels, and the same patch by patch.
struct Transform {
    basis: Arc<Basis>,
    pixels: Tensor,
    patches: Tensor,
}

impl Backbone for Cosines {
    fn spec(&self) -> &BackboneSpec {
        &self.0
    }

    fn pack(&self, device: Device, precision: Precision) -> Result<Arc<dyn Packed>> {
        precision.require("cosines", device)?;
        let mut all: Vec<_> = (0..PATCH * PATCH).map(|i| [i / PATCH, i % PATCH]).collect();
        all.sort_by_key(|[v, u]| (v + u, *v));
        let wave = |at: usize, frequency: usize| {
            let norm = if frequency == 0 { 1.0f32 } else { 2.0 } / PATCH as f32;
            norm.sqrt() * (PI / PATCH as f32 * (at as f32 + 0.5) * frequency as f32).cos()
        };
        let mut rows = Vec::new();
        for channel in 0..self.0.channels {
            let ([v, u], colour) = (all[channel / 3], channel % 3);
            for i in 0..PATCH * PATCH * 3 {
                let [y, x, c] = [i / 3 / PATCH, i / 3 % PATCH, i % 3];
                rows.push(if c == colour { wave(y, v) * wave(x, u) } else { 0.0 });
            }
        }
        let shape = [self.0.channels, PATCH * PATCH * 3];
        let weight = PackedWeight::on(device, TensorView::from_slice(&rows, &shape)?)?;
        Ok(Arc::new(Basis { spec: self.0.clone(), weight, precision }))
    }
}

impl Packed for Basis {
    fn extractor(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Extractor>> {
        let (grid, dtype) = (self.spec.grid, self.precision.dtype());
        let pixels = a.zeros(Purpose::Activations, &self.spec.rgb(batch), dtype)?;
        let shape = [batch, grid * grid, PATCH * PATCH * 3];
        let patches = a.zeros(Purpose::Activations, &shape, dtype)?;
        Ok(Box::new(Transform { basis: self, pixels, patches }))
    }
}

impl Extractor for Transform {
    fn extract(&mut self, rgb: TensorView<'_>, features: TensorViewMut<'_>) -> Result<()> {
        let Self { basis, pixels, patches } = self;
        ops::normalise(rgb, basis.spec.mean, basis.spec.std, &mut *pixels)?;
        ops::patchify(&*pixels, &mut *patches, PATCH, PatchOrder::ChannelsLast)?;
        ops::linear(&*patches, &basis.weight, None, Activation::None, None, features)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| {
        let spec = BackboneSpec::new("cosines", "1", 256, 3 * FREQUENCIES, 256 / PATCH);
        backbones::register(Arc::new(Cosines(spec)))?;
        try_out(&options, FitOptions::default().backbone("cosines".into()))?;
        Ok(ExitCode::SUCCESS)
    })
}
