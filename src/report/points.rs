//! Accuracies over a number on a logarithmic axis, a mark for each.

use maud::{Markup, html};

use super::chart::{
    Axis, CHARACTER, COLOURS, Chart, Tick, frame, line_class, polyline, round_ticks, short,
};

/// A measurement.
pub(super) struct Point {
    /// Above 0.
    pub at: f64,
    /// In percent.
    pub accuracy: f64,
    /// What stands beside it, if anything, where there is room.
    pub text: Option<String>,
    /// What a pointer over it shows.
    pub hover: String,
}

/// Percent that the vertical axis spans at least, so that noise does not fill it.
const LEAST: f64 = 5.0;
/// Likewise of the other axis: the logarithm of 2.
const TWICE: f64 = std::f64::consts::LOG10_2;
/// The half of a mark's side.
const MARK: f64 = 3.0;
/// Half the height of a figure.
const HALF: f64 = 4.0;

/// Lines through points, over these ticks or round ones.
pub(super) fn accuracies(
    label: &str,
    titles: [&str; 2],
    ticks: Option<&[f64]>,
    lines: &[Vec<Point>],
) -> Chart {
    let all =
        |value: fn(&Point) -> f64| -> Vec<f64> { lines.iter().flatten().map(value).collect() };
    let [low, high] = range(&all(|point| point.accuracy), LEAST);
    let span = (high - low).min(100.0);
    let low = low.clamp(0.0, 100.0 - span);
    let y = Axis::y(low, low + span);
    let y_ticks = round_ticks(low, low + span, 4);
    let [left, right] = range(&all(|point| point.at.log10()), TWICE);
    let x = Axis::x(left, right, &y_ticks);
    let x_ticks = apart(
        ticks.map_or_else(
            || logarithmic(left, right),
            |ticks| ticks.iter().map(|at| (at.log10(), at.to_string())).collect(),
        ),
        &x,
    );
    let places: Vec<Vec<(f64, f64)>> = lines
        .iter()
        .map(|line| line.iter().map(|point| (point.at.log10(), point.accuracy)).collect())
        .collect();
    let place = |&(at, value): &(f64, f64)| (x.place(at), y.place(value));
    let marks: Vec<Vec<(f64, f64)>> =
        places.iter().map(|line| line.iter().map(place).collect()).collect();
    let texts = lines.iter().map(|line| line.iter().map(|point| point.text.as_deref()));
    let texts = beside(&marks, texts.flatten(), &x, &y);
    let content = html! {
        @for (i, line) in places.iter().enumerate() {
            path class=(line_class(i)) d=(polyline(line, &x, &y)) {}
        }
        @for (i, (line, marks)) in lines.iter().zip(&marks).enumerate() {
            @for (point, &place) in line.iter().zip(marks) {
                (mark(i, place, html! { title { (point.hover) } }))
            }
        }
        g class="labels" text-anchor="middle" {
            @for (line, (x, y), text) in &texts {
                text class={ "m" (line % COLOURS) } x=(short(*x)) y=(short(y + HALF)) { (text) }
            }
        }
    };
    frame(label, titles, (&x, &x_ticks), (&y, &y_ticks), content)
}

/// What the i-th line looks like: 24 wide, 8 high.
pub(super) fn sample(i: usize) -> Markup {
    html! {
        path class=(line_class(i)) d="M0 4H24" {}
        (mark(i, (12.0, 4.0), html! {}))
    }
}

/// When all colours have been there, each comes with marks of another shape.
fn mark(i: usize, (x, y): (f64, f64), content: Markup) -> Markup {
    let shape = match i / COLOURS % 4 {
        0 => "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
        1 => "m-3-3h6v6h-6z",
        2 => "m0-4l4 4l-4 4l-4-4z",
        _ => "m0-4l4 7h-8z",
    };
    html! {
        path class={ "mark m" (i % COLOURS) } d={ "M" (short(x)) " " (short(y)) (shape) } { (content) }
    }
}

/// The ends of values, with a margin, and at least this far apart.
fn range(values: &[f64], least: f64) -> [f64; 2] {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (middle, half) = ((low + high) / 2.0, (0.56 * (high - low)).max(least / 2.0));
    [middle - half, middle + half]
}

/// Round numbers between two powers of ten, at their exponents.
fn logarithmic(from: f64, to: f64) -> Vec<Tick> {
    let number = |i: i32| -> f64 {
        let text = format!("{}e{}", [1, 2, 5][i.rem_euclid(3) as usize], i.div_euclid(3));
        text.parse().expect("a number")
    };
    let numbers = 3 * from.floor() as i32..=3 * to.ceil() as i32;
    let all = numbers.map(number).map(|of| (of.log10(), of.to_string()));
    let all: Vec<Tick> = all.filter(|(at, _)| (from..=to).contains(at)).collect();
    if all.len() > 2 {
        return all;
    }
    let round = round_ticks(10f64.powf(from), 10f64.powf(to), 4);
    round.into_iter().map(|(of, text)| (of.log10(), text)).collect()
}

/// Those ticks whose texts do not come upon one another, the last among them.
fn apart(ticks: Vec<Tick>, x: &Axis) -> Vec<Tick> {
    let mut kept: Vec<Tick> = Vec::new();
    let reach = |(_, text): &Tick| CHARACTER * text.chars().count() as f64 / 2.0;
    for tick in ticks.into_iter().rev() {
        let free = |after: &Tick| {
            x.place(tick.0) + reach(&tick) + CHARACTER / 2.0 <= x.place(after.0) - reach(after)
        };
        if kept.last().is_none_or(free) {
            kept.push(tick);
        }
    }
    kept.reverse();
    kept
}

/// A rectangle, by its middle and the halves of its sides.
#[derive(Clone, Copy)]
struct Area {
    middle: (f64, f64),
    half: (f64, f64),
}

impl Area {
    fn overlaps(&self, other: &Area) -> bool {
        let apart = |a: f64, b: f64, reach: f64| (a - b).abs() >= reach;
        !apart(self.middle.0, other.middle.0, self.half.0 + other.half.0)
            && !apart(self.middle.1, other.middle.1, self.half.1 + other.half.1)
    }

    fn within(&self, [left, right, top, bottom]: [f64; 4]) -> bool {
        let ((x, y), (a, b)) = (self.middle, self.half);
        left <= x - a && x + a <= right && top <= y - b && y + b <= bottom
    }
}

/// Where the texts of points stand: beside their marks, where they touch neither another text nor a mark, and no line if
/// that can be. A text for which there is no such place is left out. Each with its line's number.
fn beside<'t>(
    marks: &[Vec<(f64, f64)>],
    texts: impl Iterator<Item = Option<&'t str>>,
    x: &Axis,
    y: &Axis,
) -> Vec<(usize, (f64, f64), &'t str)> {
    let area = |&middle: &(f64, f64)| Area { middle, half: (MARK + 1.0, MARK + 1.0) };
    let mut taken: Vec<Area> = marks.iter().flatten().map(area).collect();
    let along = |ends: &[(f64, f64)]| -> Vec<Area> {
        let [(ax, ay), (bx, by)] = [ends[0], ends[1]];
        let pieces = ((bx - ax).hypot(by - ay) / 2.0).ceil().max(1.0) as usize;
        let part = |i: usize| i as f64 / pieces as f64;
        let middle = |i: usize| (ax + part(i) * (bx - ax), ay + part(i) * (by - ay));
        (0..=pieces).map(|i| Area { middle: middle(i), half: (1.0, 1.0) }).collect()
    };
    let strokes: Vec<Area> =
        marks.iter().flat_map(|line| line.windows(2).flat_map(along)).collect();
    let bounds = [x.start, x.end + CHARACTER, 0.0, y.start];
    let points = marks.iter().enumerate().flat_map(|(i, line)| line.iter().map(move |&p| (i, p)));
    let mut placed = Vec::new();
    for ((line, (px, py)), text) in points.zip(texts) {
        let Some(text) = text else { continue };
        let half = (CHARACTER * text.chars().count() as f64 / 2.0, HALF);
        let (across, up) = (half.0 + MARK + 2.0, half.1 + MARK + 2.0);
        let sides = [(0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (-1.0, 0.0)];
        let corners = [(1.0, -0.8), (1.0, 0.8), (-1.0, -0.8), (-1.0, 0.8)];
        let places = sides.into_iter().chain(corners);
        let free: Vec<Area> = places
            .map(|(a, b)| Area { middle: (px + a * across, py + b * up), half })
            .filter(|area| area.within(bounds) && !taken.iter().any(|of| of.overlaps(area)))
            .collect();
        let clear = free.iter().find(|area| !strokes.iter().any(|of| of.overlaps(area)));
        if let Some(&area) = clear.or(free.first()) {
            taken.push(area);
            placed.push((line, area.middle, text));
        }
    }
    placed
}
