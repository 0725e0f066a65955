//! The experiments of the paper.

use super::axes::{Axes, noise_steps};
use super::setting::{Method, Row, Score, Setting, Sweep};
use crate::backbones::VitConfig;
use crate::error::{Error, Result};

/// The numbers of the tables that [`table`] has.
pub const TABLES: [u32; 8] = [2, 3, 4, 5, 6, 7, 8, 9];
/// The numbers of the figures that [`figure`] has.
pub const FIGURES: [u32; 2] = [3, 4];

/// S of the paper's ablations.
const EVALUATIONS: [usize; 6] = [3, 5, 10, 50, 100, 1000];
/// Parts of the noise from which images are reconstructed; those of the paper are not known.
const NOISE: [f64; 4] = [0.25, 0.5, 0.75, 1.0];
/// The step of ten from which the reference implementation reconstructs unless it is told otherwise.
const REFERENCE: (usize, usize) = (10, 8);

/// What an experiment goes through, after changes.
struct Experiment {
    /// As in `table-8`.
    name: &'static str,
    changes: Axes,
    /// The lists of them that it uses.
    used: Vec<&'static str>,
    rows: Vec<Row>,
}

impl Experiment {
    fn new(name: &'static str, changes: &Axes) -> Self {
        Self { name, changes: changes.distinct(), used: Vec::new(), rows: Vec::new() }
    }

    fn uses(&mut self, lists: &[&'static str]) {
        let new = lists.iter().filter(|list| !self.used.contains(list)).copied();
        self.used.extend(new.collect::<Vec<_>>());
    }

    /// All that are changed, or the paper's model with these backbones and denoisers.
    fn settings(&mut self, backbones: &[&str], denoisers: &[&str]) -> Vec<Setting> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        let or = |changed: &Vec<String>, names: &[&str]| match changed.is_empty() {
            true => own(names),
            false => changed.clone(),
        };
        self.uses(&["backbones", "denoisers", "recipes", "per_category"]);
        let Axes { backbones: b, denoisers: d, recipes: r, per_category, .. } = &self.changes;
        let per_category = match per_category.is_empty() {
            true => vec![false],
            false => per_category.clone(),
        };
        Axes::unchanged()
            .backbones(or(b, backbones))
            .denoisers(or(d, denoisers))
            .recipes(or(r, &["paper"]))
            .per_category(per_category)
            .trained()
            .into_iter()
            .map(|of| Setting { evaluations: 3, ..of })
            .collect()
    }

    /// The paper's model, or what it was changed to.
    fn paper(&mut self) -> Vec<Setting> {
        self.settings(&["efficientnet-b4"], &["gigant"])
    }

    fn evaluations(&mut self) -> Vec<usize> {
        self.uses(&["evaluations"]);
        match self.changes.evaluations.is_empty() {
            true => EVALUATIONS.into(),
            false => self.changes.evaluations.clone(),
        }
    }

    fn add(&mut self, name: impl Into<String>, setting: Setting, score: Score) {
        self.rows.push(Row { name: name.into(), settings: vec![setting], score });
    }

    /// A row of the paper alone.
    fn absent(&mut self, name: &str) {
        self.rows.push(Row { name: name.into(), settings: Vec::new(), score: Score::Sum });
    }

    /// Inversions in more and more steps, named by score and S.
    fn inversions(&mut self, scores: &[Score], name: impl Fn(Score) -> &'static str) {
        for of in self.paper() {
            for &score in scores {
                for evaluations in self.evaluations() {
                    let name = format!("{}, S = {evaluations}", name(score));
                    self.add(name, Setting { evaluations, ..of.clone() }, score);
                }
            }
        }
    }

    /// The best of several parts of the noise.
    fn reconstructions(&mut self, name: String, of: &Setting, evaluations: usize) {
        let noise = match self.changes.noise.is_empty() {
            true => &NOISE[..],
            false => &self.changes.noise,
        };
        let steps = noise_steps(evaluations, noise).into_iter();
        let settings: Vec<_> = steps.map(|step| reconstruction(of, evaluations, step)).collect();
        if !settings.is_empty() {
            self.uses(&["noise"]);
            self.rows.push(Row { name, settings, score: Score::Error });
        }
    }

    /// # Errors
    /// [`Error::Argument`] of a list that it has no use for.
    fn sweep(self, title: &str, about: &str, columns: &[&str]) -> Result<Sweep> {
        let Axes { backbones, denoisers, recipes, evaluations, noise, per_category, scores } =
            &self.changes;
        let lists = [
            ("backbones", format!("{backbones:?}"), backbones.is_empty()),
            ("denoisers", format!("{denoisers:?}"), denoisers.is_empty()),
            ("recipes", format!("{recipes:?}"), recipes.is_empty()),
            ("evaluations", format!("{evaluations:?}"), evaluations.is_empty()),
            ("noise", format!("{noise:?}"), noise.is_empty()),
            ("per_category", format!("{per_category:?}"), per_category.is_empty()),
            ("scores", format!("{scores:?}"), scores.is_empty()),
        ];
        let used = |list| self.used.contains(&list);
        if let Some((list, got, _)) = lists.into_iter().find(|(of, _, no)| !no && !used(*of)) {
            let expected = format!("left out: this experiment uses {}", self.used.join(", "));
            return Err(Error::argument(self.name, list, expected, got));
        }
        Ok(Sweep {
            name: self.name.into(),
            title: title.into(),
            about: about.into(),
            columns: columns.iter().map(|column| (*column).into()).collect(),
            rows: self.rows,
            histograms: self.name == "figure-4",
        })
    }
}

fn reconstruction(of: &Setting, evaluations: usize, noise_step: usize) -> Setting {
    Setting { evaluations, method: Method::Reconstruction { noise_step }, ..of.clone() }
}

const DETECTION: [&str; 4] = ["image AUROC", "pixel AUROC", "AU-PRO", "images/s"];

/// The experiment of a table of the paper, 2 to 9, with what `changes` has in place of the paper's: a smaller denoiser,
/// another backbone, other S ([`Axes::unchanged`]: nothing). Rows that show this crate's default stay as they are.
///
/// # Errors
/// [`Error::Argument`] if there is no experiment of the number, or it has no use for a list of `changes`.
pub fn table(number: u32, changes: &Axes) -> Result<Sweep> {
    const NAMES: [&str; 8] =
        ["table-2", "table-3", "table-4", "table-5", "table-6", "table-7", "table-8", "table-9"];
    let at = TABLES.iter().position(|of| *of == number);
    let mut all = Experiment::new(at.map_or("table", |i| NAMES[i]), changes);
    match number {
        2 => {
            all.paper().into_iter().for_each(|of| all.add("inversion", of, Score::Sum));
            all.add("own default", Setting::own(), Score::Own);
            let columns = ["image AUROC", "pixel AUROC", "AU-PRO", "mAD", "AUPIMO", "images/s"];
            let about = "The paper's model on a data set, and this crate's default.";
            all.sweep("Table 2: one detector of all categories", about, &columns)
        }
        3 => {
            let alone = |of: Setting| Setting { per_category: true, ..of };
            if all.changes.per_category.contains(&false) {
                let expected =
                    "true or left out: this experiment has one detector of each category";
                return Err(Error::argument(all.name, "per_category", expected, "false"));
            }
            all.paper().into_iter().for_each(|of| all.add("inversion", alone(of), Score::Sum));
            all.add("own default", alone(Setting::own()), Score::Own);
            let columns = ["image AUROC", "pixel AUROC", "mean AUROC", "AU-PRO", "images/s"];
            let about = "The paper's data set is BMAD, of which half has no masks; its mean is of all image and pixel AUROCs.";
            all.sweep("Table 3: one detector of each category", about, &columns)
        }
        4 => {
            all.inversions(&[Score::Sum], |_| "inversion");
            for of in all.paper() {
                for s in all.evaluations() {
                    all.reconstructions(format!("reconstruction, S = {s}"), &of, s);
                }
            }
            let about = "Of the reconstructions from several parts of the noise the best counts, chosen on the test images as the \
                         paper's is.";
            all.sweep("Table 4: inversion and reconstruction", about, &DETECTION)
        }
        5 => {
            for model in ["DiAD", "DiAD, inversion", "MDM", "MDM, inversion"] {
                all.absent(model);
            }
            for of in all.paper() {
                let (steps, noise_step) = REFERENCE;
                all.add("sampling", reconstruction(&of, steps, noise_step), Score::Error);
                all.add("inversion", of, Score::Sum);
            }
            let about = "A denoiser's own reconstruction, and an inversion with the same network. DiAD and MDM are not part of this \
                         crate; examples/custom_denoiser.rs shows how a model from elsewhere takes part.";
            all.sweep("Table 5: inversion in place of sampling", about, &DETECTION)
        }
        6 => {
            let settings = all.paper();
            for of in &settings {
                all.reconstructions("features, no inversion".into(), of, 3);
            }
            all.absent("pixels, one evaluation");
            for of in settings {
                let once = Setting { evaluations: 1, ..of.clone() };
                all.add("features, one evaluation", once, Score::Sum);
                all.add("features, several evaluations", of, Score::Sum);
            }
            let columns = ["image AUROC", "pixel AUROC", "mAD", "images/s"];
            let about = "What stands in for an inversion in the paper's first row is not known; here it is a reconstruction in as \
                         many steps. Diffusion of pixels is not part of this crate.";
            all.sweep("Table 6: parts of the method", about, &columns)
        }
        7 => {
            let names = ["efficientnet-b4", "efficientnet-lite0"].into_iter();
            let names: Vec<_> = names.chain(VitConfig::NAMES).collect();
            for of in all.settings(&names, &["gigant"]) {
                all.add(of.backbone.clone(), of, Score::Sum);
            }
            let about = "The paper has EfficientNet-B4, ViT-B and DINO; the rest are this crate's.";
            all.sweep("Table 7: backbones", about, &DETECTION)
        }
        8 => {
            for of in all.settings(&["efficientnet-b4"], &["mlp", "unet", "base", "gigant"]) {
                all.add(of.denoiser.clone(), of, Score::Sum);
            }
            let about = "The same training and the same inversion with other networks.";
            all.sweep("Table 8: denoisers", about, &DETECTION)
        }
        9 => {
            all.inversions(&[Score::Nll, Score::Abs, Score::Sum], Score::name);
            let about = "One network, inverted in more and more steps.";
            all.sweep("Table 9: scores of an image", about, &["image AUROC", "images/s"])
        }
        _ => Err(Error::argument("table", "number", "in 2..=9", number)),
    }
}

/// The experiment of a figure of the paper, 3 or 4, with changes as of [`table`].
///
/// # Errors
/// As [`table`].
pub fn figure(number: u32, changes: &Axes) -> Result<Sweep> {
    match number {
        3 => {
            let mut all = Experiment::new("figure-3", changes);
            all.inversions(&[Score::Sum], Score::name);
            let about = "What the paper's figure shows is not known; this one has the accuracy against the number of evaluations, \
                         and against images a second.";
            all.sweep("Figure 3: accuracy, evaluations and speed", about, &DETECTION)
        }
        4 => {
            let mut all = Experiment::new("figure-4", changes);
            all.inversions(&[Score::Nll, Score::Sum], Score::name);
            let about = "The negative log-likelihood alone, and with the difference of norms. The paper shows hazelnut.";
            all.sweep("Figure 4: how scores are distributed", about, &["image AUROC"])
        }
        _ => Err(Error::argument("figure", "number", "3 or 4", number)),
    }
}
