//! How high the maps of normal images are at each cell.

use super::Moments;
use crate::cpu;
use crate::error::{Error, Result};

/// Standard deviation of the smoothing over neighbouring cells, in cells.
const SIGMA: f64 = 1.0;
/// The least spread of a cell, in parts of the mean over all cells: a cell that never varies divides too.
const FLOOR: f64 = 1e-3;

/// How high, and how variable, each cell of a map is in normal images of all categories.
///
/// Cells at the edges of images, and those over parts that vary, are higher than others in normal
/// images too. A map m, of norms of the latent, is levelled to μ̄ + σ̄·(m − μ)/σ at each cell: μ and σ² are
/// the cell's mean and variance over the maps of normal images, each smoothed over neighbouring cells
/// by a Gaussian of 1 cell, σ at least a thousandth of μ̄; μ̄ and σ̄ are the means of μ and of σ over all
/// cells, so that a levelled map has the scale of the others. It can fall below 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    mean: Vec<f32>,
    std: Vec<f32>,
    /// μ̄ and σ̄.
    all: [f32; 2],
}

impl Levels {
    /// Normal images from which on levels are known well enough.
    pub const ENOUGH: usize = 16;

    /// The levels of the maps of normal images, each of `side` × `side` cells, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no map, or one has another size; [`Error::Argument`] if a mean or a
    /// variance is not finite.
    pub fn of(side: usize, maps: &[&[f32]]) -> Result<Self> {
        let cells = side * side;
        let other = maps.iter().map(|map| map.len()).find(|&len| len != cells);
        if let Some(len) = other.or((maps.is_empty() || side == 0).then_some(0)) {
            let expected = format!("[{cells}], one or more, not empty");
            return Err(Error::shape("Levels::of", "maps", expected, &[len]));
        }
        let cell = |i: usize| Moments::of(maps.iter().map(move |map| f64::from(map[i])));
        let (mut mean, mut variance): (Vec<_>, Vec<_>) =
            (0..cells).map(cell).map(|c| (c.mean as f32, c.std.powi(2) as f32)).unzip();
        for values in [&mut mean, &mut variance] {
            cpu::gaussian_blur(values, side, side, SIGMA, SIGMA);
        }
        let floor = (FLOOR * average(&mean).abs()) as f32;
        let std = variance.into_iter().map(|v| v.sqrt().max(floor)).collect();
        Self::from_parts(mean, std)
    }

    /// Levels with a known mean μ and standard deviation σ of each cell, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are none, or not as many of both; [`Error::Argument`] unless they are
    /// finite and the standard deviations above 0.
    pub fn from_parts(mean: Vec<f32>, std: Vec<f32>) -> Result<Self> {
        if mean.is_empty() || mean.len() != std.len() {
            let expected = format!("[{}], not empty", mean.len());
            return Err(Error::shape("Levels", "std", expected, &[std.len()]));
        }
        if let Some(bad) = mean.iter().find(|v| !v.is_finite()) {
            return Err(Error::argument("Levels", "mean", "finite", bad));
        }
        if let Some(bad) = std.iter().find(|v| !v.is_finite() || **v <= 0.0) {
            return Err(Error::argument("Levels", "std", "finite and above 0", bad));
        }
        let all = [average(&mean) as f32, average(&std) as f32];
        Ok(Self { mean, std, all })
    }

    /// The mean μ and the standard deviation σ of each cell, row by row.
    pub fn parts(&self) -> [&[f32]; 2] {
        [&self.mean, &self.std]
    }

    /// Levels a map in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has another number of cells.
    pub fn apply(&self, map: &mut [f32]) -> Result<()> {
        if map.len() != self.mean.len() {
            let expected = format!("[{}]", self.mean.len());
            return Err(Error::shape("Levels::apply", "map", expected, &[map.len()]));
        }
        let [mean, std] = self.all;
        for ((m, mu), sigma) in map.iter_mut().zip(&self.mean).zip(&self.std) {
            *m = mean + std * (*m - mu) / sigma;
        }
        Ok(())
    }
}

fn average(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levelled_maps_of_normal_images_are_alike_at_all_cells() {
        let map = |i: usize| -> Vec<f32> {
            let noise = |cell: usize| ((i * 7 + cell * 13) % 11) as f32 - 5.0;
            (0..64).map(|cell| 10.0 + (cell / 8) as f32 + 0.1 * noise(cell)).collect()
        };
        let maps: Vec<_> = (0..110).map(map).collect();
        let levels = Levels::of(8, &maps.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        let spread = |map: &[f32]| {
            let rows: Vec<f32> = map.chunks(8).map(|row| row.iter().sum::<f32>() / 8.0).collect();
            rows.iter().copied().fold(f32::MIN, f32::max)
                - rows.iter().copied().fold(f32::MAX, f32::min)
        };
        let mut levelled = maps[0].clone();
        levels.apply(&mut levelled).unwrap();
        assert!(spread(&levelled) < 0.5 * spread(&maps[0]));
        let mean = |map: &[f32]| map.iter().sum::<f32>() / 64.0;
        assert!((mean(&levelled) - mean(&maps[0])).abs() < 0.1);
    }

    #[test]
    fn maps_that_never_vary_divide() {
        for value in [3.0, 0.0] {
            let levels = Levels::of(2, &[&[value; 4], &[value; 4]]).unwrap();
            let mut map = vec![value; 4];
            levels.apply(&mut map).unwrap();
            map.iter().for_each(|m| assert!((m - value).abs() < 1e-5));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |result: Result<Levels>| result.unwrap_err().to_string();
        let shape = "Levels::of: `maps` should have shape [4], one or more, not empty, got ";
        assert_eq!(message(Levels::of(2, &[])), format!("{shape}[0]"));
        assert_eq!(message(Levels::of(2, &[&[0.0; 4], &[0.0; 3]])), format!("{shape}[3]"));
        assert_eq!(
            message(Levels::of(1, &[&[f32::NAN]])),
            "Levels: `mean` should be finite, got NaN"
        );
        for (std, want) in [
            (vec![1.0], "Levels: `std` should have shape [2], not empty, got [1]"),
            (vec![1.0, 0.0], "Levels: `std` should be finite and above 0, got 0"),
            (vec![-1.0, 1.0], "Levels: `std` should be finite and above 0, got -1"),
            (vec![1.0, f32::INFINITY], "Levels: `std` should be finite and above 0, got inf"),
        ] {
            assert_eq!(message(Levels::from_parts(vec![1.0, 2.0], std)), want);
        }
        assert!(Levels::from_parts(vec![], vec![]).is_err() && Levels::of(0, &[&[]]).is_err());
        let levels = Levels::from_parts(vec![1.0, 2.0], vec![1.0, 1.0]).unwrap();
        let error = levels.apply(&mut [0.0; 3]).unwrap_err().to_string();
        assert_eq!(error, "Levels::apply: `map` should have shape [2], got [3]");
    }
}
