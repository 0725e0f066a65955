//! The page. Templates escape every string.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;
use super::chart::{self, Line, Points};
use super::frame::line_class;
use super::images::{Image, Pictures};
use crate::detect::Evaluated;
use crate::metrics::{COLUMNS, Metrics, precision_recall_curve, roc_curve};

pub(super) const STYLE: &str = include_str!("style.css");

/// The detector in tables.
const OWN: &str = "This detector";

/// Images that are worth a look, of each kind.
const WORTH_A_LOOK: usize = 8;

/// Images beyond which a browser lays out only those in view.
const MANY: usize = 300;

/// Nothing is loaded, and nothing runs, whatever the page contains.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'";

pub(super) fn page(report: &Report) -> Markup {
    let images = report.images.sorted();
    let categories = by_category(&images);
    let content = html! {
        (metrics(report))
        (charts(report, &categories))
        (worth_a_look(&images))
        (gallery(&categories))
    };
    document(&report.title, head(report, &images), content)
}

/// A page that needs nothing else.
pub(super) fn document(title: &str, head: Markup, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) " – invad" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a class="skip" href="#main" { "To the results" }
                header { (head) }
                main id="main" { (content) }
                footer {
                    p {
                        "Made by invad " (env!("CARGO_PKG_VERSION"))
                        ". This page loads nothing from elsewhere."
                    }
                }
            }
        }
    }
}

/// An image and its number on the page.
type Numbered<'a> = (usize, &'a Image);

fn by_category<'a>(images: &[&'a Image]) -> BTreeMap<&'a str, Vec<Numbered<'a>>> {
    let mut categories: BTreeMap<&str, Vec<Numbered>> = BTreeMap::new();
    for (i, image) in images.iter().enumerate() {
        categories.entry(&image.category).or_default().push((i, image));
    }
    categories
}

/// How many images of a kind there are and how many of them are flagged.
struct Count {
    flagged: usize,
    all: usize,
}

impl Count {
    fn text(&self) -> String {
        format!("{} of {}", self.flagged, self.all)
    }
}

fn count<'a>(images: impl Iterator<Item = &'a Image>, defective: bool) -> Count {
    let of = images.filter(|i| i.defect.is_some() == defective);
    of.fold(Count { flagged: 0, all: 0 }, |count, image| Count {
        flagged: count.flagged + usize::from(image.is_anomalous),
        all: count.all + 1,
    })
}

fn head(report: &Report, images: &[&Image]) -> Markup {
    let [good, bad] = [false, true].map(|defective| count(images.iter().copied(), defective));
    let mean = &report.evaluation.calibrated.mean;
    html! {
        p class="brand" { "invad" }
        h1 { (report.title) }
        ul class="tiles" {
            (tile("Image AUROC", percent(mean.image_auroc), "how well scores order images", None))
            (tile("AU-PRO", percent(mean.au_pro), "how well maps cover defects", None))
            (tile("Defects found", bad.text(), "at the threshold", Some(bad.flagged == bad.all)))
            (tile("False alarms", good.text(), "good images flagged", Some(good.flagged == 0)))
        }
        @for warning in &report.warnings {
            p class="warning" { strong { "Warning: " } (warning) }
        }
        (facts(&report.facts))
    }
}

pub(super) fn facts(facts: &[(String, String)]) -> Markup {
    html! {
        dl class="facts" {
            @for (name, value) in facts {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

fn tile(name: &str, value: String, meaning: &str, fine: Option<bool>) -> Markup {
    let class = match fine {
        Some(true) => "tile fine",
        Some(false) => "tile not-fine",
        None => "tile",
    };
    html! {
        li class=(class) {
            span class="name" { (name) }
            strong { (value) }
            span class="meaning" { (meaning) }
        }
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| format!("{v:.1}"))
}

fn metrics(report: &Report) -> Markup {
    let mut methods = vec![(OWN, &report.evaluation.calibrated)];
    if let Some(baselines) = &report.baselines {
        methods.push(("PaDiM, same features", &baselines.padim));
        methods.push(("Nearest neighbour, same features", &baselines.nearest_neighbour));
    }
    html! {
        section aria-labelledby="metrics" {
            h2 id="metrics" { "Metrics" }
            p {
                "In percent. Higher is better, but for false alarms. A dash stands where labels or "
                "masks are missing. mAD is the mean of the seven before it. AUPIMO needs 100,000 pixels of "
                "good images, and of these no more than one in 100,000 with their largest score." }
            (table("Metrics of each category", &methods))
            details {
                summary { "Under the protocol of published tables" }
                p {
                    "Scores scaled by the range of the test set and maps interpolated bilinearly. For "
                    "comparison with tables only: no single image can be scored like this, and there is no "
                    "threshold."
                }
                (table("Metrics under the paper's protocol", &[(OWN, &report.evaluation.paper)]))
            }
        }
    }
}

fn table(caption: &str, methods: &[(&str, &Evaluated)]) -> Markup {
    let columns = 1 + COLUMNS.iter().map(|(_, under)| under.len()).sum::<usize>();
    let cells = |metrics: &Metrics| {
        html! {
            @for (_, columns) in COLUMNS {
                @for (_, value) in columns { td { (percent(value(metrics))) } }
            }
        }
    };
    html! {
        div class="wide" role="region" tabindex="0" aria-label=(caption) {
            table {
                caption class="hidden" { (caption) }
                thead {
                    tr {
                        td {}
                        @for (heading, columns) in COLUMNS {
                            th scope="colgroup" colspan=(columns.len()) { (heading) }
                        }
                    }
                    tr {
                        th scope="col" { "category" }
                        @for (_, columns) in COLUMNS {
                            @for (title, _) in columns { th scope="col" { (title) } }
                        }
                    }
                }
                @for (method, evaluated) in methods {
                    tbody {
                        @if methods.len() > 1 {
                            tr { th class="method" scope="rowgroup" colspan=(columns) { (method) } }
                        }
                        @for (name, metrics) in &evaluated.categories {
                            tr { th scope="row" { (name) } (cells(metrics)) }
                        }
                        tr class="mean" { th scope="row" { "mean" } (cells(&evaluated.mean)) }
                    }
                }
            }
        }
    }
}

fn charts(report: &Report, categories: &BTreeMap<&str, Vec<Numbered>>) -> Markup {
    let curves = |curve: fn(&[f64], &[bool]) -> Option<Points>| -> Vec<Line> {
        let of = categories.iter().filter_map(|(name, images)| {
            let scores: Vec<f64> = images.iter().map(|(_, i)| i.score).collect();
            let labels: Vec<bool> = images.iter().map(|(_, i)| i.defect.is_some()).collect();
            Some(Line { name: name.to_string(), points: curve(&scores, &labels)? })
        });
        of.collect()
    };
    let roc = curves(|scores, labels| roc_curve(scores, labels).ok().flatten());
    let pr = curves(|scores, labels| precision_recall_curve(scores, labels).ok().flatten());
    let of_category = |name: &str| report.evaluation.calibrated.categories.get(name);
    html! {
        section aria-labelledby="scores" {
            h2 id="scores" { "Scores" }
            p {
                "A score counts standard deviations above the mean of held-out good images. Good "
                "images are drawn upwards, defective ones downwards; the dashed line is the threshold."
            }
            ul class="legend" {
                li { span class="swatch normal" {} "good" }
                li { span class="swatch anomalous" {} "defective" }
                li { span class="swatch limit" {} "threshold" }
            }
            div class="charts" {
                @for (name, images) in categories { (histogram(name, images)) }
            }
        }
        @if !roc.is_empty() {
            section aria-labelledby="curves" {
                h2 id="curves" { "Curves" }
                div class="charts" {
                    figure {
                        figcaption {
                            h3 { "ROC" } "defects found against false alarms, over all thresholds"
                        }
                        (chart::unit_square(
                            "ROC curves of the categories",
                            ["false alarms, %", "defects found, %"], &roc,
                        ))
                        (legend(&roc, |name| of_category(name)?.image_auroc, "AUROC"))
                    }
                    figure {
                        figcaption {
                            h3 { "Precision and recall" } "how many of the flagged images are defective"
                        }
                        (chart::unit_square(
                            "Precision-recall curves of the categories",
                            ["defects found, %", "precision, %"], &pr,
                        ))
                        (legend(&pr, |name| of_category(name)?.image_ap, "AP"))
                    }
                    @if let [first, .., last] = &report.training[..] {
                        figure {
                            figcaption { h3 { "Training" } "loss of single batches, and smoothed" }
                            (chart::training(
                                &format!("Training loss from step {} to {}", first.0, last.0),
                                ["step", "loss"], &report.training,
                            ))
                        }
                    }
                }
            }
        }
    }
}

fn legend(lines: &[Line], value: impl Fn(&str) -> Option<f64>, title: &str) -> Markup {
    let names = lines.iter().map(|line| {
        let value = percent(value(&line.name));
        html! { (line.name) " " span class="faded" { (title) " " (value) } }
    });
    swatches(names, |i| html! { path class=(line_class(i)) d="M0 4H24" {} })
}

/// What lines of a chart are, in their order; `sample`: what each looks like, 24 wide and 8 high.
pub(super) fn swatches(
    names: impl Iterator<Item = Markup>,
    sample: impl Fn(usize) -> Markup,
) -> Markup {
    html! {
        ul class="legend" {
            @for (i, name) in names.enumerate() {
                li {
                    svg class="swatch" viewBox="0 0 24 8" aria-hidden="true" { (sample(i)) }
                    (name)
                }
            }
        }
    }
}

fn histogram(name: &str, images: &[Numbered]) -> Markup {
    let scores = |defective: bool| -> Vec<f64> {
        let of = images.iter().filter(|(_, i)| i.defect.is_some() == defective);
        of.map(|(_, i)| i.score).collect()
    };
    let threshold = images.first().map_or(0.0, |(_, i)| i.threshold);
    let [good, bad] = [false, true].map(|d| count(images.iter().map(|(_, i)| *i), d));
    let said = format!(
        "{} of {} defective images found, {} of {} good ones flagged at {threshold:.2}",
        bad.flagged, bad.all, good.flagged, good.all
    );
    html! {
        figure {
            figcaption { h3 { (name) } (said) }
            (chart::histogram(
                &format!("Histogram of the scores of {name}: {said}"),
                ["score (logarithmic away from 0)", "images"],
                &scores(false), &scores(true), threshold,
            ))
        }
    }
}

fn worth_a_look(images: &[&Image]) -> Markup {
    let numbered: Vec<Numbered> = images.iter().copied().enumerate().collect();
    let mut wrong: Vec<Numbered> = numbered.iter().copied().filter(|i| i.1.is_wrong()).collect();
    wrong.sort_by(|a, b| a.1.margin().total_cmp(&b.1.margin()));
    let mut uncertain = numbered.clone();
    uncertain.sort_by(|a, b| a.1.margin().abs().total_cmp(&b.1.margin().abs()));
    uncertain.truncate(WORTH_A_LOOK);
    let mut slow = numbered;
    slow.sort_by_key(|i| std::cmp::Reverse(i.1.loading));
    slow.truncate(WORTH_A_LOOK);
    let score = |i: &Image| format!("score {}, limit {}", two(i.score), two(i.threshold));
    let time =
        |i: &Image| format!("{:.1} ms, {} × {}", 1e3 * i.loading.as_secs_f64(), i.size.0, i.size.1);
    html! {
        section aria-labelledby="look" {
            h2 id="look" { "Worth a look" }
            div class="lists" {
                (list("Wrong verdicts", "the furthest off first", &wrong, score))
                (list("Least certain", "nearest to the threshold", &uncertain, score))
                (list("Slowest to read", "the rest takes as long for all images", &slow, time))
            }
        }
    }
}

fn list(
    title: &str,
    meaning: &str,
    images: &[Numbered],
    value: impl Fn(&Image) -> String,
) -> Markup {
    let more = images.len().saturating_sub(WORTH_A_LOOK);
    html! {
        div {
            h3 { (title) }
            @if images.is_empty() {
                p class="faded" { "none" }
            } @else {
                p class="faded" { (meaning) }
                ol {
                    @for (i, image) in images.iter().take(WORTH_A_LOOK) {
                        li {
                            a href={ "#image-" (i) } { (full_name(image)) } " "
                            span class="faded" { (value(image)) }
                        }
                    }
                }
                @if more > 0 { p class="faded" { "and " (more) " more, below" } }
            }
        }
    }
}

fn full_name(image: &Image) -> String {
    format!("{}/{}/{}", image.category, kind(image), image.name)
}

fn two(value: f64) -> String {
    format!("{value:.2}")
}

fn kind(image: &Image) -> &str {
    image.defect.as_deref().unwrap_or("good")
}

fn gallery(categories: &BTreeMap<&str, Vec<Numbered>>) -> Markup {
    let all = || categories.values().flatten().map(|(_, i)| *i);
    let many = all().count() > MANY;
    let hidden = all().filter(|i| i.pictures.is_none()).count();
    let filters = [
        ("all", "All", all().count()),
        ("wrong", "Wrong verdicts", all().filter(|i| i.is_wrong()).count()),
        ("bad", "Defective", all().filter(|i| i.defect.is_some()).count()),
        ("good", "Good", all().filter(|i| i.defect.is_none()).count()),
    ];
    html! {
        section aria-labelledby="images" {
            h2 id="images" { "Images" }
            p {
                "The image; the map of what differs from normal laid over it; the outline of what "
                "counts as anomalous; the outline of the true defect."
            }
            @if hidden > 0 {
                p {
                    "Pictures of " (hidden) " images whose verdicts are right and most certain are "
                    "left out, to keep the page small."
                }
            }
            fieldset class="filter" {
                legend { "Show" }
                @for (i, (value, title, count)) in filters.iter().enumerate() {
                    label {
                        input type="radio" name="show" id={ "show-" (value) } checked[i == 0];
                        " " (title) " (" (count) ")"
                    }
                }
            }
            @for (name, images) in categories {
                section class="category" aria-label={ "Images of " (name) } {
                    h3 { (name) }
                    div class={ "cards" @if many { " many" } } {
                        @for (i, image) in images { (card(*i, image)) }
                    }
                }
            }
        }
    }
}

fn card(number: usize, image: &Image) -> Markup {
    let side = if image.defect.is_some() { "bad" } else { "good" };
    let (verdict, word) = match (image.defect.is_some(), image.is_anomalous) {
        (true, true) => ("right", "found"),
        (true, false) => ("wrong", "missed"),
        (false, false) => ("right", "passed"),
        (false, true) => ("wrong", "false alarm"),
    };
    html! {
        article class={ "card " (side) " " (verdict) } id={ "image-" (number) } {
            h4 { span class="kind" { (kind(image)) } " " span class="file" { (image.name) } }
            p class="verdict" {
                span class={ "badge " (verdict) } { (word) }
                (chart::gauge(image.score, image.threshold, image.is_anomalous))
                span { "score " strong { (two(image.score)) } " of " (two(image.threshold)) }
            }
            @if let Some(p) = &image.pictures { (pictures(number, image, p)) }
        }
    }
}

/// The image is embedded once and used in all panes.
fn pictures(number: usize, image: &Image, p: &Pictures) -> Markup {
    let name = full_name(image);
    let view = format!("0 0 {} {}", p.width, p.height);
    let again = html! { use href={ "#p" (number) } {} };
    let pane = |title: &str, label: &str, content: Markup| {
        html! {
            figure {
                svg viewBox=(view) role="img" aria-label=(label) { (content) }
                figcaption { (title) }
            }
        }
    };
    html! {
        div class="panes" {
            (pane("image", &name, html! {
                image id={ "p" (number) } width=(p.width) height=(p.height) href=(p.image) {}
            }))
            (pane("map", &format!("Anomaly map of {name}"), html! {
                (again)
                image width=(p.width) height=(p.height) preserveAspectRatio="none" href=(p.heat) {}
            }))
            @let share = format!("{:.1} %", p.found_share);
            @let (title, label) = match p.found.is_empty() {
                true => ("found: nothing".into(), format!("Nothing found in {name}")),
                false => (
                    format!("found: {share}"),
                    format!("Outline of what was found in {name}: {share} of the image"),
                ),
            };
            (pane(&title, &label, html! {
                (again)
                path class="found" d=(p.found) {}
            }))
            @match (&p.truth, &image.defect) {
                (Some(truth), _) => (pane("truth", &format!("The defect of {name}"), html! {
                    (again)
                    path class="truth" d=(truth) {}
                })),
                (None, Some(_)) => (pane("truth: no mask", &format!("No mask for {name}"), html! {
                    rect class="none" width=(p.width) height=(p.height) {}
                })),
                (None, None) => {
                    (pane("truth: good", &format!("{name} has no defect"), again.clone()))
                }
            }
        }
    }
}
