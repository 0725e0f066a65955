//! A backbone that remembers the features of images.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Backbone, BackboneSpec, Extractor, Packed};
use crate::device::Allocate;
use crate::error::Result;
use crate::tensor::{Device, TensorView, TensorViewMut};
use crate::types::Precision;

/// A backbone that on the CPU computes the features of an image once, for whoever sees the same images many times:
/// several detectors of one data set. Features are found again by the SHA-256 of what the backbone takes. They are the
/// same bits, since there they do not depend on the batch. On a GPU it is the other backbone itself.
#[derive(Clone, Debug)]
pub struct Remembered {
    of: Arc<dyn Backbone>,
    memory: Arc<Memory>,
}

struct Memory {
    /// Images that fit.
    most: usize,
    off: AtomicBool,
    features: Mutex<HashMap<[u8; 32], Arc<[f32]>>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Remembered {
    /// Remembers features of up to `bytes` bytes; those of further images are computed anew.
    pub fn new(of: Arc<dyn Backbone>, bytes: usize) -> Self {
        let image = of.spec().features().of(1).iter().product::<usize>() * size_of::<f32>();
        let most = bytes / image.max(1);
        let (off, features) = (AtomicBool::new(false), Mutex::default());
        Self { of, memory: Arc::new(Memory { most, off, features }) }
    }

    /// How many images are remembered.
    pub fn images(&self) -> usize {
        self.memory.features.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What `work` returns, which has all features computed: to measure how long that takes.
    pub fn without<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.memory.off.swap(true, Ordering::Relaxed);
        let done = work();
        self.memory.off.store(before, Ordering::Relaxed);
        done
    }
}

impl Backbone for Remembered {
    fn spec(&self) -> &BackboneSpec {
        self.of.spec()
    }

    fn pack(&self, device: Device, precision: Precision) -> Result<Arc<dyn Packed>> {
        let of = self.of.pack(device, precision)?;
        Ok(match device {
            Device::Cpu => Arc::new(RememberedPacked { of, memory: self.memory.clone() }),
            Device::Cuda(_) => of,
        })
    }
}

#[derive(Debug)]
struct RememberedPacked {
    of: Arc<dyn Packed>,
    memory: Arc<Memory>,
}

impl Packed for RememberedPacked {
    fn extractor(
        self: Arc<Self>,
        batch: usize,
        a: &mut dyn Allocate,
    ) -> Result<Box<dyn Extractor>> {
        let of = self.of.clone().extractor(batch, a)?;
        Ok(Box::new(RememberedExtractor { of, memory: self.memory.clone() }))
    }
}

struct RememberedExtractor {
    of: Box<dyn Extractor>,
    memory: Arc<Memory>,
}

impl Extractor for RememberedExtractor {
    fn extract(&mut self, rgb: TensorView<'_>, mut features: TensorViewMut<'_>) -> Result<()> {
        let (images, len) = (features.shape()[0], features.len());
        if self.memory.off.load(Ordering::Relaxed) || images == 0 {
            return self.of.extract(rgb, features);
        }
        let bytes = rgb.u8s("extract", "rgb")?;
        let key = |image: &[u8]| -> [u8; 32] { Sha256::digest(image).into() };
        let keys: Vec<_> = bytes.par_chunks_exact(bytes.len() / images).map(key).collect();
        let locked = || self.memory.features.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Option<Vec<_>> = {
            let all = locked();
            keys.iter().map(|key| all.get(key).cloned()).collect()
        };
        let Some(known) = known else {
            self.of.extract(rgb, features.reborrow())?;
            let computed = features.into_f32s("extract", "features")?;
            let mut all = locked();
            for (key, image) in keys.into_iter().zip(computed.chunks_exact(len / images)) {
                if all.len() < self.memory.most {
                    all.entry(key).or_insert_with(|| image.into());
                }
            }
            return Ok(());
        };
        let out = features.into_f32s("extract", "features")?;
        for (out, known) in out.chunks_exact_mut(len / images).zip(known) {
            out.copy_from_slice(&known);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::backbones::{Loaded, Workspace};
    use crate::tensor::{DType, Tensor};
    use image::{Rgb, RgbImage};

    /// Has the mean of each cell's bytes, and counts the images that it saw.
    #[derive(Debug)]
    struct Means(BackboneSpec, Arc<AtomicUsize>);

    impl Backbone for Means {
        fn spec(&self) -> &BackboneSpec {
            &self.0
        }

        fn pack(&self, _: Device, _: Precision) -> Result<Arc<dyn Packed>> {
            Ok(Arc::new(Counted(self.1.clone())))
        }
    }

    #[derive(Debug)]
    struct Counted(Arc<AtomicUsize>);

    impl Packed for Counted {
        fn extractor(
            self: Arc<Self>,
            _: usize,
            _: &mut dyn Allocate,
        ) -> Result<Box<dyn Extractor>> {
            struct Mean(Arc<AtomicUsize>);
            impl Extractor for Mean {
                fn extract(&mut self, rgb: TensorView<'_>, out: TensorViewMut<'_>) -> Result<()> {
                    let images = out.shape()[0];
                    self.0.fetch_add(images, Ordering::Relaxed);
                    let (bytes, cells) = (rgb.u8s("", "")?, out.len() / images);
                    let out = out.into_f32s("", "")?;
                    let each = bytes.len() / images;
                    for (out, image) in out.chunks_exact_mut(cells).zip(bytes.chunks_exact(each)) {
                        out.iter_mut().enumerate().for_each(|(i, v)| *v = f32::from(image[i]));
                    }
                    Ok(())
                }
            }
            Ok(Box::new(Mean(self.0.clone())))
        }
    }

    #[test]
    fn an_image_is_computed_once() {
        let seen = Arc::new(AtomicUsize::new(0));
        let of: Arc<dyn Backbone> =
            Arc::new(Means(BackboneSpec::new("means", "0", 8, 3, 2), seen.clone()));
        let image = |n: u8| RgbImage::from_fn(8, 8, |x, y| Rgb([n, 9 * x as u8, y as u8]));
        // Room for three images of 12 numbers.
        let remembered = Remembered::new(of, 3 * 12 * 4);
        let loaded = Loaded::new(Arc::new(remembered.clone()), Device::Cpu).unwrap();
        let mut space = Workspace::default();
        let mut extract = |images: &[u8]| {
            let images: Vec<_> = images.iter().map(|n| image(*n)).collect();
            let shape = [images.len(), 2, 2, 3];
            let mut features =
                Tensor::from_f32(vec![f32::NAN; 12 * images.len()], &shape, Device::Cpu).unwrap();
            loaded.extract(&images, &mut features, &mut space).unwrap();
            assert_eq!(features.view().dtype(), DType::F32);
            features.to_vec_f32()
        };
        let first = extract(&[1, 2]);
        assert_eq!(seen.load(Ordering::Relaxed), 2);
        let turned = extract(&[2, 1]);
        assert_eq!((&turned[..12], &turned[12..]), (&first[12..], &first[..12]));
        assert_eq!((seen.load(Ordering::Relaxed), remembered.images()), (2, 2));
        // Of a batch with an image that is new all are computed; the fourth has no room.
        let more = extract(&[1, 3, 4]);
        assert_eq!(more[..12], first[..12]);
        assert_eq!((seen.load(Ordering::Relaxed), remembered.images()), (5, 3));
        assert_eq!(remembered.without(|| extract(&[3])), more[12..24]);
        assert_eq!(seen.load(Ordering::Relaxed), 6);
        assert_eq!(extract(&[3]), more[12..24]);
        assert_eq!(seen.load(Ordering::Relaxed), 6);
    }
}
