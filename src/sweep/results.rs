//! What was measured, beside the paper's figures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::engine::{Measured, SweepOptions};
use super::measure::Measurement;
use super::notes::notes;
use super::paper::{Figure, published, recognise};
use super::setting::{Score, Setting, Sweep};
use super::unreadable::Unreadable;
use crate::data::Dataset;
use crate::detect::Evaluated;
use crate::metrics::Metrics;

/// The results of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// A short name, as in `table-8`.
    pub name: String,
    /// What it is called.
    pub title: String,
    /// What the reader should know.
    pub about: String,
    /// What it was measured with, by name.
    pub facts: Vec<(String, String)>,
    /// The data set of the paper whose figures stand beside the results.
    pub published_of: Option<String>,
    /// Whether they were measured on the same one, so that differences say something.
    pub comparable: bool,
    /// Columns that matter most, see [`Row::value`].
    pub columns: Vec<String>,
    /// The rows; where the sweep was stopped, those that show something.
    pub rows: Vec<Row>,
    /// Whether to draw the scores of good and defective images.
    pub histograms: bool,
    /// Measurements that are there, and how many the sweep has: fewer where it was stopped. (0, 0) where it was stopped
    /// before they were known.
    #[serde(default)]
    pub measured: (usize, usize),
    /// Images that are left out.
    #[serde(default)]
    pub unreadable: Vec<Unreadable>,
    /// What the reader should know of these results: that they are not all, what is left out, and which means are not of
    /// all categories.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A row of the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is called among the paper's figures; empty where there are none.
    pub name: String,
    /// What was measured: of several the best, and none where nothing could be.
    pub setting: Option<Setting>,
    /// By which score.
    pub score: Score,
    /// Parameters of the denoiser.
    pub parameters: Option<usize>,
    /// Images a second.
    pub images_per_second: Option<f64>,
    /// With scores that are calibrated with held-out images.
    pub calibrated: Option<Evaluated>,
    /// Under the paper's protocol.
    pub paper: Option<Evaluated>,
    /// Column → the paper's figure.
    pub published: BTreeMap<String, f64>,
    /// Category → the scores of its test images, those of good ones first, then those of defective ones.
    pub scores: BTreeMap<String, [Vec<f64>; 2]>,
}

/// A column's name, and where it is found.
type Column = (&'static str, fn(&Metrics) -> Option<f64>);

pub(super) const COLUMNS: [Column; 11] = [
    ("image AUROC", |m| m.image_auroc),
    ("image AP", |m| m.image_ap),
    ("image F1-max", |m| m.image_f1_max),
    ("pixel AUROC", |m| m.pixel_auroc),
    ("pixel AP", |m| m.pixel_ap),
    ("pixel F1-max", |m| m.pixel_f1_max),
    ("AU-PRO", |m| m.au_pro),
    ("mAD", |m| m.mad),
    ("AUPIMO", |m| m.aupimo),
    ("false alarms", |m| m.false_alarm_rate),
    ("recall", |m| m.recall),
];

/// Of all image and pixel AUROCs.
pub(super) const MEAN_AUROC: &str = "mean AUROC";
/// Images a second.
pub(super) const SPEED: &str = "images/s";

impl Row {
    /// A figure of the mean over categories under one of the protocols: `calibrated` or the paper's.
    pub fn value(&self, column: &str, calibrated: bool) -> Option<f64> {
        if column == SPEED {
            return self.images_per_second;
        }
        let evaluated = if calibrated { &self.calibrated } else { &self.paper }.as_ref()?;
        if column == MEAN_AUROC {
            let both = |m: &Metrics| [m.image_auroc, m.pixel_auroc];
            let all: Vec<f64> = evaluated.categories.values().flat_map(both).flatten().collect();
            return (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64);
        }
        let (_, value) = COLUMNS.iter().find(|(name, _)| *name == column)?;
        value(&evaluated.mean)
    }

    /// What tells it from the other rows: its name in the paper, or what it is made of.
    pub fn label(&self) -> String {
        match (&self.setting, self.name.is_empty()) {
            (Some(setting), true) => format!("{setting}, {}", self.score.name()),
            _ => self.name.clone(),
        }
    }
}

impl Results {
    /// Those of a sweep.
    pub(super) fn new(
        sweep: &Sweep,
        dataset: &Dataset,
        options: &SweepOptions,
        measured: &Measured,
    ) -> Self {
        let all: BTreeMap<_, _> =
            measured.all.iter().map(|(of, parts)| (of, Measurement::joined(parts))).collect();
        let of = recognise(dataset);
        let figures = figures(&sweep.name, of);
        let rows = sweep.rows.iter().map(|row| {
            let measured = row.settings.iter().filter_map(|setting| {
                let part = Part::of(all.get(setting)?, row.score);
                Some((setting, part))
            });
            let best = measured.max_by(|(_, a), (_, b)| a.quality().total_cmp(&b.quality()));
            let published = figures.iter().filter(|figure| figure.row == row.name);
            let (setting, part) = match best {
                Some((setting, part)) => (Some(setting.clone()), part),
                None => (None, Part::default()),
            };
            Row {
                name: row.name.clone(),
                setting,
                score: row.score,
                parameters: part.parameters,
                images_per_second: part.images_per_second,
                calibrated: part.calibrated,
                paper: part.paper,
                published: published.map(|of| (of.column.clone(), of.value)).collect(),
                scores: part.scores,
            }
        });
        // Those that were not reached say nothing.
        let whole = measured.done == measured.total;
        let rows = rows.filter(|row| whole || row.setting.is_some() || !row.published.is_empty());
        let tests = dataset.categories().iter().map(|category| category.test().len());
        let settings = sweep.settings();
        let names = |of: fn(&Setting) -> &String| {
            let mut names: Vec<&str> = Vec::new();
            for name in settings.iter().map(|setting| of(setting).as_str()) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            names.join(", ")
        };
        let categories: Vec<&str> =
            dataset.categories().iter().map(|category| category.name.as_str()).collect();
        let facts = [
            ("Data", dataset.root().display().to_string()),
            ("Categories", format!("{}: {}", categories.len(), categories.join(", "))),
            ("Backbones", names(|of| &of.backbone)),
            ("Denoisers", names(|of| &of.denoiser)),
            ("Recipes", names(|of| &of.recipe)),
            ("Test images", tests.sum::<usize>().to_string()),
            ("Computed on", options.resources.device.to_string()),
            ("Images at once", options.batch.to_string()),
            ("Optimiser steps", options.steps.map_or("the recipe's".into(), |n| n.to_string())),
            ("Seed", options.seed.to_string()),
        ];
        let published_of = figures.first().map(|figure| figure.data_set.clone());
        let mut unreadable: Vec<_> = all.values().flat_map(|of| of.unreadable.clone()).collect();
        unreadable.sort_unstable();
        unreadable.dedup();
        let mut results = Self {
            name: sweep.name.clone(),
            title: sweep.title.clone(),
            about: sweep.about.clone(),
            facts: facts.map(|(name, value)| (name.into(), value)).into(),
            comparable: published_of.is_some() && published_of.as_deref() == of,
            published_of,
            columns: sweep.columns.clone(),
            rows: rows.collect(),
            histograms: sweep.histograms,
            measured: (measured.done, measured.total),
            unreadable,
            notes: Vec::new(),
        };
        results.notes = notes(&results, &categories, &measured.missing);
        results
    }
}

/// The paper's figures for an experiment on this data set, or those on another one.
fn figures(experiment: &str, data_set: Option<&str>) -> Vec<&'static Figure> {
    // The figures show what is a row of this table.
    let experiment = if experiment.starts_with("figure") { "table-9" } else { experiment };
    let all: Vec<_> = published().iter().filter(|of| of.experiment == experiment).collect();
    let has = |name: &str| all.iter().any(|figure| figure.data_set == name);
    let other = all.first().map(|figure| figure.data_set.as_str());
    let chosen = data_set.filter(|name| has(name)).or(other);
    all.into_iter().filter(|figure| Some(figure.data_set.as_str()) == chosen).collect()
}

/// What a measurement says by one score.
#[derive(Default)]
struct Part {
    parameters: Option<usize>,
    images_per_second: Option<f64>,
    calibrated: Option<Evaluated>,
    paper: Option<Evaluated>,
    scores: BTreeMap<String, [Vec<f64>; 2]>,
}

impl Part {
    fn of(measurement: &Measurement, score: Score) -> Self {
        let Measurement { images_per_second, parameters, categories, .. } = measurement;
        let evaluated = |of: &dyn Fn(&super::CategoryMeasured) -> Option<Metrics>| {
            let all = categories.iter().map(|(name, category)| Some((name.clone(), of(category)?)));
            all.collect::<Option<_>>().map(Evaluated::new)
        };
        let scores = categories.iter().filter_map(|(name, category)| {
            let scores = category.scores.get(&score)?.iter().zip(&category.defective);
            let of = |wanted: bool| {
                scores.clone().filter(|(_, is)| **is == wanted).map(|(score, _)| *score).collect()
            };
            Some((name.clone(), [of(false), of(true)]))
        });
        Self {
            parameters: Some(*parameters),
            images_per_second: Some(*images_per_second),
            calibrated: evaluated(&|of| of.calibrated.get(&score).copied()),
            paper: evaluated(&|of| of.paper.get(&score).copied()),
            scores: scores.collect(),
        }
    }

    /// By which the best is chosen.
    fn quality(&self) -> f64 {
        let of = self.paper.as_ref().or(self.calibrated.as_ref());
        of.and_then(|of| of.mean.image_auroc).unwrap_or(f64::NEG_INFINITY)
    }
}
