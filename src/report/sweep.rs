//! The page of a sweep, and its charts as files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use maud::{Markup, html};

use super::chart;
use super::frame::Chart;
use super::page;
use super::points::{self, Point};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::sweep::{Method, ResultRow as Row, Results, Score, Setting, number};

/// The category that the paper draws the scores of.
const DRAWN: &str = "hazelnut";
/// The most histograms of a page.
const HISTOGRAMS: usize = 24;

/// What charts are of, as their files are called.
const KINDS: [&str; 3] = [STEPS, SPEED, SCORES];
const STEPS: &str = "steps";
const SPEED: &str = "speed";
const SCORES: &str = "scores";

/// A chart of the page, and a file of its own.
struct Figure {
    /// One of [`KINDS`], and which of it, from 1 on.
    kind: &'static str,
    number: usize,
    title: String,
    /// Of which detector, and how it was measured.
    about: String,
    chart: Chart,
    /// What its lines are.
    lines: Vec<String>,
}

impl Figure {
    /// The file's name, without the results' and the extension.
    fn file(&self) -> String {
        format!("{}-{}", self.kind, self.number)
    }

    fn svg(&self) -> String {
        let row = |(i, name): (usize, &String)| html! { (points::sample(i)) text x="32" y="8" { (name) } };
        let legend: Vec<Markup> = self.lines.iter().enumerate().map(row).collect();
        self.chart.standalone(page::STYLE, &self.title, &self.about, &legend)
    }
}

/// Writes `NAME.html`, a page that needs nothing else, and the charts of `results` as `NAME-KIND-NUMBER.svg`; those of an earlier
/// run that are not written anew are removed.
///
/// # Errors
/// [`Error::Io`] if a file cannot be written or removed.
pub fn write_sweep(results: &Results, folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let (curves, histograms) = (curves(results), histograms(results));
    let mut written = BTreeSet::new();
    for figure in curves.iter().chain(&histograms) {
        let name = format!("{}-{}.svg", results.name, figure.file());
        write_atomic(folder.join(&name), |file| file.write_all(figure.svg().as_bytes()))?;
        written.insert(name);
    }
    remove_others(folder, &results.name, &written)?;
    let page = page(results, &curves, &histograms).into_string();
    let path = folder.join(format!("{}.html", results.name));
    write_atomic(path, |file| file.write_all(page.as_bytes()))
}

/// Removes the charts of an earlier run that had more of them: they are of other results than the tables beside them.
fn remove_others(folder: &Path, name: &str, written: &BTreeSet<String>) -> Result<()> {
    let chart = |file: &str| {
        let middle = file.strip_prefix(name)?.strip_prefix('-')?.strip_suffix(".svg")?;
        let (kind, number) = middle.rsplit_once('-')?;
        (KINDS.contains(&kind) && number.parse::<usize>().is_ok()).then_some(())
    };
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))?.flatten() {
        let file = entry.file_name();
        let other = file.to_str().filter(|file| chart(file).is_some() && !written.contains(*file));
        if other.is_some() {
            fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
        }
    }
    Ok(())
}

fn page(results: &Results, curves: &[Figure], histograms: &[Figure]) -> Markup {
    let head = html! {
        p class="brand" { "invad" }
        h1 { (results.title) }
        p { (results.about) }
        (page::facts(&results.facts))
    };
    let content = html! {
        section aria-labelledby="metrics" {
            h2 id="metrics" { "Results" }
            @for note in results.paragraphs() { p { (note) } }
            @for (calibrated, title) in crate::sweep::PROTOCOLS {
                @let rows = results.shown(calibrated);
                @if !rows.is_empty() {
                    h3 { (title) }
                    (table(results, &rows, calibrated, title))
                }
            }
        }
        (section("curves", "Accuracy", curves))
        @if !histograms.is_empty() {
            (section("scores", "Scores of good images, upwards, and of defective ones", histograms))
        }
    };
    page::document(&results.title, head, content)
}

fn section(id: &str, title: &str, figures: &[Figure]) -> Markup {
    html! {
        @if !figures.is_empty() {
            section aria-labelledby=(id) {
                h2 id=(id) { (title) }
                div class="charts" {
                    @for Figure { title, about, chart, lines, .. } in figures {
                        figure {
                            figcaption { h3 { (title) } (about) }
                            (chart)
                            @if !lines.is_empty() {
                                (page::swatches(lines.iter().map(|name| html! { (name) }), points::sample))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn table(results: &Results, rows: &[usize], calibrated: bool, caption: &str) -> Markup {
    let varying = results.varying();
    html! {
        div class="wide" role="region" tabindex="0" aria-label=(caption) {
            table {
                caption class="hidden" { (caption) }
                thead {
                    tr {
                        @for (heading, _) in &varying { th class="name" scope="col" { (heading) } }
                        @for heading in &results.columns { th scope="col" { (heading) } }
                    }
                }
                tbody {
                    @for &row in rows {
                        tr {
                            @for (i, (_, names)) in varying.iter().enumerate() {
                                @if i == 0 {
                                    th scope="row" { (names[row]) }
                                } @else {
                                    td class="name" { (names[row]) }
                                }
                            }
                            @for column in &results.columns {
                                td { (results.cell(&results.rows[row], column, calibrated)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What the lines of a chart have in common.
#[derive(PartialEq)]
struct Common {
    method: String,
    about: String,
}

/// Which chart a row belongs to, and to which line of it.
fn place(row: &Row, setting: &Setting) -> (Common, String) {
    let method = match setting.method {
        Method::Inversion => format!("inversion, score {}", row.score.name()),
        Method::Reconstruction { .. } => "reconstruction, from the best part of the noise".into(),
    };
    let protocol = match row.score {
        Score::Own => "scores calibrated with held-out images",
        _ => "measured under the paper's protocol",
    };
    let Setting { recipe, backbone, denoiser, .. } = setting;
    let about = format!("Trained by the recipe “{recipe}” on features of {backbone}; {protocol}");
    (Common { method, about }, denoiser.clone() + each(setting))
}

/// What is said of a detector that has but one category.
fn each(setting: &Setting) -> &'static str {
    if setting.per_category { ", one detector per category" } else { "" }
}

/// A line's points: S → (image AUROC, images a second), the best of several parts of the noise.
type Measured = BTreeMap<usize, (f64, f64)>;

/// The image AUROC against S and against images a second. The protocol is the paper's, where it has the score.
fn curves(results: &Results) -> Vec<Figure> {
    let mut all: Vec<(Common, Vec<(String, Measured)>)> = Vec::new();
    for row in &results.rows {
        let (Some(setting), Some(speed)) = (&row.setting, row.images_per_second) else { continue };
        let auroc = row.value("image AUROC", row.score == Score::Own);
        let Some(auroc) = auroc.filter(|of| of.is_finite() && speed.is_finite() && speed > 0.0)
        else {
            continue;
        };
        let (common, line) = place(row, setting);
        let lines = &mut entry(&mut all, common).1;
        let points = &mut entry(lines, line).1;
        let best = points.entry(setting.evaluations).or_insert((auroc, speed));
        if auroc > best.0 {
            *best = (auroc, speed);
        }
    }
    let mut figures = Vec::new();
    for (i, (Common { method, about }, lines)) in all.iter().enumerate() {
        let names: Vec<String> = lines.iter().map(|(name, _)| name.clone()).collect();
        let mut add = |kind: &'static str,
                       by: &str,
                       title: &str,
                       ticks: Option<&[f64]>,
                       drawn: &[Vec<Point>]| {
            let title_of = format!("Image AUROC by {by}: {method}");
            figures.push(Figure {
                kind,
                number: i + 1,
                chart: points::accuracies(
                    &format!("{title_of}. {about}"),
                    [title, "image AUROC, %"],
                    ticks,
                    drawn,
                ),
                title: title_of,
                about: about.clone(),
                lines: names.clone(),
            });
        };
        let drawn = |by_speed: bool| -> Vec<Vec<Point>> {
            let each = |(name, measured): &(String, Measured)| {
                let point = |(&s, &(accuracy, speed)): (&usize, &(f64, f64))| Point {
                    at: if by_speed { speed } else { s as f64 },
                    accuracy,
                    text: by_speed.then(|| s.to_string()),
                    hover: format!(
                        "{name}, S = {s}: {accuracy:.1} %, {} images/s",
                        number("images/s", speed)
                    ),
                };
                measured.iter().map(point).collect()
            };
            lines.iter().map(each).collect()
        };
        if lines.iter().any(|(_, measured)| measured.len() > 1) {
            let numbers: BTreeSet<usize> =
                lines.iter().flat_map(|(_, of)| of.keys().copied()).collect();
            let numbers: Vec<f64> = numbers.into_iter().map(|s| s as f64).collect();
            let title = "S, evaluations of the network (logarithmic)";
            add(STEPS, "S", title, Some(&numbers), &drawn(false));
        }
        if lines.iter().map(|(_, measured)| measured.len()).sum::<usize>() > 1 {
            let title = "images/s (logarithmic); beside each point its S";
            add(SPEED, "speed", title, None, &drawn(true));
        }
    }
    figures
}

fn entry<K: PartialEq, T: Default>(all: &mut Vec<(K, T)>, key: K) -> &mut (K, T) {
    let at = all.iter().position(|(known, _)| *known == key).unwrap_or(all.len());
    if at == all.len() {
        all.push((key, T::default()));
    }
    &mut all[at]
}

/// How the scores of a category are distributed.
fn histograms(results: &Results) -> Vec<Figure> {
    if !results.histograms {
        return Vec::new();
    }
    let shown = |row: &&Row| matches!(row.score, Score::Nll | Score::Sum);
    let rows = results.rows.iter().filter(shown).filter_map(|row| {
        let both = |scores: &[Vec<f64>; 2]| scores.iter().all(|of| !of.is_empty());
        let drawn = row.scores.get_key_value(DRAWN);
        let (category, scores) = drawn.or_else(|| row.scores.iter().find(|(_, s)| both(s)))?;
        Some((row.setting.as_ref()?, row.score, category, scores))
    });
    let figures =
        rows.take(HISTOGRAMS).enumerate().map(|(i, (setting, score, category, [good, bad]))| {
            let Setting { denoiser, recipe, backbone, evaluations, .. } = setting;
            let title = format!("{category}: score {}, S = {evaluations}", score.name());
            let about = format!(
                "{denoiser}{}, trained by the recipe “{recipe}” on features of {backbone}",
                each(setting)
            );
            let axis = match score {
                Score::Sum => "abs + nll, each scaled by its range on the test images".into(),
                _ => format!("{}, as it is", score.name()),
            };
            let label = format!("Histogram of scores. {title}. {about}");
            let titles = [&*axis, "images, defective downwards"];
            Figure {
                kind: SCORES,
                number: i + 1,
                chart: chart::distributions(&label, titles, good, bad),
                title,
                about,
                lines: Vec::new(),
            }
        });
    figures.collect()
}
