//! Levelling of maps.

use crate::checkpoint::Levels;
use crate::error::{Error, Result};

impl Levels {
    /// Levels a map in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has another number of cells.
    pub fn apply(&self, map: &mut [f32]) -> Result<()> {
        let [mean, std] = self.parts();
        if map.len() != mean.len() {
            let expected = format!("[{}]", mean.len());
            return Err(Error::shape("Levels::apply", "map", expected, &[map.len()]));
        }
        let [mean_of_all, std_of_all] = self.all;
        for ((m, mu), sigma) in map.iter_mut().zip(mean).zip(std) {
            *m = mean_of_all + std_of_all * (*m - mu) / sigma;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_counts_by_how_it_varies() {
        let levels = Levels::from_parts(vec![10.0, 20.0], vec![1.0, 3.0]).unwrap();
        let mut map = vec![12.0, 26.0];
        levels.apply(&mut map).unwrap();
        assert_eq!(map, [15.0 + 2.0 * 2.0, 15.0 + 2.0 * 2.0]);
    }

    #[test]
    fn a_map_of_other_cells_is_refused() {
        let levels = Levels::from_parts(vec![1.0, 2.0], vec![1.0, 1.0]).unwrap();
        let error = levels.apply(&mut [0.0; 3]).unwrap_err().to_string();
        assert_eq!(error, "Levels::apply: `map` should have shape [2], got [3]");
    }
}
