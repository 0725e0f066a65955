//! All combinations of what can be chosen.

use super::setting::{Method, Row, Score, Setting, Sweep};
use crate::denoisers;

/// What a sweep goes through: every combination is a row.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Axes {
    /// Names of backbones.
    pub backbones: Vec<String>,
    /// Presets of denoisers.
    pub denoisers: Vec<String>,
    /// Names of recipes.
    pub recipes: Vec<String>,
    /// S: evaluations of the network, and the steps of a reconstruction.
    pub evaluations: Vec<usize>,
    /// Parts of the noise from which images are reconstructed, t/999 of the timestep; none to leave it out.
    pub noise: Vec<f64>,
    /// One detector of all categories, one of each, or both.
    pub per_category: Vec<bool>,
    /// Scores of an inversion.
    pub scores: Vec<Score>,
}

setters!(Axes {
    backbones: Vec<String>,
    denoisers: Vec<String>,
    recipes: Vec<String>,
    evaluations: Vec<usize>,
    noise: Vec<f64>,
    per_category: Vec<bool>,
    scores: Vec<Score>,
});

impl Default for Axes {
    /// EfficientNet-Lite0, the small presets of all kinds, both recipes, S in 1, 2, 3, 5, 10, all scores and the
    /// reconstruction from a half and all of the noise.
    fn default() -> Self {
        let small = |name: &&str| name.starts_with("small") || *name == "medium";
        let denoisers = denoisers::presets().into_iter().filter(small);
        Self {
            backbones: vec!["efficientnet-lite0".into()],
            denoisers: denoisers.map(String::from).collect(),
            recipes: vec!["whitened".into(), "paper".into()],
            evaluations: vec![1, 2, 3, 5, 10],
            noise: vec![0.5, 1.0],
            per_category: vec![false],
            scores: Score::OF_INVERSION.into(),
        }
    }
}

impl Axes {
    /// Nothing: where a list is empty, an experiment of the paper has its own.
    pub fn unchanged() -> Self {
        Self {
            backbones: Vec::new(),
            denoisers: Vec::new(),
            recipes: Vec::new(),
            evaluations: Vec::new(),
            noise: Vec::new(),
            per_category: Vec::new(),
            scores: Vec::new(),
        }
    }

    /// The same with what a list has twice once, where it stands first.
    pub(super) fn distinct(&self) -> Self {
        Self {
            backbones: distinct(&self.backbones),
            denoisers: distinct(&self.denoisers),
            recipes: distinct(&self.recipes),
            evaluations: distinct(&self.evaluations),
            noise: distinct(&self.noise),
            per_category: distinct(&self.per_category),
            scores: distinct(&self.scores),
        }
    }

    /// The rows, each once, those of one training beside each other.
    pub fn sweep(&self) -> Sweep {
        let axes = self.distinct();
        let mut rows = Vec::new();
        for setting in axes.trained() {
            for &evaluations in &axes.evaluations {
                let inversion = Setting { evaluations, ..setting.clone() };
                rows.extend(axes.scores.iter().map(|&score| row(inversion.clone(), score)));
            }
            for &evaluations in &axes.evaluations {
                for noise_step in noise_steps(evaluations, &axes.noise) {
                    let method = Method::Reconstruction { noise_step };
                    let setting = Setting { evaluations, method, ..setting.clone() };
                    rows.push(row(setting, Score::Error));
                }
            }
        }
        Sweep {
            name: "sweep".into(),
            title: "Sweep".into(),
            about: "All combinations of what was asked for.".into(),
            columns: ["image AUROC", "pixel AUROC", "AU-PRO", "mAD", "AUPIMO", "images/s"]
                .map(String::from)
                .into(),
            rows,
            histograms: true,
        }
    }

    /// What is trained, as settings of any number of evaluations.
    pub(super) fn trained(&self) -> Vec<Setting> {
        let mut all = Vec::new();
        for backbone in &self.backbones {
            for recipe in &self.recipes {
                for denoiser in &self.denoisers {
                    for &per_category in &self.per_category {
                        all.push(Setting {
                            backbone: backbone.clone(),
                            denoiser: denoiser.clone(),
                            recipe: recipe.clone(),
                            per_category,
                            ..Setting::own()
                        });
                    }
                }
            }
        }
        all
    }
}

fn distinct<T: Clone + PartialEq>(list: &[T]) -> Vec<T> {
    let first = list.iter().enumerate().filter(|(i, of)| !list[..*i].contains(of));
    first.map(|(_, of)| of.clone()).collect()
}

fn row(setting: Setting, score: Score) -> Row {
    Row { name: String::new(), settings: vec![setting], score }
}

/// The steps of S that are nearest to these parts of the noise, each once; none of a single step, and never the first,
/// from which nothing is to be denoised.
pub(super) fn noise_steps(evaluations: usize, noise: &[f64]) -> Vec<usize> {
    let last = evaluations.saturating_sub(1);
    let nearest = |part: &f64| ((part * last as f64).round() as usize).clamp(1, last.max(1));
    let mut steps: Vec<usize> = match last {
        0 => Vec::new(),
        _ => noise.iter().map(nearest).collect(),
    };
    steps.sort_unstable();
    steps.dedup();
    steps
}
