//! Charts of curves and of scores, in the page's colours.

use maud::{Markup, html};

use super::frame::{Axis, Chart, Tick, frame, line_class, polyline, round_ticks, short};

/// Points of a line.
pub(super) type Points = Vec<(f64, f64)>;

/// A line of a chart.
pub(super) struct Line {
    pub name: String,
    pub points: Points,
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
    let y_ticks = y.ticks(4);
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
    let y_ticks: Vec<Tick> = y
        .ticks(6)
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
                path class="limit" d={ "M" (short(x.place(limit))) " " (y.end) "V" (y.start) } {}
            }
        },
    )
}

/// Characters of a number below an axis of five.
const MOST_DIGITS: usize = 8;

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
    let mut ticks = round_ticks(low, high, 5);
    let [title, other] = titles;
    let title = match ticks.first().cloned() {
        // Numbers that differ in their last digits alone would stand on each other.
        Some((base, text)) if ticks.iter().any(|(_, text)| text.len() > MOST_DIGITS) => {
            let step = ticks.get(1).map_or(0.0, |second| second.0 - base);
            ticks.iter_mut().enumerate().for_each(|(i, tick)| {
                let text = format!("{:.1e}", i as f64 * step).replace(".0e", "e");
                tick.1 = if i == 0 { "0".into() } else { text };
            });
            format!("{title}, less {text}")
        }
        _ => title.into(),
    };
    mirrored(label, [&title, other], ([low, high], &ticks), &up, &down, None)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages() {
        let points: Vec<(u64, f64)> = (1..=10).map(|i| (i, i as f64)).collect();
        assert_eq!(averaged(&points, 4), [(2.0, 2.0), (5.0, 5.0), (8.0, 8.0), (10.0, 10.0)]);
        assert_eq!(averaged(&points, 400).len(), 10);
        let flat = smoothed(&[(0.0, 3.0), (1.0, 3.0), (2.0, 3.0)]);
        assert!(flat.iter().all(|p| (p.1 - 3.0).abs() < 1e-12));
    }

    /// Numbers that differ in their last digits alone are told by what they differ by.
    #[test]
    fn near_numbers_are_told_apart() {
        let drawn = |base: f64, by: f64| {
            let scores: Vec<f64> = (0..9).map(|i| base + by * f64::from(i)).collect();
            html! { (distributions("", ["score", ""], &scores[..5], &scores[4..])) }.into_string()
        };
        let far = drawn(45_167.668_49, 2e-6);
        assert!(far.contains(">score, less 45167.66849"), "{far}");
        assert!([">0<", ">5e-6<", ">1e-5<", ">1.5e-5<"].iter().all(|text| far.contains(text)));
        let near = drawn(0.5, 0.1);
        assert!(near.contains(">score<") && near.contains(">0.6<"), "{near}");
    }
}
