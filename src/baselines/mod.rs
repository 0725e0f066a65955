//! Simpler methods on the features that a detector sees, to compare it with.
//!
//! | | a cell's value | an image's score |
//! |---|---|---|
//! | [`Padim`] | Mahalanobis distance to the Gaussian of its position | maximum of the map at 256 × 256, smoothed |
//! | [`NearestNeighbour`] | distance to the nearest normal patch | maximum over the cells |
//!
//! Each is fitted to all good images of one category and knows no threshold.

mod nearest_neighbour;
mod padim;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use nearest_neighbour::NearestNeighbour;
pub use padim::Padim;

use crate::data::{Category, Dataset, load_test};
use crate::detect::{Compared, Evaluated, PIXELS};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::nn::Backbone;
use crate::nn::features::Workspace;
use crate::ops::expect_shape;
use crate::tensor::{DType, Device, Tensor, TensorView};
use crate::train::extract_features;

/// Test images whose features are held at once.
const BATCH: usize = 8;

/// The metrics of the simpler methods on a data set, in percent. Without a threshold there are no
/// false alarms and no recall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// [`Padim`].
    pub padim: Evaluated,
    /// [`NearestNeighbour`].
    pub nearest_neighbour: Evaluated,
}

/// Fits the methods to the good images of each category, and compares what they say of its test
/// images with labels and masks as [`detect::evaluate`](crate::detect::evaluate) does.
///
/// `each` gets every image, those to train with first, with what is wrong with it, and ends the evaluation
/// with an error of its own.
///
/// # Errors
/// [`Error::Dataset`] if a category has no readable images to train or to test with; that of
/// `each`.
pub fn evaluate(
    dataset: &Dataset,
    mut each: impl FnMut(Result<()>) -> Result<()>,
) -> Result<Baselines> {
    let backbone = Backbone::lite0();
    let (mut padim, mut nearest_neighbour) = (BTreeMap::new(), BTreeMap::new());
    for category in dataset.categories() {
        let lacks = |what: &str| {
            let reason = format!("category `{}` has no readable {what}", category.name);
            Err(Error::dataset(dataset.root(), reason))
        };
        let features = train(&backbone, category, &mut each)?;
        if features.is_empty() {
            return lacks("good images in train/good, which baselines are fitted to");
        }
        let [of_padim, of_nearest] = test(&backbone, category, &features, &mut each)?;
        if of_padim.0.is_empty() {
            return lacks("test images");
        }
        padim.insert(category.name.clone(), of_padim.metrics()?);
        nearest_neighbour.insert(category.name.clone(), of_nearest.metrics()?);
    }
    Ok(Baselines {
        padim: Evaluated::new(padim),
        nearest_neighbour: Evaluated::new(nearest_neighbour),
    })
}

fn train(
    backbone: &Backbone,
    category: &Category,
    each: &mut impl FnMut(Result<()>) -> Result<()>,
) -> Result<Tensor> {
    let wrong = Cell::new(Ok(()));
    let ended = RefCell::new(Ok(()));
    let features = extract_features(
        backbone,
        &category.train,
        |e| wrong.set(Err(e)),
        || {
            let result = wrong.replace(Ok(()));
            let mut ended = ended.borrow_mut();
            if ended.is_ok() {
                *ended = each(result);
            }
        },
    )?;
    ended.into_inner()?;
    Ok(features)
}

/// The scores of a method, and what its maps are compared with.
#[derive(Default)]
struct Judged(Vec<f64>, Compared);

impl Judged {
    fn metrics(&self) -> Result<Metrics> {
        self.1.metrics(&self.0, None)
    }
}

/// What both methods say of the test images.
fn test(
    backbone: &Backbone,
    category: &Category,
    normal: &Tensor,
    each: &mut impl FnMut(Result<()>) -> Result<()>,
) -> Result<[Judged; 2]> {
    let padim = Padim::fit(normal)?;
    let nearest_neighbour = NearestNeighbour::fit(normal)?;
    let [mut of_padim, mut of_nearest] = [Judged::default(), Judged::default()];
    let [grid, channels] = [backbone.grid(), backbone.channels()];
    let mut space = Workspace::default();
    for tests in category.test.chunks(BATCH) {
        let mut known = Vec::new();
        let mut images = Vec::new();
        let loaded: Vec<_> = tests.par_iter().map(load_test).collect();
        for (test, loaded) in tests.iter().zip(loaded) {
            each(loaded.map(|(image, mask)| {
                images.push(image);
                known.push((test, mask));
            }))?;
        }
        let shape = [images.len(), grid, grid, channels];
        let mut features = Tensor::zeros(&shape, DType::F32, Device::Cpu)?;
        backbone.extract(&images, &mut features, &mut space)?;
        for (i, (test, mask)) in known.iter().enumerate() {
            let image =
                features.view().part(i * grid * grid * channels, &[1, grid, grid, channels])?;
            let map = padim.map(image)?;
            let smoothed = map.resize(PIXELS, PIXELS)?;
            of_padim.0.push(maximum(&smoothed));
            of_padim.1.add(test, mask.as_ref(), || Ok(smoothed))?;
            let map = nearest_neighbour.map(image)?;
            of_nearest.0.push(maximum(map.values()));
            of_nearest.1.add(test, mask.as_ref(), || map.resize(PIXELS, PIXELS))?;
        }
    }
    Ok([of_padim, of_nearest])
}

fn maximum(values: &[f32]) -> f64 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max).into()
}

/// The values of (n, G, G, C), and \[n, G, C\].
fn expect_features<'a>(op: &'static str, x: &'a TensorView<'a>) -> Result<(&'a [f32], [usize; 3])> {
    match *x.shape() {
        [n, g, h, c] if g == h && n * g * c > 0 => Ok((finite(op, x)?, [n, g, c])),
        _ => Err(Error::shape(op, "features", "(n, G, G, C), not empty", x.shape())),
    }
}

/// The values of (1, G, G, C).
fn expect_image<'a>(
    op: &'static str,
    x: &'a TensorView<'a>,
    grid: usize,
    channels: usize,
) -> Result<&'a [f32]> {
    expect_shape(op, "features", x.shape(), &[1, grid, grid, channels])?;
    finite(op, x)
}

fn finite<'a>(op: &'static str, x: &'a TensorView<'a>) -> Result<&'a [f32]> {
    let values = x.f32s(op, "features")?;
    match values.par_iter().find_any(|v| !v.is_finite()) {
        Some(bad) => Err(Error::argument(op, "features", "finite", bad)),
        None => Ok(values),
    }
}
