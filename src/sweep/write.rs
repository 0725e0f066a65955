//! Results as Markdown, CSV and JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use super::results::{COLUMNS, MEAN_AUROC, Results, Row, SPEED};
use super::setting::{Method, Setting};
use crate::detect::Evaluated;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::metrics::Metrics;

/// The protocols: whether it is the calibrated one, and what it is called.
pub(crate) const PROTOCOLS: [(bool, &str); 2] =
    [(true, "Calibrated with held-out images"), (false, "The paper's protocol")];

/// A heading and what stands under it, by row, of what the rows differ in.
pub(crate) type Varying = (&'static str, Vec<String>);

impl Results {
    /// Writes `NAME.md`, `NAME.csv` and `NAME.json` in a folder, NAME that of the results.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be written.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<()> {
        let file = |extension| folder.as_ref().join(format!("{}.{extension}", self.name));
        write_atomic(file("md"), |out| out.write_all(self.markdown().as_bytes()))?;
        let (csv, json) = (self.csv()?, file("json"));
        write_atomic(file("csv"), |out| out.write_all(&csv))?;
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::io(&json, e.into()))?;
        text.push(b'\n');
        write_atomic(json, |out| out.write_all(&text))
    }

    /// The results as Markdown: a table for each protocol, each value with the paper's where it is known.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n{}\n\n", self.title, self.about);
        for (name, value) in &self.facts {
            writeln!(text, "- {name}: {value}").expect("a string grows");
        }
        for note in self.notes.iter().chain(&self.note()) {
            writeln!(text, "\n{note}").expect("a string grows");
        }
        let varying = self.varying();
        for (calibrated, title) in PROTOCOLS {
            let rows: Vec<usize> = self.shown(calibrated);
            if rows.is_empty() {
                continue;
            }
            write!(text, "\n## {title}\n\n").expect("a string grows");
            let headings = varying.iter().map(|(heading, _)| *heading);
            let headings = headings.chain(self.columns.iter().map(String::as_str));
            let headings: Vec<&str> = headings.collect();
            let mut line = |cells: Vec<String>| {
                writeln!(text, "| {} |", cells.join(" | ")).expect("a string grows");
            };
            line(headings.iter().map(|heading| (*heading).into()).collect());
            let rule = |i| if i < varying.len() { "---" } else { "---:" };
            line((0..headings.len()).map(|i| rule(i).into()).collect());
            for i in rows {
                let names = varying.iter().map(|(_, names)| names[i].clone());
                let values = self.columns.iter().map(|of| self.cell(&self.rows[i], of, calibrated));
                line(names.chain(values).map(|cell| cell.replace('|', "\\|")).collect());
            }
        }
        text
    }

    /// What is said of the paper's figures.
    pub(crate) fn note(&self) -> Option<String> {
        let of = self.published_of.as_deref()?;
        Some(match self.comparable {
            true => {
                format!("In brackets: the paper's figure on {of}, and by how much ours is higher.")
            }
            false => format!(
                "In brackets: the paper's figure, which is of {of} and so of other images than these."
            ),
        })
    }

    /// The rows that have something to show under a protocol.
    pub(crate) fn shown(&self, calibrated: bool) -> Vec<usize> {
        let measured = |row: &Row| match calibrated {
            true => row.calibrated.is_some(),
            false => row.paper.is_some(),
        };
        // What is the paper's alone stands under its own protocol.
        let shown = |row: &Row| {
            measured(row) || (!calibrated && row.paper.is_none() && row.calibrated.is_none())
        };
        (0..self.rows.len()).filter(|&i| shown(&self.rows[i])).collect()
    }

    /// A value beside the paper's.
    pub(crate) fn cell(&self, row: &Row, column: &str, calibrated: bool) -> String {
        let own = row.value(column, calibrated);
        let shown = own.map_or("-".into(), |value| number(column, value));
        match row.published.get(column) {
            None => shown,
            Some(&published) => {
                let theirs = number(column, published);
                match own.filter(|_| self.comparable) {
                    None => format!("{shown} ({theirs})"),
                    Some(own) => {
                        let sign = if own < published { '−' } else { '+' };
                        let by = number(column, (own - published).abs());
                        format!("{shown} ({theirs}, {sign}{by})")
                    }
                }
            }
        }
    }

    /// What the rows differ in.
    pub(crate) fn varying(&self) -> Vec<Varying> {
        let of = |text: &dyn Fn(&Setting) -> String| -> Vec<String> {
            let each = |row: &Row| row.setting.as_ref().map_or("-".into(), text);
            self.rows.iter().map(each).collect()
        };
        let method = |of: &Setting| match of.method {
            Method::Inversion => "inversion".to_string(),
            Method::Reconstruction { noise_step } => format!("reconstruction from {noise_step}"),
        };
        let one_each = |of: &Setting| if of.per_category { "one each" } else { "all" }.to_string();
        let parameters = |row: &Row| match row.parameters {
            Some(n) => format!("{:.1}", n as f64 / 1e6),
            None => "-".into(),
        };
        let mut all: Vec<Varying> = vec![
            ("row", self.rows.iter().map(|row| row.name.clone()).collect()),
            ("backbone", of(&|of| of.backbone.clone())),
            ("recipe", of(&|of| of.recipe.clone())),
            ("denoiser", of(&|of| of.denoiser.clone())),
            ("parameters, M", self.rows.iter().map(parameters).collect()),
            ("categories of a detector", of(&one_each)),
            ("method", of(&method)),
            ("S", of(&|of| of.evaluations.to_string())),
            ("score", self.rows.iter().map(|row| row.score.name().to_string()).collect()),
        ];
        let measured: Vec<usize> =
            (0..self.rows.len()).filter(|&i| self.rows[i].setting.is_some()).collect();
        all.retain(|(heading, texts)| {
            let mut of: Vec<&String> = match *heading {
                "row" => texts.iter().collect(),
                // Where nothing was measured nothing varies.
                _ => measured.iter().map(|&i| &texts[i]).collect(),
            };
            of.sort_unstable();
            of.dedup();
            of.len() > 1 || (*heading == "row" && of.iter().any(|name| !name.is_empty()))
        });
        all
    }

    /// A line for each row, protocol and category, and for the mean of categories: all metrics, and for the mean the
    /// paper's figures and the differences.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let mut line = |cells: Vec<String>| {
            csv.write_record(&cells).map_err(|e| Error::io(&self.name, e.into()))
        };
        let of_setting = [
            "row",
            "backbone",
            "recipe",
            "denoiser",
            "per category",
            "method",
            "S",
            "score",
            "protocol",
            "category",
        ];
        let metrics = COLUMNS.map(|(name, _)| name);
        let mut published: Vec<&String> =
            self.rows.iter().flat_map(|row| row.published.keys()).collect();
        published.sort_unstable();
        published.dedup();
        let beside = published
            .iter()
            .flat_map(|of| [format!("paper's {of}"), format!("{of} less the paper's")]);
        let headings = of_setting.into_iter().chain(metrics).chain([MEAN_AUROC, SPEED]);
        line(headings.map(String::from).chain(beside).collect())?;
        for row in &self.rows {
            for (calibrated, protocol) in [(true, "calibrated"), (false, "paper")] {
                let evaluated = if calibrated { &row.calibrated } else { &row.paper };
                let none = Evaluated { categories: Default::default(), mean: Metrics::default() };
                let evaluated = match evaluated {
                    Some(evaluated) => evaluated,
                    // The paper's alone.
                    None if !calibrated && row.setting.is_none() => &none,
                    None => continue,
                };
                let categories = evaluated.categories.iter().map(|(name, of)| (name.as_str(), of));
                for (category, of) in categories.chain([("mean", &evaluated.mean)]) {
                    let mut cells = names(row);
                    cells.extend([protocol.to_string(), category.to_string()]);
                    let exact = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
                    cells.extend(COLUMNS.map(|(_, value)| exact(value(of))));
                    let mean = category == "mean";
                    let of_mean = |column| exact(row.value(column, calibrated).filter(|_| mean));
                    cells.extend([of_mean(MEAN_AUROC), of_mean(SPEED)]);
                    for column in &published {
                        let theirs = row.published.get(*column).copied().filter(|_| mean);
                        let own = row.value(column, calibrated).filter(|_| self.comparable);
                        let difference = own.zip(theirs).map(|(own, theirs)| own - theirs);
                        cells.extend([exact(theirs), exact(difference)]);
                    }
                    line(cells)?;
                }
            }
        }
        csv.into_inner().map_err(|e| Error::io(&self.name, e.into_error()))
    }
}

/// What a row is called and of.
fn names(row: &Row) -> Vec<String> {
    let Some(setting) = &row.setting else {
        let mut cells = vec![String::new(); 8];
        cells[0] = row.name.clone();
        return cells;
    };
    let method = match setting.method {
        Method::Inversion => "inversion".into(),
        Method::Reconstruction { noise_step } => format!("reconstruction from {noise_step}"),
    };
    vec![
        row.name.clone(),
        setting.backbone.clone(),
        setting.recipe.clone(),
        setting.denoiser.clone(),
        setting.per_category.to_string(),
        method,
        setting.evaluations.to_string(),
        row.score.name().into(),
    ]
}

/// With as many digits as are of use.
fn number(column: &str, value: f64) -> String {
    match column == SPEED && value >= 100.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.1}"),
    }
}
