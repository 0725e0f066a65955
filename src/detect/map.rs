//! Anomaly maps.

use crate::cpu;
use crate::error::{Error, Result};

/// How far an image is from normal at each cell of a detector's grid; larger is less normal.
///
/// It is the latent's distance to what normal ones are like at the cell ([`Prior`](crate::gaussian::Prior)), less the
/// mean of the image's cells: the light of a whole image may differ from that of all others, while a
/// defect stands out of its own image. Without a prior it is the latent's norm, levelled by a detector of
/// version 1 ([`Levels`](crate::checkpoint::Levels)).
#[derive(Clone, Debug, PartialEq)]
pub struct AnomalyMap {
    side: usize,
    values: Vec<f32>,
}

impl AnomalyMap {
    /// A map of `side` × `side` cells, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not `side`² values.
    pub fn new(side: usize, values: Vec<f32>) -> Result<Self> {
        if side == 0 || values.len() != side * side {
            let expected = format!("({side}, {side}), not empty");
            return Err(Error::shape("AnomalyMap", "values", expected, &[values.len()]));
        }
        Ok(Self { side, values })
    }

    /// Cells along a side.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The cells, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The norm of order `order` of the means of 2 × 2 neighbouring cells, (Σ max(0, m)^order)^(1/order), and
    /// of infinite order the largest of them; of a map of one cell, that cell. NaN where a cell is.
    pub fn block(&self, order: f64) -> f32 {
        if let [cell] = self.values[..] {
            return cell;
        }
        let rows = self.values.chunks_exact(self.side);
        let blocks = rows
            .clone()
            .zip(rows.skip(1))
            .flat_map(|(above, below)| above.windows(2).zip(below.windows(2)))
            .map(|(above, below)| 0.25 * (above[0] + above[1] + below[0] + below[1]));
        if order.is_infinite() {
            return blocks.fold(f32::NEG_INFINITY, maximum);
        }
        let powers = blocks.map(|m| f64::from(maximum(m, 0.0)).powf(order));
        powers.sum::<f64>().powf(order.recip()) as f32
    }

    /// The mean of the `count` largest cells, or of all where there are fewer. NaN where a cell is.
    pub(super) fn top(&self, count: usize) -> f32 {
        let mut values = self.values.clone();
        // A NaN without a sign is above all others.
        values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = v.abs());
        values.sort_unstable_by(|a, b| b.total_cmp(a));
        values.truncate(count.max(1));
        (values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64) as f32
    }

    /// The map for an image of `width` × `height` pixels, with the cubic filter of Mitchell and Netravali
    /// (1988), which shows no cells.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0.
    pub fn resize(&self, width: usize, height: usize) -> Result<Vec<f32>> {
        let mut out = pixels(width, height)?;
        cpu::resize_cubic([self.side; 2], [height, width], &self.values, &mut out);
        Ok(out)
    }

    /// The map for an image of `width` × `height` pixels, interpolated bilinearly.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0.
    pub fn resize_bilinear(&self, width: usize, height: usize) -> Result<Vec<f32>> {
        let mut out = pixels(width, height)?;
        cpu::resize_bilinear([self.side; 2], [height, width], 1, &self.values, &mut out);
        Ok(out)
    }
}

/// The larger of two numbers, which is NaN where one is: [`f32::max`] would pass it over.
fn maximum(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

fn pixels(width: usize, height: usize) -> Result<Vec<f32>> {
    if width == 0 || height == 0 {
        let got = format!("{width}×{height}");
        return Err(Error::argument("AnomalyMap::resize", "size", "at least 1×1", got));
    }
    Ok(vec![0.0; width * height])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of either sign, at any cell.
    #[test]
    fn a_nan_is_not_passed_over() {
        for (at, nan) in (0..9).flat_map(|at| [(at, f32::NAN), (at, -f32::NAN)]) {
            let mut values = vec![-1.0, 2.0, 0.5, 3.0, -4.0, 1.0, 0.0, 2.5, -0.5];
            let whole = AnomalyMap::new(3, values.clone()).unwrap();
            values[at] = nan;
            let map = AnomalyMap::new(3, values).unwrap();
            let numbers =
                |m: &AnomalyMap| [m.block(4.0), m.block(f64::INFINITY), m.top(1), m.top(5)];
            assert!(numbers(&map).iter().all(|v| v.is_nan()), "{nan} at {at}");
            assert!(numbers(&whole).iter().all(|v| v.is_finite()));
        }
        // Blocks below 0 count as none, or are the largest where all are.
        let low = AnomalyMap::new(2, vec![-1.0; 4]).unwrap();
        assert_eq!([low.block(4.0), low.block(f64::INFINITY)], [0.0, -1.0]);
    }
}
