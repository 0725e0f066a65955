//! The trained detector beside simpler methods, on synthetic defects.

use std::collections::BTreeMap;

use super::learn::Good;
use super::synthetic::Synthetic;
use super::{Event, Observe};
use crate::backbones::{Loaded, Workspace};
use crate::baselines::{Baseline, Baselines, NearestNeighbour, Padim};
use crate::detect::ENOUGH;
use crate::detect::{Evaluated, PIXELS};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::tensor::{DType, Device, Tensor};
use crate::train::extract_features;

/// Images trained on that simpler methods are fitted to, at most.
const FITTED: usize = 256;
/// By how many points, in the mean of image AUROC and AU-PRO, a method has to be better to be told from an
/// equal one.
const MARGIN: f64 = 2.0;

/// How well the held-out images of each category are told from the same with synthetic defects
/// ([`paint_defect`](crate::data::paint_defect)), in percent: by the detector, and by simpler methods that are
/// fitted to the same images.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// How many held-out images each category has, without defects.
    pub images: BTreeMap<String, usize>,
    /// The detector.
    pub detector: Evaluated,
    /// The simpler methods.
    pub baselines: Baselines,
}

impl Comparison {
    /// Puts simpler methods on the features of `backbone`, on the host, beside a detector that is as good as
    /// `detector` says on synthetic defects.
    pub(super) fn of(
        detector: Evaluated,
        backbone: &Loaded,
        good: &[Good],
        synthetic: &[Synthetic],
        observe: &mut Observe,
    ) -> Result<Self> {
        let fitted = good.iter().map(|of| {
            let trained = of.trained();
            let step = trained.len().div_ceil(FITTED).max(1);
            trained.into_iter().step_by(step).collect::<Vec<_>>()
        });
        let fitted: Vec<_> = fitted.collect();
        let judged_on = |of: &Synthetic| of.normal.len() + of.painted.len();
        let total = fitted.iter().map(Vec::len).sum::<usize>()
            + synthetic.iter().map(judged_on).sum::<usize>();
        let mut done = 0;
        let mut step = |images: usize| {
            done += images;
            observe(Event::Comparison { done, total })
        };
        let [mut padim, mut nearest] = [(); 2].map(|()| BTreeMap::new());
        for (trained, painted) in fitted.iter().zip(synthetic) {
            let normal = extract_features(backbone, trained, |_, _| step(1))?;
            let images = painted.images();
            let shape = backbone.spec().features().of(images.len());
            let mut features = Tensor::zeros(&shape, DType::F32, Device::Cpu)?;
            backbone.extract(&images, &mut features, &mut Workspace::default())?;
            let name = &painted.category;
            padim.insert(name.clone(), judged::<Padim>(painted, &normal, &features)?);
            nearest.insert(name.clone(), judged::<NearestNeighbour>(painted, &normal, &features)?);
            step(judged_on(painted))?;
        }
        let images = synthetic.iter().map(|of| (of.category.clone(), of.normal.len())).collect();
        let [padim, nearest_neighbour] = [padim, nearest].map(Evaluated::new);
        Ok(Self { images, detector, baselines: Baselines { padim, nearest_neighbour } })
    }

    /// What the user should know: each category in which a simpler method is better than the detector, in the
    /// mean of image AUROC and AU-PRO. Fewer than 8 held-out images cannot tell.
    pub fn warnings(&self) -> Vec<String> {
        let Baselines { padim, nearest_neighbour } = &self.baselines;
        let mut warnings = Vec::new();
        let told = self.detector.categories.iter().filter(|(name, _)| self.images[*name] >= ENOUGH);
        for (name, own) in told {
            let others = [("PaDiM", padim), ("nearest neighbour", nearest_neighbour)];
            let others = others.map(|(method, of)| (method, of.categories[name]));
            let best = others.into_iter().max_by(|(_, a), (_, b)| mean(a).total_cmp(&mean(b)));
            let (method, best) = best.expect("there are two");
            if mean(&best) > mean(own) + MARGIN {
                let [[image, pro], [own_image, own_pro]] = [both(&best), both(own)];
                warnings.push(format!(
                    "category `{name}`: {method} finds synthetic defects better than the detector does, in the mean \
                     of image AUROC ({image:.1} against {own_image:.1}) and AU-PRO ({pro:.1} against {own_pro:.1}); \
                     more good images or more --steps may help; `evaluate --baselines` compares them on real defects"
                ));
            }
        }
        warnings
    }
}

/// Image AUROC and AU-PRO.
fn both(metrics: &Metrics) -> [f64; 2] {
    [metrics.image_auroc, metrics.au_pro].map(|value| value.unwrap_or(f64::NAN))
}

fn mean(metrics: &Metrics) -> f64 {
    0.5 * both(metrics).iter().sum::<f64>()
}

/// What a method that is fitted to `normal` features makes of those of a category's images.
fn judged<M: Baseline>(of: &Synthetic, normal: &Tensor, features: &Tensor) -> Result<Metrics> {
    let maps = M::fit(normal)?.maps(features)?;
    let scores: Vec<f64> = maps.iter().map(M::score).collect();
    let maps: Result<_> = maps.iter().map(|map| map.resize(PIXELS, PIXELS)).collect();
    of.metrics(&scores, maps?)
}
