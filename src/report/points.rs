//! Accuracies over a number on a logarithmic axis, a mark for each.

use maud::{Markup, html};

use super::frame::{
    Axis, CHARACTER, COLOURS, Chart, Tick, WIDTH, frame, line_class, polyline, round_ticks, short,
};
use super::labels::{HALF, beside};

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

/// Lines through points, over these ticks or round ones.
pub(super) fn accuracies(
    label: &str,
    titles: [&str; 2],
    ticks: Option<&[f64]>,
    lines: &[Vec<Point>],
) -> Chart {
    let all =
        |value: fn(&Point) -> f64| -> Vec<f64> { lines.iter().flatten().map(value).collect() };
    let [low, high] = percents(&all(|point| point.accuracy));
    let y = Axis::y(low, high);
    let y_ticks = y.ticks(4);
    let [left, right] = range(&all(|point| point.at.log10()), TWICE);
    let x = Axis::x(left, right, &y_ticks);
    let x_ticks = match ticks {
        Some(ticks) => apart(ticks.iter().map(|at| (at.log10(), at.to_string())).collect(), &x),
        None => logarithmic(left, right, &x),
    };
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

/// The ends of an axis of these percents.
fn percents(values: &[f64]) -> [f64; 2] {
    let [low, high] = range(values, LEAST);
    let span = (high - low).min(100.0);
    let low = low.clamp(0.0, 100.0 - span);
    [low, low + span]
}

/// Round numbers between two powers of ten, at their exponents: 1, 2 and 5 of each decade, or 1 alone where they are
/// too many.
fn logarithmic(from: f64, to: f64, x: &Axis) -> Vec<Tick> {
    let decades = || from.floor() as i32..=to.ceil() as i32;
    let of = |digits: &[u8]| -> Vec<Tick> {
        let texts = decades().flat_map(|ten| digits.iter().map(move |of| format!("{of}e{ten}")));
        let numbers = texts.map(|text| text.parse::<f64>().expect("a number"));
        let all = numbers.map(|of| (of.log10(), of.to_string()));
        all.filter(|(at, _)| (from..=to).contains(at)).collect()
    };
    let fine = of(&[1, 2, 5]);
    if fine.len() < 3 {
        let round = round_ticks(10f64.powf(from), 10f64.powf(to), 4);
        return apart(round.into_iter().map(|(of, text)| (of.log10(), text)).collect(), x);
    }
    let fitting = apart(fine.clone(), x);
    if fitting.len() == fine.len() { fitting } else { apart(of(&[1]), x) }
}

/// Those ticks whose texts do not come upon one another or over the edge, the last among them.
fn apart(ticks: Vec<Tick>, x: &Axis) -> Vec<Tick> {
    let mut kept: Vec<Tick> = Vec::new();
    let reach = |(_, text): &Tick| CHARACTER * text.chars().count() as f64 / 2.0;
    for tick in ticks.into_iter().rev() {
        let free = |after: &Tick| {
            x.place(tick.0) + reach(&tick) + CHARACTER / 2.0 <= x.place(after.0) - reach(after)
        };
        if x.place(tick.0) + reach(&tick) <= WIDTH && kept.last().is_none_or(free) {
            kept.push(tick);
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::super::labels::{Area, MARK};
    use super::*;

    /// The numbers of an element's attribute.
    fn numbers(element: &str, attribute: &str) -> Vec<f64> {
        let Some((_, value)) = element.split_once(&format!(" {attribute}=\"")) else {
            return Vec::new();
        };
        let value = value.split('"').next().unwrap();
        let number = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
        let parts = value.split(|c| !number(c)).filter_map(|part| part.parse().ok());
        parts.collect()
    }

    /// All texts of a chart with what they cover in a wide font, DejaVu Sans: digits are 0.64 of 10.5 wide and 0.73 high.
    fn texts(svg: &str) -> Vec<(String, Area)> {
        let mut all = Vec::new();
        for group in svg.split("<g ").skip(1) {
            let to_the_left = group.contains("text-anchor=\"end\"");
            for element in group.split("<text").skip(1) {
                let (attributes, rest) = element.split_once('>').unwrap();
                let text = rest.split('<').next().unwrap();
                let half = (0.64 * 10.5 * text.chars().count() as f64 / 2.0, 0.73 * 10.5 / 2.0);
                let area = match numbers(attributes, "transform")[..] {
                    // Turned by a quarter, the base line to the right.
                    [x, y, -90.0] => Area { middle: (x - half.1, y), half: (half.1, half.0) },
                    _ => {
                        let (x, y) = (numbers(attributes, "x")[0], numbers(attributes, "y")[0]);
                        let x = if to_the_left { x - half.0 } else { x };
                        Area { middle: (x, y - half.1), half }
                    }
                };
                all.push((text.to_string(), area));
            }
        }
        all
    }

    fn marks(svg: &str) -> Vec<Area> {
        let of = |element: &str| {
            let at = numbers(element, "d");
            Area { middle: (at[0], at[1]), half: (MARK, MARK) }
        };
        svg.split("<path class=\"mark").skip(1).map(|part| of(&format!(" {part}"))).collect()
    }

    /// Lines of so many points: S, images a second and accuracy by line and point.
    fn lines(
        count: usize,
        numbers: &[usize],
        value: impl Fn(usize, usize) -> (f64, f64),
    ) -> Vec<Vec<Point>> {
        let point = |line: usize| {
            let value = &value;
            move |(i, s): (usize, &usize)| {
                let (at, accuracy) = value(line, i);
                Point { at, accuracy, text: Some(s.to_string()), hover: format!("S = {s}") }
            }
        };
        (0..count).map(|line| numbers.iter().enumerate().map(point(line)).collect()).collect()
    }

    #[test]
    fn texts_are_apart() {
        let paper = [3, 5, 10, 50, 100, 1000];
        let twenty: Vec<usize> = (1..=20).collect();
        let speed = |i: usize| 90.0 / (1.0 + paper[i] as f64);
        let wave = |of: usize| (of as f64).sin();
        let cases = [
            ("equal", 6, lines(1, &paper, |_, i| (speed(i), 99.6 + 0.03 * i as f64))),
            ("one S", 3, lines(3, &[1], |i, _| (30.0 + 9.0 * i as f64, 97.0 + wave(i)))),
            ("extremes", 2, lines(1, &[1, 1000], |_, i| ([0.0012, 4321.0][i], [0.0, 100.0][i]))),
            (
                "twelve lines",
                60,
                lines(12, &paper, |l, i| {
                    (speed(i) * (1.0 + 0.1 * l as f64), 92.0 + l as f64 / 2.0)
                }),
            ),
            ("many", 20, lines(1, &twenty, |_, i| (100.0 / (4.0 + i as f64), 90.0 + wave(i)))),
            // There is no room for all.
            ("one place", 4, lines(40, &[3], |i, _| (50.0 + 0.01 * i as f64, 98.7))),
            ("slow", 6, lines(1, &paper, |_, i| (speed(i) / 1e4, 98.7))),
        ];
        let overlapping = |texts: &[(String, Area)], name: &str| {
            for (i, (text, area)) in texts.iter().enumerate() {
                assert!(area.within([0.0, 360.0, 0.0, 220.0]), "{name}: `{text}` is cut off");
                for (other, of) in &texts[..i] {
                    assert!(!area.overlaps(of), "{name}: `{other}` and `{text}` overlap");
                }
            }
        };
        for (name, least, lines) in cases {
            let all: Vec<&Point> = lines.iter().flatten().collect();
            let titles = ["images/s (logarithmic); beside each point its S", "image AUROC, %"];
            let svg = html! { (accuracies("", titles, None, &lines)) }.into_string();
            let texts = texts(&svg);
            overlapping(&texts, name);
            let labels = svg.split("<g class=\"labels\"").nth(1).unwrap();
            let labels = labels.split("</g>").next().unwrap().matches("<text").count();
            assert!(labels >= least.min(all.len()), "{name}: {labels} of {} points", all.len());
            let marks = marks(&svg);
            assert_eq!(marks.len(), all.len());
            for (text, area) in &texts {
                assert!(!marks.iter().any(|mark| mark.overlaps(area)), "{name}: {text} on a mark");
            }
            assert_eq!(svg.matches("<title>S = ").count(), all.len());

            let mut ticks: Vec<f64> = all.iter().map(|point| point.at.ceil()).collect();
            ticks.sort_by(f64::total_cmp);
            ticks.dedup();
            let svg = html! { (accuracies("", titles, Some(&ticks), &lines)) }.into_string();
            overlapping(&self::texts(&svg), name);
        }
    }

    #[test]
    fn noise_does_not_fill_an_axis() {
        assert_eq!(percents(&[90.0, 90.5]), [90.25 - 2.5, 90.25 + 2.5]);
        assert_eq!(percents(&[99.9, 100.0]), [95.0, 100.0]);
        assert_eq!(percents(&[0.0]), [0.0, 5.0]);
        assert_eq!(percents(&[0.0, 100.0]), [0.0, 100.0]);
        let [low, high] = percents(&[60.0, 80.0]);
        assert!((low - 58.8).abs() < 1e-9 && (high - 81.2).abs() < 1e-9);
    }

    #[test]
    fn ticks_of_logarithms() {
        let texts = |from: f64, to: f64| -> Vec<String> {
            let x = Axis::x(from.log10(), to.log10(), &[]);
            let ticks = logarithmic(from.log10(), to.log10(), &x);
            for (at, text) in &ticks {
                assert!((at - text.parse::<f64>().unwrap().log10()).abs() < 1e-12);
            }
            ticks.into_iter().map(|tick| tick.1).collect()
        };
        assert_eq!(texts(4.0, 60.0), ["5", "10", "20", "50"]);
        assert_eq!(texts(0.04, 0.6), ["0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(texts(30.0, 60.0), ["30", "40", "50", "60"]);
        assert_eq!(texts(0.005, 2000.0), ["0.01", "0.1", "1", "10", "100", "1000"]);
    }
}
