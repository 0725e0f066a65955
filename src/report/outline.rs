//! The outline of a region as an SVG path.

use std::collections::HashMap;
use std::fmt::Write;

/// The boundary of `region`, `width` pixels a row, as SVG path data in pixels: closed lines along
/// the pixels' edges, between which the even-odd rule fills the region. Empty if the region is.
pub(super) fn outline(region: &[bool], width: usize) -> String {
    let height = region.len() / width.max(1);
    let inside = |x: usize, y: usize| {
        // Unsigned: one column or row before the first wraps and is outside.
        x < width && y < height && region[y * width + x]
    };
    // From each corner, where the boundary goes on with the region to its right; two ways where
    // pixels touch at a corner only.
    let mut onward: HashMap<(usize, usize), Vec<(usize, usize)>> = HashMap::new();
    let mut corners = Vec::new();
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        if !inside(x, y) {
            continue;
        }
        for (outside, from, to) in [
            (!inside(x, y.wrapping_sub(1)), (x, y), (x + 1, y)),
            (!inside(x + 1, y), (x + 1, y), (x + 1, y + 1)),
            (!inside(x, y + 1), (x + 1, y + 1), (x, y + 1)),
            (!inside(x.wrapping_sub(1), y), (x, y + 1), (x, y)),
        ] {
            if outside {
                onward.entry(from).or_default().push(to);
                corners.push(from);
            }
        }
    }
    let mut path = String::new();
    for start in corners {
        let mut line = Line::default();
        let mut at = start;
        while let Some(next) = onward.get_mut(&at).and_then(Vec::pop) {
            line.step(next.0 as isize - at.0 as isize, next.1 as isize - at.1 as isize);
            at = next;
        }
        line.close(start, &mut path);
    }
    path
}

/// A closed line of horizontal and vertical moves.
#[derive(Default)]
struct Line(Vec<(isize, isize)>);

impl Line {
    fn step(&mut self, dx: isize, dy: isize) {
        match self.0.last_mut() {
            // On in the same direction.
            Some(last) if (last.0 == 0) == (dx == 0) => *last = (last.0 + dx, last.1 + dy),
            _ => self.0.push((dx, dy)),
        }
    }

    fn close(self, (x, y): (usize, usize), path: &mut String) {
        if self.0.is_empty() {
            return;
        }
        write!(path, "M{x} {y}").expect("a string grows");
        for (dx, dy) in &self.0[..self.0.len() - 1] {
            match dx {
                0 => write!(path, "v{dy}"),
                _ => write!(path, "h{dx}"),
            }
            .expect("a string grows");
        }
        path.push('z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the even-odd rule fills: a pixel is inside if a ray to its left crosses the path an odd
    /// number of times.
    fn filled(path: &str, width: usize, height: usize) -> Vec<bool> {
        let mut vertical = Vec::new();
        for line in path.split_terminator('z') {
            let moves = line.strip_prefix('M').unwrap();
            let split = moves.find(['h', 'v']).unwrap();
            let (start, mut rest) = moves.split_at(split);
            let (x, y) = start.split_once(' ').unwrap();
            let start = (x.parse::<isize>().unwrap(), y.parse::<isize>().unwrap());
            let mut at = start;
            let mut go = |to: (isize, isize)| {
                if at.0 == to.0 {
                    vertical.push((at.0, at.1.min(to.1), at.1.max(to.1)));
                } else {
                    assert_eq!(at.1, to.1, "{path}: neither horizontal nor vertical");
                }
                at = to;
            };
            let mut to = start;
            while !rest.is_empty() {
                let end = rest[1..].find(['h', 'v']).map_or(rest.len(), |i| i + 1);
                let by: isize = rest[1..end].parse().unwrap();
                to = if rest.starts_with('h') { (to.0 + by, to.1) } else { (to.0, to.1 + by) };
                go(to);
                rest = &rest[end..];
            }
            go(start);
        }
        let crossed = |x: isize, y: isize| {
            vertical.iter().filter(|v| v.0 <= x && v.1 <= y && y < v.2).count() % 2 == 1
        };
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x as isize, y as isize)));
        pixels.map(|(x, y)| crossed(x, y)).collect()
    }

    #[test]
    fn fills_the_region() {
        assert_eq!(outline(&[], 0), "");
        assert_eq!(outline(&[false; 6], 3), "");
        assert_eq!(outline(&[true; 6], 3), "M0 0h3v2h-3z");
        let mut state = 1u32;
        for (width, height) in [(1, 1), (1, 5), (2, 2), (3, 3), (7, 4), (16, 9)] {
            for _ in 0..200 {
                let region: Vec<bool> = (0..width * height)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        state >> 31 == 1
                    })
                    .collect();
                let path = outline(&region, width);
                assert_eq!(filled(&path, width, height), region, "{width}×{height}: {path}");
            }
        }
    }
}
