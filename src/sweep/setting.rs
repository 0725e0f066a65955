//! What is trained and measured.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Recipe;
use crate::detect::ScoreKind;
use crate::error::Result;

/// How a trained network finds defects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By what images are inverted to.
    Inversion,
    /// By what comes back different when images are noised to a step and denoised
    /// ([`Reconstructor`](crate::diffusion::Reconstructor)).
    Reconstruction {
        /// k, the step of S, from 0 on, that images are noised to.
        noise_step: usize,
    },
}

/// Which number is the score of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// That of this crate, [`ScoreKind::Block`]. Under the paper's protocol there is none.
    Own,
    /// Abs, the latent's largest norm less its smallest: the paper's "Diff".
    Abs,
    /// The latent's negative log-likelihood.
    Nll,
    /// Both added, each scaled before.
    Sum,
    /// The mean squared error of a reconstruction.
    Error,
}

impl Score {
    /// Those of an inversion.
    pub const OF_INVERSION: [Score; 4] = [Score::Own, Score::Abs, Score::Nll, Score::Sum];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Score::Own => "own",
            Score::Abs => "abs",
            Score::Nll => "nll",
            Score::Sum => "abs + nll",
            Score::Error => "error",
        }
    }

    /// The score of a detector, where it is one of an inversion.
    pub(super) fn kind(self) -> Option<ScoreKind> {
        match self {
            Score::Own => Some(ScoreKind::Block),
            Score::Abs => Some(ScoreKind::Abs),
            Score::Nll => Some(ScoreKind::Nll),
            Score::Sum => Some(ScoreKind::Both),
            Score::Error => None,
        }
    }
}

/// A detector, or with `per_category` one of each category, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Setting {
    /// The name of the backbone.
    pub backbone: String,
    /// The preset of the denoiser.
    pub denoiser: String,
    /// The name of the recipe.
    pub recipe: String,
    /// Whether each category has a detector of its own.
    pub per_category: bool,
    /// S, the evaluations of the network for an inversion, or the steps between which a reconstruction goes.
    pub evaluations: usize,
    /// What is done with the network.
    pub method: Method,
}

impl Setting {
    /// This crate's default.
    pub fn own() -> Self {
        Self {
            backbone: "efficientnet-lite0".into(),
            denoiser: "small".into(),
            recipe: "whitened".into(),
            per_category: false,
            evaluations: 1,
            method: Method::Inversion,
        }
    }

    /// What most of the paper's experiments have.
    pub fn paper() -> Self {
        Self {
            backbone: "efficientnet-b4".into(),
            denoiser: "gigant".into(),
            recipe: "paper".into(),
            evaluations: 3,
            ..Self::own()
        }
    }

    /// The method, as in `reconstruction from step 2 of 10`, where the steps are 0 to 9.
    pub(super) fn method_name(&self) -> String {
        match self.method {
            Method::Inversion => "inversion".into(),
            Method::Reconstruction { noise_step } => {
                format!("reconstruction from step {noise_step} of {}", self.evaluations)
            }
        }
    }

    /// The recipe by which its network is trained, whatever its number of evaluations. One that is made for a single
    /// evaluation, and trained around it, is trained on all timesteps where there are more.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there is none of the name.
    pub fn training(&self) -> Result<Recipe> {
        let recipe = Recipe::named(&self.recipe)?;
        Ok(match (recipe.inversion_steps, self.evaluations) {
            (1, 2..) => recipe.with_evaluations(3),
            _ => recipe,
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backbone, denoiser, recipe, per_category, evaluations, method } = self;
        write!(f, "{denoiser}, {recipe}, {backbone}, S = {evaluations}")?;
        if let Method::Reconstruction { .. } = method {
            write!(f, ", {}", self.method_name())?;
        }
        if *per_category {
            write!(f, ", one detector per category")?;
        }
        Ok(())
    }
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is called in the table of the paper's figures; the same for rows of which the best counts.
    pub name: String,
    /// What is measured: of several the one with the highest image AUROC, and nothing where it is of a model that this
    /// crate does not have.
    pub settings: Vec<Setting>,
    /// By which score.
    pub score: Score,
}

/// The rows of a table, and what they show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// A short name, as in `table-8`.
    pub name: String,
    /// What it is called.
    pub title: String,
    /// What the reader should know.
    pub about: String,
    /// Columns that matter most, by the names of [`Figure::column`](super::Figure::column).
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<Row>,
    /// Whether scores of good and defective images are drawn beside the curves.
    pub histograms: bool,
}

impl Sweep {
    /// All settings, each once, in the order of the rows.
    pub fn settings(&self) -> Vec<&Setting> {
        let mut all: Vec<&Setting> = Vec::new();
        for setting in self.rows.iter().flat_map(|row| &row.settings) {
            if !all.contains(&setting) {
                all.push(setting);
            }
        }
        all
    }
}
