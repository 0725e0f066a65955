//! How a batch of images is shared out: to a host's threads, or to a GPU at once.

use rayon::prelude::*;

use crate::error::Result;
use crate::ops::{expect_axes, expect_shape};
use crate::tensor::{Device, TensorView, TensorViewMut};

/// What is computed at once: what memory is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub images: usize,
    /// The host's threads that work on it.
    pub threads: usize,
}

/// The memory to compute a batch with: on the host as many images as can be shared out evenly, a thread for each,
/// then the others one after another, all threads working on parts of one; on a GPU all images at once.
#[derive(Debug)]
pub(crate) enum Shared<S> {
    Host {
        images: usize,
        /// One for each thread, if there are so many images.
        alone: Vec<S>,
        /// For those that are left, if there are.
        together: Option<S>,
    },
    Gpu(S),
}

impl<S: Send> Shared<S> {
    /// For batches of `images` images.
    pub fn new(
        images: usize,
        device: Device,
        mut make: impl FnMut(Share) -> Result<S>,
    ) -> Result<Self> {
        if device != Device::Cpu {
            return Ok(Self::Gpu(make(Share { images, threads: 1 })?));
        }
        let threads = rayon::current_num_threads();
        let busy = if images < threads { 0 } else { threads };
        let alone = (0..busy).map(|_| make(Share { images: 1, threads: 1 }));
        let alone = alone.collect::<Result<_>>()?;
        let left = !images.is_multiple_of(threads);
        let together = left.then(|| make(Share { images: 1, threads })).transpose()?;
        Ok(Self::Host { images, alone, together })
    }

    /// Has `work` make features (B, G, H, C) of images of bytes (B, H, W, 3), part by part, with B the number of
    /// images that the memory is for.
    pub fn run(
        &mut self,
        rgb: TensorView,
        features: TensorViewMut,
        work: impl Fn(TensorView, TensorViewMut, &mut S) -> Result<()> + Sync,
    ) -> Result<()> {
        /// Images of each thread after which threads wait for each other: who has helped elsewhere in the
        /// meantime finds work again.
        const EACH: usize = 4;
        const OP: &str = "extract";
        let (images, alone, together) = match self {
            Self::Gpu(space) => return work(rgb, features, space),
            Self::Host { images, alone, together } => (*images, &mut alone[..], together),
        };
        let [b, height, width, c] = expect_axes(OP, "rgb", rgb.shape(), "(B, H, W, 3)")?;
        let [_, rows, columns, channels] =
            expect_axes(OP, "features", features.shape(), "(B, G, G, C)")?;
        expect_shape(OP, "rgb", &[b], &[images])?;
        expect_shape(OP, "features", features.shape(), &[images, rows, columns, channels])?;
        let (x, y) = (rgb.u8s(OP, "rgb")?, features.into_f32s(OP, "features")?);
        let (x_len, y_len) = (height * width * c, rows * columns * channels);
        if x.is_empty() || y.is_empty() {
            return Ok(());
        }
        let one = |(x, y): (&[u8], &mut [f32]), space: &mut S| {
            let x = TensorView::from_bytes(x, &[1, height, width, c])?;
            work(x, TensorViewMut::from_slice(y, &[1, rows, columns, channels])?, space)
        };
        let even = if alone.is_empty() { 0 } else { images - images % alone.len() };
        let (x, x_left) = x.split_at(even * x_len);
        let (y, y_left) = y.split_at_mut(even * y_len);
        let group = (EACH * alone.len()).max(1);
        for (x, y) in x.chunks(group * x_len).zip(y.chunks_mut(group * y_len)) {
            let each = x.len() / x_len / alone.len();
            let parts = x.par_chunks(each * x_len).zip(y.par_chunks_mut(each * y_len));
            parts.zip(&mut *alone).try_for_each(|((x, y), space)| {
                let mut images = x.chunks_exact(x_len).zip(y.chunks_exact_mut(y_len));
                images.try_for_each(|image| one(image, space))
            })?;
        }
        let mut left = x_left.chunks_exact(x_len).zip(y_left.chunks_exact_mut(y_len));
        match together {
            Some(space) => left.try_for_each(|image| one(image, space)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Tensor};

    /// Every image once, by a thread alone or by all of them.
    #[test]
    fn images_are_shared_out() {
        for (threads, images) in [(1, 3), (2, 1), (2, 9), (3, 31), (4, 4), (8, 3), (2, 0)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let rgb: Vec<u8> = (0..images * 12).map(|i| i as u8).collect();
                let rgb = TensorView::from_bytes(&rgb, &[images, 2, 2, 3]).unwrap();
                let mut y = Tensor::zeros(&[images, 1, 1, 2], DType::F32, Device::Cpu).unwrap();
                let mut shared = Shared::new(images, Device::Cpu, Ok).unwrap();
                let work = |x: TensorView, mut y: TensorViewMut, share: &mut Share| {
                    assert_eq!((x.shape(), y.shape()), (&[1, 2, 2, 3][..], &[1, 1, 1, 2][..]));
                    let before = y.view().to_vec_f32()[0];
                    y.copy_from_slice(&[before + x.to_vec_f32()[5], share.threads as f32])
                };
                shared.run(rgb, y.view_mut(), work).unwrap();
                let even = images / threads * threads;
                for (i, y) in y.to_vec_f32().chunks(2).enumerate() {
                    let by = if i < even { 1 } else { threads };
                    assert_eq!(y, [(12 * i + 5) as u8 as f32, by as f32], "{threads}, {images}");
                }
                let mut other =
                    Tensor::zeros(&[images + 1, 1, 1, 2], DType::F32, Device::Cpu).unwrap();
                shared.run(rgb, other.view_mut(), work).unwrap_err();
            });
        }
    }
}
