//! Charts as inline SVG, in the page's colours.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 38.0;

/// Points of a line.
pub(super) type Points = Vec<(f64, f64)>;

/// A line of a chart.
pub(super) struct Line {
    pub name: String,
    pub points: Points,
}

/// The classes of lines, in turn; the style sheet gives each a colour and a dash.
pub(super) const STYLES: usize = 8;

/// How numbers become places along an axis.
struct Axis {
    from: f64,
    to: f64,
    /// Places of the ends, in SVG units.
    start: f64,
    end: f64,
}

impl Axis {
    fn x(from: f64, to: f64) -> Self {
        Self { from, to, start: LEFT, end: WIDTH - RIGHT }
    }

    fn y(from: f64, to: f64) -> Self {
        Self { from, to, start: HEIGHT - BOTTOM, end: TOP }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value - self.from) / (self.to - self.from);
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }
}

/// Curves in the unit square, such as ROC curves.
pub(super) fn unit_square(label: &str, titles: [&str; 2], lines: &[Line]) -> Markup {
    let (x, y) = (Axis::x(0.0, 1.0), Axis::y(0.0, 1.0));
    let ticks: Vec<(f64, String)> =
        [0.0, 0.25, 0.5, 0.75, 1.0].map(|t| (t, format!("{}", 100.0 * t))).into();
    frame(
        label,
        titles,
        (&x, &ticks),
        (&y, &ticks),
        html! {
            @for (i, line) in lines.iter().enumerate() {
                path class={ "line l" (i % STYLES) } d=(polyline(&line.points, &x, &y)) {}
            }
        },
    )
}

/// A curve over steps, and the same smoothed.
pub(super) fn training(label: &str, titles: [&str; 2], losses: &[(u64, f64)]) -> Markup {
    let points = averaged(losses, 400);
    let smoothed = smoothed(&points);
    let last = points.last().map_or(1.0, |p| p.0);
    let mut values: Vec<f64> = points.iter().map(|p| p.1).collect();
    values.sort_by(f64::total_cmp);
    // A few wild steps must not flatten the rest.
    let high = values.get(values.len() * 98 / 100).copied().unwrap_or(1.0);
    let low = values.first().copied().unwrap_or(0.0);
    let margin = 0.1 * (high - low).max(1e-12);
    let (x, y) = (Axis::x(0.0, last), Axis::y(low - margin, high + margin));
    let ticks = |axis: &Axis, count| round_ticks(axis.from, axis.to, count);
    frame(
        label,
        titles,
        (&x, &ticks(&x, 4)),
        (&y, &ticks(&y, 4)),
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
) -> Markup {
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
    let x = Axis::x(from, to);
    let mut x_ticks: Vec<(f64, String)> = Vec::new();
    for tick in [-30.0, -10.0, -3.0, 0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0] {
        if (from..=to).contains(&squeeze(tick)) {
            x_ticks.push((squeeze(tick), tick.to_string()));
        }
    }
    let limit = x.place(limit);
    let mark =
        html! { path class="limit" d={ "M" (short(limit)) " " (TOP) "V" (HEIGHT - BOTTOM) } {} };
    mirrored(label, titles, (&x, &x_ticks), &up, &down, mark)
}

/// Counts of bins that share the axis evenly, some upwards, some downwards, and a mark over them.
fn mirrored(
    label: &str,
    titles: [&str; 2],
    (x, x_ticks): (&Axis, &[(f64, String)]),
    up: &[u32],
    down: &[u32],
    mark: Markup,
) -> Markup {
    let most = |counts: &[u32]| f64::from(counts.iter().copied().max().unwrap_or(0)).max(1.0);
    let y = Axis::y(-1.12 * most(down), 1.12 * most(up));
    let bars = |counts: &[u32], sign: f64| -> String {
        let at = |i: usize| x.place(x.from + (x.to - x.from) * i as f64 / counts.len() as f64);
        let bar = |(i, &count): (usize, &u32)| {
            let (zero, end) = (y.place(0.0), y.place(sign * f64::from(count)));
            let (left, width) = (at(i) + 0.5, at(i + 1) - at(i) - 1.0);
            format!("M{left:.1} {zero:.1}V{end:.1}h{width:.1}V{zero:.1}z")
        };
        counts.iter().enumerate().filter(|(_, count)| **count > 0).map(bar).collect()
    };
    let y_ticks: Vec<(f64, String)> = round_ticks(y.from, y.to, 4)
        .into_iter()
        .filter(|(at, _)| at.fract() == 0.0)
        .map(|(at, _)| (at, at.abs().to_string()))
        .collect();
    frame(
        label,
        titles,
        (x, x_ticks),
        (&y, &y_ticks),
        html! {
            path class="normal" d=(bars(up, 1.0)) {}
            path class="anomalous" d=(bars(down, -1.0)) {}
            (mark)
        },
    )
}

/// A chart as a file of its own, in colours of this style sheet.
pub(super) fn standalone(chart: &Markup, style: &str) -> String {
    let size = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" ",
        2.0 * WIDTH,
        2.0 * HEIGHT
    );
    let paper = format!(
        "><style>{style}</style><rect width=\"{WIDTH}\" height=\"{HEIGHT}\" style=\"fill:var(--paper)\"/>"
    );
    let (head, content) = chart.0.split_once('>').unwrap_or_default();
    format!("{}{paper}{content}\n", head.replacen("<svg ", &size, 1))
}

/// Lines with a mark at each point, over an axis with these ticks, or with round ones.
pub(super) fn lines(
    label: &str,
    titles: [&str; 2],
    x_ticks: Option<&[(f64, String)]>,
    lines: &[Line],
) -> Markup {
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let all = lines.iter().flat_map(|line| &line.points).map(of);
        let (low, high) =
            all.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        // At least so that numbers that hardly differ have short ticks.
        let margin = (0.06 * (high - low)).max(0.5);
        (low - margin, high + margin)
    };
    let ((left, right), (low, high)) = (range(&|p| p.0), range(&|p| p.1));
    let (x, y) = (Axis::x(left, right), Axis::y(low, high));
    let round_x = round_ticks(left, right, 5);
    let y_ticks = round_ticks(low, high, 4);
    frame(
        label,
        titles,
        (&x, x_ticks.unwrap_or(&round_x)),
        (&y, &y_ticks),
        html! {
            @for (i, line) in lines.iter().enumerate() {
                path class={ "line l" (i % STYLES) } d=(polyline(&line.points, &x, &y)) {}
                @for (at, value) in &line.points {
                    circle class={ "mark m" (i % STYLES) } r="3"
                        cx=(short(x.place(*at))) cy=(short(y.place(*value))) {}
                }
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
) -> Markup {
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
    let x = Axis::x(low, high);
    mirrored(label, titles, (&x, &round_ticks(low, high, 5)), &up, &down, html! {})
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

fn frame(
    label: &str,
    [x_title, y_title]: [&str; 2],
    (x, x_ticks): (&Axis, &[(f64, String)]),
    (y, y_ticks): (&Axis, &[(f64, String)]),
    content: Markup,
) -> Markup {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut grid = String::new();
    for (at, _) in x_ticks {
        write!(grid, "M{:.1} {TOP}V{bottom}", x.place(*at)).expect("a string grows");
    }
    for (at, _) in y_ticks {
        write!(grid, "M{LEFT} {:.1}H{right}", y.place(*at)).expect("a string grows");
    }
    html! {
        svg class="chart" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) {
            path class="grid" d=(grid) {}
            (content)
            g class="ticks" text-anchor="middle" {
                @for (at, text) in x_ticks {
                    text x=(short(x.place(*at))) y=(bottom + 14.0) { (text) }
                }
                text x=((LEFT + right) / 2.0) y=(HEIGHT - 6.0) { (x_title) }
                text transform={ "translate(11 " ((TOP + bottom) / 2.0) ") rotate(-90)" } { (y_title) }
            }
            g class="ticks" text-anchor="end" {
                @for (at, text) in y_ticks {
                    text x=(LEFT - 5.0) y=(short(y.place(*at) + 3.5)) { (text) }
                }
            }
        }
    }
}

fn short(value: f64) -> PreEscaped<String> {
    PreEscaped(format!("{value:.1}"))
}

fn polyline(points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
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
fn round_ticks(from: f64, to: f64, count: usize) -> Vec<(f64, String)> {
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
