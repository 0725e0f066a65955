//! Where texts stand beside the marks of a chart.

use super::frame::{Axis, CHARACTER};

/// The half of a mark's side.
pub(super) const MARK: f64 = 3.0;
/// Half the height of a figure.
pub(super) const HALF: f64 = 4.0;

/// A rectangle, by its middle and the halves of its sides.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub middle: (f64, f64),
    pub half: (f64, f64),
}

impl Area {
    pub fn overlaps(&self, other: &Area) -> bool {
        let apart = |a: f64, b: f64, reach: f64| (a - b).abs() >= reach;
        !apart(self.middle.0, other.middle.0, self.half.0 + other.half.0)
            && !apart(self.middle.1, other.middle.1, self.half.1 + other.half.1)
    }

    pub fn within(&self, [left, right, top, bottom]: [f64; 4]) -> bool {
        let ((x, y), (a, b)) = (self.middle, self.half);
        left <= x - a && x + a <= right && top <= y - b && y + b <= bottom
    }
}

/// Where the texts of points stand: beside their marks, where they touch neither another text nor a mark, and no line if
/// that can be. A text for which there is no such place is left out. Each with its line's number.
pub(super) fn beside<'t>(
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
