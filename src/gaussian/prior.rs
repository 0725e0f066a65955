//! What latents of normal images are like at each position.

use std::collections::BTreeMap;
use std::ops::Range;

use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::{self, Activation, PackedWeight, expect_shape};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};

/// The share of a position's own covariance; the rest is that of all positions pooled.
const OWN: f64 = 0.5;
/// Added to the diagonal, in parts of the mean variance.
const SHRINKAGE: f64 = 0.01;
/// Images that the mean of all positions counts as, beside those of the position itself.
const COMMON: f64 = 8.0;
/// K, the eigenvectors that are kept of a position's own covariance.
const VECTORS: usize = 16;
/// Images of a category from which on a position's own latents are enough.
const ENOUGH: f64 = 16.0;
/// The least weight with which another position takes part.
const LEAST_WEIGHT: f64 = 0.3;
/// The least that is added.
const FLOOR: f64 = 1e-6;
/// Eigenvalues that are not told from 0.
const LEAST: f64 = 1e-9;
/// Parts of a category's images, each held against what the others are like.
const FOLDS: usize = 5;

const OP: &str = "Prior";

/// Gaussians of the latents of normal images, one for each position p of each category.
///
/// With μ_p and S_p the mean and the covariance of a category's latents at p, μ_p drawn towards the
/// mean of all its positions as if 8 images more had that, and G the mean of S_p over the positions of
/// all categories: Σ_p = ½·S_p + ½·G + 0.01·tr(G)/C·I. The map of an image is the distance
/// √((z_p − μ_p)ᵀ·Σ_p⁻¹·(z_p − μ_p)) at each position, as in PaDiM (Defard et al., 2020), where
/// features are held against the positions' own covariances.
///
/// Of n < 16 images the positions around p take part in μ_p and S_p, those d steps away with a weight of
/// (1 − n/16)^d as long as that is at least 0.3: what lies there may lie at p in the next image.
///
/// All positions share W, with W·(Σ_p − ½·S_p)·Wᵀ = I. Of each position are kept m_p = W·μ_p and, with
/// (λ_k, u_k) the 16 largest eigenvalues of ½·W·S_p·Wᵀ and their vectors, the rows
/// v_k = √(λ_k/(1 + λ_k))·u_k of V_p: the distance is √(|y|² − |V_p·y|²) with y = W·z_p − m_p.
#[derive(Debug)]
pub struct Prior {
    weight: Tensor,
    packed: PackedWeight,
    categories: BTreeMap<String, Gaussians>,
}

/// The Gaussians of a category, in the coordinates that W leads to.
#[derive(Clone, Debug)]
pub struct Gaussians {
    /// m_p: (G², C).
    pub mean: Tensor,
    /// V_p: (G², K, C).
    pub vectors: Tensor,
}

impl Prior {
    /// The Gaussians of each category's latents, (n, G², C) with n ≥ 1 and the same G and C for all, on
    /// the CPU.
    ///
    /// Returned with them are the maps (n, G²) of the same images, each by Gaussians that are fitted to the
    /// others: to four fifths of the category's images, those that are left out following each other.
    /// The images themselves would seem far too normal, as a single one does, which has no others.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no latents or their shapes differ; [`Error::Argument`] if one is not
    /// finite.
    pub fn fit(latents: &[(String, Tensor)]) -> Result<(Self, Vec<Tensor>)> {
        let [positions, channels] = check(latents)?;
        let all: Vec<_> = latents.iter().map(|(_, z)| Latents::of(z)).collect::<Result<_>>()?;
        let scatters: Vec<_> = all.iter().map(Latents::scatter).collect();
        let share = 1.0 / latents.len() as f64;
        let mut pooled = DMatrix::zeros(channels, channels);
        scatters.iter().for_each(|own| pooled += own * share);
        let mut prior = Self::from_parts(common(&pooled)?, BTreeMap::new())?;
        let mut maps = Vec::with_capacity(latents.len());
        for ((category, z), (of, scatter)) in latents.iter().zip(all.iter().zip(&scatters)) {
            let y = prior.turned(z)?;
            let mut of_category =
                Tensor::zeros(&[of.images.len(), positions], DType::F32, Device::Cpu)?;
            for fold in of.folds() {
                let of_others = if of.beside > 0.0 {
                    let pooled = &pooled + (of.without(&fold).scatter() - scatter) * share;
                    Some(Self::from_parts(common(&pooled)?, BTreeMap::new())?.turned(z)?)
                } else {
                    None
                };
                let turned = Latents::of(of_others.as_ref().unwrap_or(&y))?;
                turned.hold_against_others(fold, &mut of_category)?;
            }
            maps.push(of_category);
            prior.categories.insert(category.clone(), Latents::of(&y)?.gaussians()?);
        }
        Ok((prior, maps))
    }

    /// A prior whose numbers are known. `weight`: W, (C, C).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit together.
    pub fn from_parts(weight: Tensor, categories: BTreeMap<String, Gaussians>) -> Result<Self> {
        let packed = PackedWeight::new(&weight)?;
        let [c, _] = packed.shape();
        expect_shape(OP, "weight", weight.shape(), &[c, c])?;
        let mut all = categories.values();
        if let Some(Gaussians { vectors, .. }) = all.clone().next() {
            let &[positions, k, _] = vectors.shape() else {
                let expected = format!("(G², K, {c})");
                return Err(Error::shape(OP, "vectors", expected, vectors.shape()));
            };
            all.try_for_each(|Gaussians { mean, vectors }| {
                expect_shape(OP, "mean", mean.shape(), &[positions, c])?;
                expect_shape(OP, "vectors", vectors.shape(), &[positions, k, c])
            })?;
        }
        Ok(Self { weight, packed, categories })
    }

    /// W, (C, C).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The Gaussians of each category.
    pub fn categories(&self) -> &BTreeMap<String, Gaussians> {
        &self.categories
    }

    /// ln det Σ_p at each position, less what all positions and categories share: beside the square of the
    /// distance it tells under which category a latent is likelier.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such category.
    pub fn log_determinants(&self, category: &str) -> Result<Vec<f32>> {
        let vectors = &self.gaussians(category)?.vectors;
        let &[positions, rank, channels] = vectors.shape() else { unreachable!("it was checked") };
        let mut logs = vec![0.0; positions];
        for (i, v) in vectors.to_vec_f32().chunks_exact(channels).enumerate() {
            // |v|² = λ/(1 + λ).
            let rest = 1.0 - v.iter().map(|v| v * v).sum::<f32>();
            logs[i / rank] -= rest.max(f32::EPSILON).ln();
        }
        Ok(logs)
    }

    fn gaussians(&self, category: &str) -> Result<&Gaussians> {
        self.categories.get(category).ok_or_else(|| {
            let known = self.categories.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::argument(OP, "category", format!("one of {known}"), category)
        })
    }

    /// The same prior on a device; on a GPU W is rounded to f16.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used; [`Error::OutOfMemory`] if it has not
    /// enough memory.
    pub fn on(&self, device: Device) -> Result<Self> {
        let there = |tensor: &Tensor| tensor.view().copied_to(device, DType::F32);
        let moved = |of: &Gaussians| -> Result<_> {
            Ok(Gaussians { mean: there(&of.mean)?, vectors: there(&of.vectors)? })
        };
        let categories = self.categories.iter().map(|(name, of)| Ok((name.clone(), moved(of)?)));
        Ok(Self {
            weight: there(&self.weight)?,
            packed: PackedWeight::on(device, &self.weight)?,
            categories: categories.collect::<Result<_>>()?,
        })
    }

    /// Turns latents by W. `z`: (…, C), f32; `y`: of the same shape, on a GPU f16 or f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit together.
    pub fn turn<'a>(
        &'a self,
        z: impl Into<TensorView<'a>>,
        y: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        ops::linear(z, &self.packed, None, Activation::None, None, y)
    }

    fn turned(&self, z: &Tensor) -> Result<Tensor> {
        let mut y = Tensor::zeros(z.shape(), DType::F32, Device::Cpu)?;
        self.turn(z, &mut y)?;
        Ok(y)
    }

    /// The maps of turned latents, as a category's images are judged. `y`: (B, …, C), as
    /// [`turn`](Self::turn) leaves it; `map`: (B, G²), written.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such category; [`Error::Shape`] if the shapes do not fit together.
    pub fn map<'a>(
        &'a self,
        category: &str,
        y: impl Into<TensorView<'a>>,
        map: impl Into<TensorViewMut<'a>>,
    ) -> Result<()> {
        let of = self.gaussians(category)?;
        ops::mahalanobis(y, &of.mean, &of.vectors, map)
    }
}

/// Positions and channels.
fn check(latents: &[(String, Tensor)]) -> Result<[usize; 2]> {
    let sizes = |z: &Tensor| match *z.shape() {
        [n, positions, c] if n * positions * c > 0 && positions.isqrt().pow(2) == positions => {
            Ok([positions, c])
        }
        _ => Err(Error::shape(OP, "latents", "(n, G², C), not empty", z.shape())),
    };
    let Some((_, first)) = latents.first() else {
        return Err(Error::shape(OP, "latents", "of one category or more", &[]));
    };
    let [positions, c] = sizes(first)?;
    for (_, z) in latents {
        if sizes(z)? != [positions, c] {
            return Err(Error::shape(OP, "latents", format!("(n, {positions}, {c})"), z.shape()));
        }
        let values = z.view().f32s(OP, "latents")?;
        if let Some(bad) = values.par_iter().find_any(|v| !v.is_finite()) {
            return Err(Error::argument(OP, "latents", "finite", bad));
        }
    }
    Ok([positions, c])
}

/// The deviations of position p from its mean, an image each column.
pub(crate) fn deviations(images: &[&[f32]], p: usize, mean: &[f64]) -> DMatrix<f64> {
    let c = mean.len();
    DMatrix::from_fn(c, images.len(), |k, i| f64::from(images[i][p * c + k]) - mean[k])
}

/// A category's latents, or some of them.
#[derive(Clone)]
struct Latents<'a> {
    /// (G², C) each.
    images: Vec<&'a [f32]>,
    side: usize,
    channels: usize,
    /// The weight of a position one step away.
    beside: f64,
}

impl<'a> Latents<'a> {
    /// `z`: (n, G², C).
    fn of(z: &'a Tensor) -> Result<Self> {
        let &[n, positions, channels] = z.shape() else { unreachable!("it was checked") };
        let images = z.view().f32s(OP, "latents")?.chunks_exact(positions * channels).collect();
        let beside = (1.0 - n as f64 / ENOUGH).max(0.0);
        Ok(Self { images, side: positions.isqrt(), channels, beside })
    }

    fn positions(&self) -> usize {
        self.side * self.side
    }

    /// The positions that take part in what is known of p, with weights whose sum is 1.
    fn around(&self, p: usize) -> Vec<(usize, f64)> {
        let place = |p: usize| (p / self.side, p % self.side);
        let (y, x) = place(p);
        let weighted = (0..self.positions()).map(|q| {
            let (v, u) = place(q);
            (q, self.beside.powi((v.abs_diff(y) + u.abs_diff(x)) as i32))
        });
        let weighted: Vec<_> = weighted.filter(|(_, weight)| *weight >= LEAST_WEIGHT).collect();
        let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        weighted.into_iter().map(|(q, weight)| (q, weight / sum)).collect()
    }

    /// μ_p of each position.
    fn means(&self) -> Vec<Vec<f64>> {
        let (channels, count) = (self.channels, self.images.len() as f64);
        let own = (0..self.positions()).into_par_iter().map(|p| {
            let mut mean = vec![0.0; channels];
            for image in &self.images {
                let token = &image[p * channels..][..channels];
                mean.iter_mut().zip(token).for_each(|(m, &v)| *m += f64::from(v) / count);
            }
            mean
        });
        let own: Vec<Vec<f64>> = own.collect();
        let mut common = vec![0.0; channels];
        for mean in &own {
            common.iter_mut().zip(mean).for_each(|(c, m)| *c += m / own.len() as f64);
        }
        let drawn = |p: usize| {
            let mut mean: Vec<f64> = common.iter().map(|c| COMMON * c / (count + COMMON)).collect();
            for (q, weight) in self.around(p) {
                let share = weight * count / (count + COMMON);
                mean.iter_mut().zip(&own[q]).for_each(|(m, o)| *m += share * o);
            }
            mean
        };
        (0..own.len()).map(drawn).collect()
    }

    /// D with S_p = D·Dᵀ: deviations from the mean, each times the root of its weight.
    fn deviations(&self, p: usize, mean: &[f64]) -> DMatrix<f64> {
        let n = self.images.len();
        let around = self.around(p);
        let mut all = DMatrix::zeros(self.channels, around.len() * n);
        for (i, &(q, weight)) in around.iter().enumerate() {
            let d = deviations(&self.images, q, mean) * (weight / n as f64).sqrt();
            all.columns_mut(i * n, n).copy_from(&d);
        }
        all
    }

    /// Of turned latents.
    fn gaussians(&self) -> Result<Gaussians> {
        let means = self.means();
        let rows = means
            .par_iter()
            .enumerate()
            .map(|(p, mean)| leading(self.deviations(p, mean) * OWN.sqrt()));
        let vectors: Vec<f32> = rows.flatten_iter().collect();
        let means = means.iter().flat_map(|mean| mean.iter().map(|&m| m as f32)).collect();
        let (positions, channels) = (self.positions(), self.channels);
        Ok(Gaussians {
            mean: Tensor::from_f32(means, &[positions, channels], Device::Cpu)?,
            vectors: Tensor::from_f32(vectors, &[positions, VECTORS, channels], Device::Cpu)?,
        })
    }

    /// The mean of S_p over the positions.
    fn scatter(&self) -> DMatrix<f64> {
        let at = self.means();
        let own = (0..self.positions()).into_par_iter().map(|p| {
            let d = self.deviations(p, &at[p]);
            &d * d.transpose()
        });
        // Added in the order of positions, whatever the number of threads.
        let own: Vec<_> = own.collect();
        let zero = DMatrix::zeros(self.channels, self.channels);
        own.iter().fold(zero, |sum, own| sum + own) / own.len() as f64
    }

    /// Parts of the images, which follow each other.
    fn folds(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.images.len();
        let folds = FOLDS.min(n);
        (0..folds).map(move |f| f * n / folds..(f + 1) * n / folds)
    }

    /// The others, or all if there are none.
    fn without(&self, part: &Range<usize>) -> Self {
        let others = [&self.images[..part.start], &self.images[part.end..]].concat();
        let images = if others.is_empty() { self.images.clone() } else { others };
        Self { images, ..*self }
    }

    /// Writes the maps of some of the turned latents, by Gaussians of the others. `maps`: (n, G²) of all.
    fn hold_against_others(&self, part: Range<usize>, maps: &mut Tensor) -> Result<()> {
        let positions = self.positions();
        let Gaussians { mean, vectors } = self.without(&part).gaussians()?;
        for i in part {
            let y = TensorView::from_slice(self.images[i], &[1, positions, self.channels])?;
            let map = maps.view_mut().part(i * positions, &[1, positions])?;
            ops::mahalanobis(y, &mean, &vectors, map)?;
        }
        Ok(())
    }
}

/// W from G: Λ^(−½)·Uᵀ of ½·G + 0.01·tr(G)/C·I = U·Λ·Uᵀ.
fn common(pooled: &DMatrix<f64>) -> Result<Tensor> {
    let channels = pooled.nrows();
    // Latents that do not differ at all are told from others all the same.
    let ridge = (SHRINKAGE * pooled.trace() / channels as f64).max(FLOOR);
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(pooled * (1.0 - OWN));
    let scaled = eigenvectors.column_iter().zip(eigenvalues.iter()).flat_map(|(vector, value)| {
        let scale = (value.max(0.0) + ridge).sqrt().recip();
        vector.iter().map(move |u| (u * scale) as f32).collect::<Vec<_>>()
    });
    Tensor::from_f32(scaled.collect(), &[channels, channels], Device::Cpu)
}

/// V_p from D with ½·W·S_p·Wᵀ = D·Dᵀ: K rows, those beyond the rank of D 0.
fn leading(d: DMatrix<f64>) -> Vec<f32> {
    // D·Dᵀ and Dᵀ·D have the same eigenvalues above 0; with Dᵀ·D·w = λ·w, u = D·w/√λ.
    let few = d.ncols() < d.nrows();
    let product = if few { d.transpose() * &d } else { &d * d.transpose() };
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(product);
    let mut order: Vec<usize> = (0..eigenvalues.len()).collect();
    order.sort_by(|&a, &b| eigenvalues[b].total_cmp(&eigenvalues[a]));
    let mut rows = vec![0.0; VECTORS * d.nrows()];
    for (row, &k) in rows.chunks_exact_mut(d.nrows()).zip(&order) {
        let value = eigenvalues[k];
        if value <= LEAST {
            break;
        }
        let (vector, scale) = if few {
            (&d * eigenvectors.column(k), 1.0 / (1.0 + value).sqrt())
        } else {
            (eigenvectors.column(k).into_owned(), (value / (1.0 + value)).sqrt())
        };
        row.iter_mut().zip(vector.iter()).for_each(|(r, u)| *r = (u * scale) as f32);
    }
    rows
}
