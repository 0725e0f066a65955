//! Results as Markdown, CSV and JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use super::results::{COLUMNS, MEAN_AUROC, Results, Row, SPEED};
use super::setting::Setting;
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
        for note in self.paragraphs() {
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

    /// What stands above the tables: what they lack, and how they are to be read.
    pub(crate) fn paragraphs(&self) -> Vec<String> {
        let own = "In percent, but for images a second; the mean over categories. A dash stands where nothing was measured, or where AUPIMO is not defined.";
        let theirs = self.published_of.as_deref().map(|of| match self.comparable {
            true => {
                format!("In brackets: the paper's figure on {of}, and by how much ours is higher.")
            }
            false => format!(
                "In brackets: the paper's figure, which is of {of} and so of other images than these, and of the paper's networks and trainings."
            ),
        });
        self.notes.iter().cloned().chain([own.into()]).chain(theirs).collect()
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
        let own = row.value(column, calibrated).filter(|value| value.is_finite());
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
            ("method", of(&Setting::method_name)),
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
    /// paper's figures and the differences. Six digits of each number, of which fewer mean something.
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
                    let digits =
                        |value: Option<f64>| value.map_or(String::new(), |of| significant(of, 6));
                    cells.extend(COLUMNS.map(|(_, value)| digits(value(of))));
                    let mean = category == "mean";
                    let of_mean = |column| digits(row.value(column, calibrated).filter(|_| mean));
                    cells.extend([of_mean(MEAN_AUROC), of_mean(SPEED)]);
                    for column in &published {
                        let theirs = row.published.get(*column).copied().filter(|_| mean);
                        let own = row.value(column, calibrated).filter(|_| self.comparable);
                        let difference = own.zip(theirs).map(|(own, theirs)| own - theirs);
                        cells.extend([theirs, difference].map(digits));
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
    vec![
        row.name.clone(),
        setting.backbone.clone(),
        setting.recipe.clone(),
        setting.denoiser.clone(),
        setting.per_category.to_string(),
        setting.method_name(),
        setting.evaluations.to_string(),
        row.score.name().into(),
    ]
}

/// With as many digits as are of use.
pub(crate) fn number(column: &str, value: f64) -> String {
    match column == SPEED {
        true if value >= 100.0 => format!("{value:.0}"),
        true if value < 1.0 => significant(value, 2),
        _ => format!("{value:.1}"),
    }
}

/// At most so many significant digits, fewer where the rest are zeros.
fn significant(value: f64, digits: usize) -> String {
    let rounded: std::result::Result<f64, _> = format!("{value:.*e}", digits - 1).parse();
    rounded.map_or_else(|_| value.to_string(), |of| of.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_digits() {
        let cases = [
            (99.074_074_074, "99.0741"),
            (100.0, "100"),
            (97.26 - 98.0, "-0.74"),
            (0.012_345_678_9, "0.0123457"),
            (123_456.7, "123457"),
            (0.0, "0"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value, 6), text);
        }
    }

    #[test]
    fn slow_ones_are_not_0() {
        let speeds =
            [(0.0123, "0.012"), (0.1, "0.1"), (0.997, "1"), (88.14, "88.1"), (123.4, "123")];
        for (value, text) in speeds {
            assert_eq!(number(SPEED, value), text);
        }
        assert_eq!(number("image AUROC", 0.04), "0.0");
    }
}
