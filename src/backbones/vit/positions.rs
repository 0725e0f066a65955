//! Positions of a grid of patches, for another grid.

use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor, TensorView};

/// How positions that were learned on a grid of M × M are resampled to another. All are cubic, and the centres of
/// corner cells are half a step from the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resampling {
    /// As facebookresearch's DINO, and DINOv2 without registers: Keys' filter with a = −¾ on four positions at every
    /// scale, the border's going on beyond it, in steps of M/(g + 0.1) for g cells, so that an axis of M cells moves
    /// where the other has another number.
    Hub,
    /// As transformers' ViT, and DINOv2 without registers: the same in steps of M/g.
    Size,
    /// As timm, and for DINOv2 with registers its own library and transformers: a = −½ in steps of M/g, the
    /// filter as wide as a step where that is more than 1, and within the grid, its weights divided by their sum.
    Antialias,
}

impl Resampling {
    /// Positions (M·M, D) as positions (h·w, D) of a `grid` = [h, w], f32 on the CPU; the same where h = w = M.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no M·M positions; [`Error::Argument`] if the grid has no cell.
    pub fn apply<'a>(
        self,
        positions: impl Into<TensorView<'a>>,
        grid: [usize; 2],
    ) -> Result<Tensor> {
        const OP: &str = "Resampling::apply";
        let positions = positions.into();
        let (side, width) = match *positions.shape() {
            [n, d] if n > 0 && n.isqrt().pow(2) == n => (n.isqrt(), d),
            ref got => return Err(Error::shape(OP, "positions", "(M·M, D)", got)),
        };
        if grid.contains(&0) {
            return Err(Error::argument(OP, "grid", "at least one cell", format!("{grid:?}")));
        }
        let x = positions.f32s(OP, "positions")?;
        let [h, w] = grid;
        if grid == [side; 2] {
            return Tensor::from_f32(x.to_vec(), &[h * w, width], Device::Cpu);
        }
        let [down, across] = grid.map(|cells| self.weights(side, cells));
        let mut y = Vec::with_capacity(h * w * width);
        let (mut line, mut sum) = (vec![0.0f64; side * width], vec![0.0f64; width]);
        for taps in &down {
            line.fill(0.0);
            for &(row, weight) in taps {
                add(
                    weight,
                    x[row * side * width..][..side * width].iter().map(|&v| v.into()),
                    &mut line,
                );
            }
            for taps in &across {
                sum.fill(0.0);
                for &(column, weight) in taps {
                    add(weight, line[column * width..][..width].iter().copied(), &mut sum);
                }
                y.extend(sum.iter().map(|&v| v as f32));
            }
        }
        Tensor::from_f32(y, &[h * w, width], Device::Cpu)
    }

    /// What each of `cells` cells reads along an axis of `side` positions.
    fn weights(self, side: usize, cells: usize) -> Vec<Vec<(usize, f64)>> {
        let step = match self {
            Self::Hub => side as f64 / (cells as f64 + 0.1),
            Self::Size | Self::Antialias => side as f64 / cells as f64,
        };
        let of = |cell: usize| -> Vec<(usize, f64)> {
            let centre = (cell as f64 + 0.5) * step - 0.5;
            if self != Self::Antialias {
                let first = centre.floor() - 1.0;
                let at = |i: usize| first + i as f64;
                let inside = |at: f64| at.clamp(0.0, side as f64 - 1.0) as usize;
                return (0..4).map(|i| (inside(at(i)), keys(-0.75, at(i) - centre))).collect();
            }
            let wide = step.max(1.0);
            // Beyond its reach the filter is 0.
            let first = (centre - 2.0 * wide).ceil().max(0.0) as usize;
            let last = (centre + 2.0 * wide).floor().min(side as f64 - 1.0) as usize;
            let weight = |i: usize| keys(-0.5, (i as f64 - centre) / wide);
            let all: f64 = (first..=last).map(weight).sum();
            (first..=last).map(|i| (i, weight(i) / all)).collect()
        };
        (0..cells).map(of).collect()
    }
}

/// The cubic filter of Keys (1981) with its free parameter.
fn keys(a: f64, distance: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

fn add(weight: f64, x: impl Iterator<Item = f64>, sum: &mut [f64]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += weight * x);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Resampling; 3] = [Resampling::Hub, Resampling::Size, Resampling::Antialias];

    #[test]
    fn weights_sum_to_one() {
        for how in ALL {
            for (side, cells) in [(1, 1), (1, 5), (5, 3), (5, 8), (14, 14), (37, 16), (37, 40)] {
                for taps in how.weights(side, cells) {
                    let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
                    assert!((sum - 1.0).abs() < 1e-12, "{how:?} {side} to {cells}: {sum}");
                }
            }
        }
    }

    #[test]
    fn the_own_grid_is_kept_and_another_refused() {
        let x: Vec<f32> = (0..18).map(|i| (i * i) as f32).collect();
        let view = |shape: &[usize]| TensorView::from_slice(&x, shape).unwrap();
        for how in ALL {
            assert_eq!(how.apply(view(&[9, 2]), [3, 3]).unwrap().to_vec_f32(), x);
            assert_eq!(how.apply(view(&[9, 2]), [2, 4]).unwrap().shape(), [8, 2]);
            for (shape, grid) in [([6, 3], [2, 2]), ([9, 2], [0, 2])] {
                how.apply(view(&shape), grid).unwrap_err();
            }
        }
        // An axis that keeps its number of cells moves with the other by one of the conventions alone.
        let moved = |how: Resampling| {
            how.apply(view(&[9, 2]), [3, 2]).unwrap().to_vec_f32()[0]
                != how.apply(view(&[9, 2]), [4, 2]).unwrap().to_vec_f32()[0]
        };
        assert!(moved(Resampling::Hub));
    }
}
