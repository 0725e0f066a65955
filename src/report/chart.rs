//! Charts as inline SVG, in the page's colours.

use std::fmt::Write;

use maud::{Markup, PreEscaped, Render, html};

pub(super) const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 220.0;
/// The least room left of the plot.
const LEFT: f64 = 40.0;
/// What the vertical title takes of it, and the gap between ticks and plot.
const TITLE: f64 = 16.0;
const GAP: f64 = 5.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 38.0;
/// The height of a row of text, and the width of a character, in no font more.
const ROW: f64 = 15.0;
pub(super) const CHARACTER: f64 = 6.8;

/// Points of a line.
pub(super) type Points = Vec<(f64, f64)>;

/// A line of a chart.
pub(super) struct Line {
    pub name: String,
    pub points: Points,
}

/// The colours of lines, in turn; the style sheet has them.
pub(super) const COLOURS: usize = 8;

/// The classes of the i-th line: when all colours have been there, each comes with another dash.
pub(super) fn line_class(i: usize) -> String {
    format!("line l{} d{}", i % COLOURS, (i + i / COLOURS) % 4)
}

/// How numbers become places along an axis.
pub(super) struct Axis {
    from: f64,
    to: f64,
    /// Places of the ends, in SVG units.
    pub start: f64,
    pub end: f64,
}

impl Axis {
    /// Beside texts of the ticks of the vertical axis.
    pub fn x(from: f64, to: f64, y_ticks: &[Tick]) -> Self {
        let widest = y_ticks.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0);
        let left = LEFT.max(TITLE + GAP + CHARACTER * widest as f64);
        Self { from, to, start: left, end: WIDTH - RIGHT }
    }

    pub fn y(from: f64, to: f64) -> Self {
        Self { from, to, start: HEIGHT - BOTTOM, end: TOP }
    }

    pub fn place(&self, value: f64) -> f64 {
        let share = (value - self.from) / (self.to - self.from);
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }
}

/// A number, and its text beside the axis.
pub(super) type Tick = (f64, String);

/// A chart, in a page as it is.
pub(super) struct Chart {
    label: String,
    content: Markup,
}

impl Render for Chart {
    fn render(&self) -> Markup {
        html! {
            svg class="chart" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(self.label) {
                (self.content)
            }
        }
    }
}

impl Chart {
    /// A file of its own, in colours of this style sheet, with a title, what is said below it, and what the lines are.
    pub fn standalone(&self, style: &str, title: &str, about: &str, legend: &[Markup]) -> String {
        // Of the font's usual width, since these are more words than numbers.
        let fits = (WIDTH - 2.0 * RIGHT) / (0.85 * CHARACTER);
        let head = [wrapped(title, fits as usize), wrapped(about, fits as usize)];
        let above = ROW * head.iter().map(Vec::len).sum::<usize>() as f64 + 8.0;
        let height = above + HEIGHT + ROW * legend.len() as f64 + 4.0;
        let rows = head.iter().zip(["head", "faded"]);
        let rows = rows.flat_map(|(rows, class)| rows.iter().map(move |row| (row, class)));
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(2.0 * WIDTH) height=(2.0 * height)
                class="alone" viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(self.label) {
                style { (PreEscaped(style)) }
                rect class="paper" width=(WIDTH) height=(height) {}
                @for (i, (row, class)) in rows.enumerate() {
                    text class=(class) x=(RIGHT) y=(ROW * (i + 1) as f64) { (row) }
                }
                g transform={ "translate(0 " (above) ")" } { (self.content) }
                @for (i, name) in legend.iter().enumerate() {
                    g transform={ "translate(" (RIGHT) " " (above + HEIGHT + ROW * i as f64) ")" } { (name) }
                }
            }
        };
        svg.into_string() + "\n"
    }
}

/// Rows of at most so many characters, where no word is longer.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match rows.last_mut() {
            Some(row) if row.chars().count() + 1 + word.chars().count() <= most => {
                row.push(' ');
                row.push_str(word);
            }
            _ => rows.push(word.into()),
        }
    }
    rows
}

/// Curves in the unit square, such as ROC curves.
pub(super) fn unit_square(label: &str, titles: [&str; 2], lines: &[Line]) -> Chart {
    let ticks: Vec<Tick> =
        [0.0, 0.25, 0.5, 0.75, 1.0].map(|t| (t, format!("{}", 100.0 * t))).into();
    let (x, y) = (Axis::x(0.0, 1.0, &ticks), Axis::y(0.0, 1.0));
    frame(
        label,
        titles,
        (&x, &ticks),
        (&y, &ticks),
        html! {
            @for (i, line) in lines.iter().enumerate() {
                path class=(line_class(i)) d=(polyline(&line.points, &x, &y)) {}
            }
        },
    )
}

/// A curve over steps, and the same smoothed.
pub(super) fn training(label: &str, titles: [&str; 2], losses: &[(u64, f64)]) -> Chart {
    let points = averaged(losses, 400);
    let smoothed = smoothed(&points);
    let last = points.last().map_or(1.0, |p| p.0);
    let mut values: Vec<f64> = points.iter().map(|p| p.1).collect();
    values.sort_by(f64::total_cmp);
    // A few wild steps must not flatten the rest.
    let high = values.get(values.len() * 98 / 100).copied().unwrap_or(1.0);
    let low = values.first().copied().unwrap_or(0.0);
    let margin = 0.1 * (high - low).max(1e-12);
    let y = Axis::y(low - margin, high + margin);
    let y_ticks = round_ticks(y.from, y.to, 4);
    let x = Axis::x(0.0, last, &y_ticks);
    frame(
        label,
        titles,
        (&x, &round_ticks(0.0, last, 4)),
        (&y, &y_ticks),
        html! {
            path class="line faint" d=(polyline(&points, &x, &y)) {}
            path class="line l0" d=(polyline(&smoothed, &x, &y)) {}
        },
    )
}

/// How many normal (upwards) and anomalous images (downwards) have which score, and where the
/// threshold is.
pub(super) fn histogram(
    label: &str,
    titles: [&str; 2],
    normal: &[f64],
    anomalous: &[f64],
    threshold: f64,
) -> Chart {
    const BINS: usize = 36;
    // Defects may score far beyond the threshold: linear near 0, logarithmic beyond.
    let squeeze = |score: f64| (score / 3.0).asinh();
    let scores = || normal.iter().chain(anomalous).chain([&threshold]).copied();
    let from = squeeze(scores().fold(-1.0, f64::min)) - 0.1;
    let to = squeeze(scores().fold(6.0, f64::max)) + 0.1;
    // A bin begins at the threshold, so that none is on both sides.
    let (limit, width) = (squeeze(threshold), (to - from) / (BINS - 1) as f64);
    let from = limit - ((limit - from) / width).ceil() * width;
    let to = from + BINS as f64 * width;
    let bin = |score: f64| {
        let at = ((squeeze(score) - from) / width) as usize;
        let below = ((limit - from) / width).round() as usize;
        // Whatever rounding says.
        if score >= threshold { at.max(below).min(BINS - 1) } else { at.min(below - 1) }
    };
    let count = |scores: &[f64]| {
        let mut counts = [0u32; BINS];
        scores.iter().for_each(|&s| counts[bin(s)] += 1);
        counts
    };
    let (up, down) = (count(normal), count(anomalous));
    let mut x_ticks: Vec<Tick> = Vec::new();
    for tick in [-30.0, -10.0, -3.0, 0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0] {
        if (from..=to).contains(&squeeze(tick)) {
            x_ticks.push((squeeze(tick), tick.to_string()));
        }
    }
    mirrored(label, titles, ([from, to], &x_ticks), &up, &down, Some(limit))
}

/// Counts of bins that share the axis evenly, some upwards, some downwards, and a threshold over them.
fn mirrored(
    label: &str,
    titles: [&str; 2],
    ([from, to], x_ticks): ([f64; 2], &[Tick]),
    up: &[u32],
    down: &[u32],
    limit: Option<f64>,
) -> Chart {
    let most = |counts: &[u32]| f64::from(counts.iter().copied().max().unwrap_or(0)).max(1.0);
    let y = Axis::y(-1.12 * most(down), 1.12 * most(up));
    let y_ticks: Vec<Tick> = round_ticks(y.from, y.to, 4)
        .into_iter()
        .filter(|(at, _)| at.fract() == 0.0)
        .map(|(at, _)| (at, at.abs().to_string()))
        .collect();
    let x = Axis::x(from, to, &y_ticks);
    let bars = |counts: &[u32], sign: f64| -> String {
        let at = |i: usize| x.place(from + (to - from) * i as f64 / counts.len() as f64);
        let bar = |(i, &count): (usize, &u32)| {
            let (zero, end) = (y.place(0.0), y.place(sign * f64::from(count)));
            let (left, width) = (at(i) + 0.5, at(i + 1) - at(i) - 1.0);
            format!("M{left:.1} {zero:.1}V{end:.1}h{width:.1}V{zero:.1}z")
        };
        counts.iter().enumerate().filter(|(_, count)| **count > 0).map(bar).collect()
    };
    frame(
        label,
        titles,
        (&x, x_ticks),
        (&y, &y_ticks),
        html! {
            path class="normal" d=(bars(up, 1.0)) {}
            path class="anomalous" d=(bars(down, -1.0)) {}
            @if let Some(limit) = limit {
                path class="limit" d={ "M" (short(x.place(limit))) " " (TOP) "V" (HEIGHT - BOTTOM) } {}
            }
        },
    )
}

/// How many good images (upwards) and defective ones (downwards) have which number.
pub(super) fn distributions(
    label: &str,
    titles: [&str; 2],
    normal: &[f64],
    anomalous: &[f64],
) -> Chart {
    const BINS: usize = 30;
    let all = || normal.iter().chain(anomalous).copied();
    let (low, high) =
        (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low < high { (low, high) } else { (low - 0.5, low + 0.5) };
    let bin = |v: f64| (((v - low) / (high - low) * BINS as f64) as usize).min(BINS - 1);
    let [up, down] = [normal, anomalous].map(|values| {
        let mut counts = [0u32; BINS];
        values.iter().for_each(|&v| counts[bin(v)] += 1);
        counts
    });
    mirrored(label, titles, ([low, high], &round_ticks(low, high, 5)), &up, &down, None)
}

/// A score as a bar from the scores' low end, with the threshold as a mark.
pub(super) fn gauge(score: f64, threshold: f64, is_anomalous: bool) -> Markup {
    const WIDTH: f64 = 150.0;
    // The threshold stands in the middle; a bar that reaches the end may mean any score beyond.
    let reach = threshold.abs().max(1e-9);
    let at = |score: f64| (0.5 + 0.5 * (score - threshold) / reach).clamp(0.01, 1.0) * WIDTH;
    html! {
        svg class="gauge" viewBox={ "0 0 " (WIDTH) " 14" } aria-hidden="true" {
            rect class="track" y="4" width=(WIDTH) height="6" rx="3" {}
            rect class={ @if is_anomalous { "anomalous" } @else { "normal" } }
                y="4" width=(short(at(score))) height="6" rx="3" {}
            path class="limit" d={ "M" (short(at(threshold))) " 0V14" } {}
        }
    }
}

pub(super) fn frame(
    label: &str,
    [x_title, y_title]: [&str; 2],
    (x, x_ticks): (&Axis, &[Tick]),
    (y, y_ticks): (&Axis, &[Tick]),
    content: Markup,
) -> Chart {
    let [left, right, top, bottom] = [x.start, x.end, y.end, y.start];
    let mut grid = String::new();
    for (at, _) in x_ticks {
        write!(grid, "M{:.1} {top}V{bottom}", x.place(*at)).expect("a string grows");
    }
    for (at, _) in y_ticks {
        write!(grid, "M{left:.1} {:.1}H{right}", y.place(*at)).expect("a string grows");
    }
    let content = html! {
        path class="grid" d=(grid) {}
        (content)
        g class="ticks" text-anchor="middle" {
            @for (at, text) in x_ticks {
                text x=(short(x.place(*at))) y=(bottom + 14.0) { (text) }
            }
            text x=(short((left + right) / 2.0)) y=(HEIGHT - 6.0) { (x_title) }
            text transform={ "translate(11 " ((top + bottom) / 2.0) ") rotate(-90)" } { (y_title) }
        }
        g class="ticks" text-anchor="end" {
            @for (at, text) in y_ticks {
                text x=(short(left - GAP)) y=(short(y.place(*at) + 3.5)) { (text) }
            }
        }
    };
    Chart { label: label.into(), content }
}

pub(super) fn short(value: f64) -> PreEscaped<String> {
    PreEscaped(format!("{value:.1}"))
}

pub(super) fn polyline(points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    let mut path = String::new();
    for (i, point) in points.iter().enumerate() {
        let command = if i == 0 { 'M' } else { 'L' };
        let (x, y) = (x.place(point.0), y.place(point.1));
        write!(path, "{command}{x:.1} {y:.1}").expect("a string grows");
    }
    path
}

/// Means of neighbouring points, at most `most` of them.
fn averaged(points: &[(u64, f64)], most: usize) -> Points {
    let each = points.len().div_ceil(most).max(1);
    let mean = |part: &[(u64, f64)]| {
        let n = part.len() as f64;
        (
            part.iter().map(|p| p.0 as f64).sum::<f64>() / n,
            part.iter().map(|p| p.1).sum::<f64>() / n,
        )
    };
    points.chunks(each).map(mean).collect()
}

/// The exponential average, of which the first points are no exception.
fn smoothed(points: &[(f64, f64)]) -> Points {
    const KEEP: f64 = 0.9;
    let (mut sum, mut weight) = (0.0, 0.0);
    let step = |&(x, y): &(f64, f64)| {
        sum = KEEP * sum + (1.0 - KEEP) * y;
        weight = KEEP * weight + (1.0 - KEEP);
        (x, sum / weight)
    };
    points.iter().map(step).collect()
}

/// About `count` round numbers between two others, with their texts.
pub(super) fn round_ticks(from: f64, to: f64, count: usize) -> Vec<Tick> {
    let rough = (to - from) / count as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return Vec::new();
    }
    let ten = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * ten).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(10.0 * ten);
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).map(|v| (v, format!("{v:.digits$}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let texts = |from, to| -> Vec<String> {
            round_ticks(from, to, 4).into_iter().map(|t| t.1).collect()
        };
        assert_eq!(texts(0.0, 1.0), ["0.0", "0.5", "1.0"]);
        assert_eq!(texts(0.0, 2000.0), ["0", "500", "1000", "1500", "2000"]);
        assert_eq!(texts(-3.4, 8.9), ["0", "5"]);
        assert_eq!(texts(0.02, 0.05), ["0.02", "0.03", "0.04", "0.05"]);
        assert!(texts(1.0, 1.0).is_empty() && texts(0.0, f64::NAN).is_empty());
    }

    #[test]
    fn averages() {
        let points: Vec<(u64, f64)> = (1..=10).map(|i| (i, i as f64)).collect();
        assert_eq!(averaged(&points, 4), [(2.0, 2.0), (5.0, 5.0), (8.0, 8.0), (10.0, 10.0)]);
        assert_eq!(averaged(&points, 400).len(), 10);
        let flat = smoothed(&[(0.0, 3.0), (1.0, 3.0), (2.0, 3.0)]);
        assert!(flat.iter().all(|p| (p.1 - 3.0).abs() < 1e-12));
    }
}
