//! The page of a sweep, and its charts as files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use maud::{Markup, html};

use super::chart::{self, Line};
use super::page;
use crate::error::Result;
use crate::files::write_atomic;
use crate::sweep::{Method, ResultRow as Row, Results, Score, Setting};

/// The category that the paper draws the scores of.
const DRAWN: &str = "hazelnut";
/// The most histograms of a page.
const HISTOGRAMS: usize = 24;

/// A chart, what it shows, and what its lines are.
struct Chart {
    /// A file's name, without extension.
    file: String,
    title: String,
    svg: Markup,
    lines: Vec<String>,
}

/// Writes `NAME.html`, a page that needs nothing else, and the charts of `results` as `NAME-….svg`.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if a file cannot be written.
pub fn write_sweep(results: &Results, folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let (curves, histograms) = (curves(results), histograms(results));
    for chart in curves.iter().chain(&histograms) {
        let svg = chart::standalone(&chart.svg, page::STYLE);
        let path = folder.join(format!("{}-{}.svg", results.name, chart.file));
        write_atomic(path, |file| file.write_all(svg.as_bytes()))?;
    }
    let page = page(results, &curves, &histograms).into_string();
    let path = folder.join(format!("{}.html", results.name));
    write_atomic(path, |file| file.write_all(page.as_bytes()))
}

fn page(results: &Results, curves: &[Chart], histograms: &[Chart]) -> Markup {
    let head = html! {
        p class="brand" { "invad" }
        h1 { (results.title) }
        p { (results.about) }
        (page::facts(&results.facts))
    };
    let content = html! {
        section aria-labelledby="metrics" {
            h2 id="metrics" { "Results" }
            p { "In percent, the mean over categories. A dash stands where nothing was measured." }
            @for note in results.notes.iter().chain(&results.note()) { p { (note) } }
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

fn section(id: &str, title: &str, charts: &[Chart]) -> Markup {
    html! {
        @if !charts.is_empty() {
            section aria-labelledby=(id) {
                h2 id=(id) { (title) }
                div class="charts" {
                    @for chart in charts {
                        figure {
                            figcaption { h3 { (chart.title) } }
                            (chart.svg)
                            @if !chart.lines.is_empty() {
                                (page::swatches(chart.lines.iter().map(|name| html! { (name) })))
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

/// Which chart a row belongs to, and to which line of it.
fn place(row: &Row, setting: &Setting) -> (String, String) {
    let kind = match setting.method {
        Method::Inversion => format!("inversion, score {}", row.score.name()),
        Method::Reconstruction { .. } => "reconstruction, best part of the noise".into(),
    };
    let mut line = setting.denoiser.clone();
    if setting.per_category {
        line += ", one per category";
    }
    (format!("{kind}; {}, {}", setting.recipe, setting.backbone), line)
}

/// The image AUROC against S and against images a second. The protocol is the paper's, where it has the score.
fn curves(results: &Results) -> Vec<Chart> {
    // Chart → line → S → (AUROC, images a second), the best of several parts of the noise.
    type Points = BTreeMap<usize, (f64, f64)>;
    let mut all: Vec<(String, Vec<(String, Points)>)> = Vec::new();
    for row in &results.rows {
        let (Some(setting), Some(speed)) = (&row.setting, row.images_per_second) else { continue };
        let auroc = row.value("image AUROC", row.score == Score::Own);
        let Some(auroc) = auroc else { continue };
        let (chart, line) = place(row, setting);
        let lines = &mut entry(&mut all, chart).1;
        let points = &mut entry(lines, line).1;
        let best = points.entry(setting.evaluations).or_insert((auroc, speed));
        if auroc > best.0 {
            *best = (auroc, speed);
        }
    }
    let mut charts = Vec::new();
    for (i, (title, lines)) in all.iter().enumerate() {
        if lines.iter().all(|(_, points)| points.len() < 2) {
            continue;
        }
        let names: Vec<String> = lines.iter().map(|(name, _)| name.clone()).collect();
        let numbers: BTreeSet<usize> =
            lines.iter().flat_map(|(_, of)| of.keys().copied()).collect();
        let steps = numbers.iter().map(|&s| (log(s), s.to_string())).collect();
        let drawn = |x: &dyn Fn(usize, f64) -> f64| -> Vec<Line> {
            let of = |points: &Points| {
                points.iter().map(|(s, (auroc, speed))| (x(*s, *speed), *auroc)).collect()
            };
            lines.iter().map(|(name, p)| Line { name: name.clone(), points: of(p) }).collect()
        };
        let axes: [(&str, &str, Option<Vec<_>>, Vec<Line>); 2] = [
            ("steps", "S, evaluations of the network", Some(steps), drawn(&|s, _| log(s))),
            ("speed", "images a second", None, drawn(&|_, speed| speed)),
        ];
        for (file, x_title, ticks, drawn) in axes {
            let label = format!("Image AUROC against {x_title}: {title}");
            let titles = [x_title, "image AUROC, %"];
            charts.push(Chart {
                file: format!("{file}-{}", i + 1),
                title: title.clone(),
                svg: chart::lines(&label, titles, ticks.as_deref(), &drawn),
                lines: names.clone(),
            });
        }
    }
    charts
}

/// Where a number of evaluations stands on its axis.
fn log(evaluations: usize) -> f64 {
    (evaluations as f64).log10()
}

fn entry<T: Default>(all: &mut Vec<(String, T)>, name: String) -> &mut (String, T) {
    let at = all.iter().position(|(known, _)| *known == name).unwrap_or(all.len());
    if at == all.len() {
        all.push((name, T::default()));
    }
    &mut all[at]
}

/// How the scores of a category are distributed.
fn histograms(results: &Results) -> Vec<Chart> {
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
    let charts =
        rows.take(HISTOGRAMS).enumerate().map(|(i, (setting, score, category, [good, bad]))| {
            let title = format!("{category}, {}, S = {}", score.name(), setting.evaluations);
            let of = format!("{}, {}, {}", setting.denoiser, setting.recipe, setting.backbone);
            let label = format!("Histogram of scores: {title}; {of}");
            Chart {
                file: format!("scores-{}", i + 1),
                title: format!("{title}; {of}"),
                svg: chart::distributions(&label, [score.name(), "images"], good, bad),
                lines: Vec::new(),
            }
        });
    charts.collect()
}
