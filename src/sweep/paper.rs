//! What the method's paper reports.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::data::Dataset;

/// A figure of the paper: S. Sakai et al., "InvAD: Inversion-based Reconstruction-Free Anomaly Detection with Diffusion
/// Models", CVPR 2026 (arXiv 2504.05662). docs/experiments.md says where each is from, and which are not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The experiment, as in `table-8`.
    pub experiment: String,
    /// The data set.
    #[serde(rename = "data set")]
    pub data_set: String,
    /// The row of the experiment.
    pub row: String,
    /// What it is: `image AUROC`, `pixel AUROC`, `mAD`, `mean AUROC`, `images/s`.
    pub column: String,
    /// Its value; in percent, but for images a second.
    pub value: f64,
    /// Where it was found: `page` of the authors, or `notes` of readers.
    pub source: String,
}

/// All figures that are known.
pub fn published() -> &'static [Figure] {
    static FIGURES: LazyLock<Vec<Figure>> = LazyLock::new(|| {
        let rows = csv::Reader::from_reader(include_str!("paper.csv").as_bytes());
        rows.into_deserialize().collect::<Result<_, _>>().expect("the file is part of the crate")
    });
    &FIGURES
}

/// The paper's data sets by their categories.
const DATA_SETS: [(&str, &[&str]); 4] = [
    (
        "MVTec AD",
        &[
            "bottle",
            "cable",
            "capsule",
            "carpet",
            "grid",
            "hazelnut",
            "leather",
            "metal_nut",
            "pill",
            "screw",
            "tile",
            "toothbrush",
            "transistor",
            "wood",
            "zipper",
        ],
    ),
    (
        "VisA",
        &[
            "candle",
            "capsules",
            "cashew",
            "chewinggum",
            "fryum",
            "macaroni1",
            "macaroni2",
            "pcb1",
            "pcb2",
            "pcb3",
            "pcb4",
            "pipe_fryum",
        ],
    ),
    (
        "MPDD",
        &["bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"],
    ),
    ("BMAD", &["brain", "chest", "histopathology", "liver", "retina_oct2017", "retina_resc"]),
];

/// Which of the paper's data sets it is, with all of its categories.
pub(super) fn recognise(dataset: &Dataset) -> Option<&'static str> {
    let own = dataset.categories().iter().map(|category| category.name.to_lowercase());
    let own: BTreeSet<String> = own.collect();
    let same = |names: &[&str]| own.len() == names.len() && names.iter().all(|n| own.contains(*n));
    DATA_SETS.iter().find(|(_, names)| same(names)).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{Axes, FIGURES, TABLES, figure, table};

    /// Every figure belongs to a row of its experiment, once.
    #[test]
    fn figures_have_rows() {
        let mut seen = BTreeSet::new();
        let sweeps: Vec<_> =
            TABLES.iter().map(|n| table(*n, &Axes::unchanged()).unwrap()).collect();
        for of in published() {
            let key = (&of.experiment, &of.data_set, &of.row, &of.column);
            assert!(seen.insert(key), "{of:?} is there twice");
            let sweep = sweeps.iter().find(|sweep| sweep.name == of.experiment).unwrap();
            assert!(sweep.rows.iter().any(|row| row.name == of.row), "{of:?} has no row");
            assert!(sweep.columns.contains(&of.column), "{of:?} has no column");
            assert!(of.value.is_finite() && ["page", "notes"].contains(&&*of.source), "{of:?}");
        }
        assert!(seen.len() > 60 && FIGURES.iter().all(|n| figure(*n, &Axes::unchanged()).is_ok()));
    }
}
