//! The image score of published tables.

use crate::error::{Error, Result};

const OP: &str = "paper_scores";
/// What keeps the range of equal values from dividing by zero.
const EPS: f64 = 1e-8;

/// m(abs) + m(nll) of each image, where m(v) = (v − min)/(max − min + 1e-8) over all of a category's test
/// images.
///
/// For tables only: a score here depends on the other images it is computed with, so that no single image
/// can be judged by it. `abs`, `nll`: one number per image, as [`score`](crate::ops::score) gives them and
/// [`ImageStats`](crate::checkpoint::ImageStats) keeps them, whatever the detector's maps are.
///
/// # Errors
/// [`Error::Shape`] if the numbers of images differ; [`Error::Argument`] if there are none or a number is not
/// finite.
pub fn paper_scores(abs: &[f64], nll: &[f64]) -> Result<Vec<f64>> {
    if nll.len() != abs.len() {
        return Err(Error::shape(OP, "nll", format!("[{}]", abs.len()), &[nll.len()]));
    }
    let (abs, nll) = (min_max("abs", abs)?, min_max("nll", nll)?);
    Ok(abs.zip(nll).map(|(a, n)| a + n).collect())
}

fn min_max<'a>(arg: &'static str, values: &'a [f64]) -> Result<impl Iterator<Item = f64> + 'a> {
    if values.is_empty() {
        return Err(Error::argument(OP, arg, "at least one number", "none"));
    }
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::argument(
            OP,
            arg,
            "finite numbers",
            format!("{} at index {i}", values[i]),
        ));
    }
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(values.iter().map(move |v| (v - min) / (max - min + EPS)))
}
