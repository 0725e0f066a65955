//! How high the maps of normal images are at each cell.

use crate::error::{Error, Result};

/// How high, and how variable, each cell of a map is in normal images of all categories, as detectors of
/// version 1 know it.
///
/// A map m, of norms of the latent, is levelled to μ̄ + σ̄·(m − μ)/σ at each cell: μ and σ are the cell's
/// mean and standard deviation over the maps of normal images, μ̄ and σ̄ the means of μ and of σ over all
/// cells, so that a levelled map has the scale of the others. It can fall below 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    mean: Vec<f32>,
    std: Vec<f32>,
    /// μ̄ and σ̄.
    pub(crate) all: [f32; 2],
}

impl Levels {
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
}

fn average(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let message = |result: Result<Levels>| result.unwrap_err().to_string();
        assert_eq!(
            message(Levels::from_parts(vec![f32::NAN], vec![1.0])),
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
        assert!(Levels::from_parts(vec![], vec![]).is_err());
    }
}
