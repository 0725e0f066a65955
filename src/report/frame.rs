//! Axes of charts and what stands around them, as inline SVG and as files.

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

    /// About as many round numbers along it.
    pub fn ticks(&self, count: usize) -> Vec<Tick> {
        round_ticks(self.from, self.to, count)
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
}
