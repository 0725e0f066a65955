//! Work that a GPU records when it first runs, and runs again with one call.

use crate::cpu;
use crate::cuda::Graph;
use crate::error::Result;
use crate::tensor::{DType, Device, Shape, TensorView};

/// What recorded work depends on: which work it is, and the tensor that it is given. Another view of the same
/// memory may be of another dtype or shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key<W> {
    work: W,
    address: u64,
    dtype: DType,
    shape: Shape,
}

impl<W> Key<W> {
    /// The key of work on a tensor.
    pub fn new(work: W, tensor: TensorView) -> Result<Self> {
        Ok(Self {
            work,
            // Work on the host is not recorded.
            address: tensor.on_cuda().map_or(0, |slice| slice.address()),
            dtype: tensor.dtype(),
            shape: Shape::new("Key", tensor.shape())?,
        })
    }
}

/// The works that were recorded last, if they were on a GPU. A recording keeps the memory that the work uses.
#[derive(Debug)]
pub struct Replay<W> {
    /// The last at the end.
    recorded: Vec<(Key<W>, Graph)>,
    most: usize,
}

impl<W> Default for Replay<W> {
    /// Of one work.
    fn default() -> Self {
        Self::of(1)
    }
}

impl<W> Replay<W> {
    /// Of at most so many works, which take turns; at least one.
    pub fn of(most: usize) -> Self {
        Self { recorded: Vec::new(), most }
    }
}

impl<W: PartialEq> Replay<W> {
    /// Runs `work`: on a GPU as it was recorded, if that was under the same key, or for real, to be recorded; on
    /// the host on a thread of the pool. The key's work tells it from all other work that this is given.
    ///
    /// # Errors
    /// What `work` returns; those of [`Graph::record`].
    pub fn run(
        &mut self,
        device: Device,
        key: Key<W>,
        work: impl FnMut() -> Result<()> + Send,
    ) -> Result<()> {
        if device == Device::Cpu {
            return cpu::in_pool(work);
        }
        if let Some((_, graph)) = self.recorded.iter_mut().find(|(of, _)| *of == key) {
            return graph.run();
        }
        // Before another takes memory.
        let over = (self.recorded.len() + 1).saturating_sub(self.most);
        self.recorded.drain(..over);
        self.recorded.push((key, Graph::record(device, work)?));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    /// Keys of views of one place: on the host all have the address 0.
    #[test]
    fn keys_tell_works_dtypes_and_shapes() {
        let of = |work: u8, dtype, shape: &[usize]| {
            let tensor = Tensor::zeros(shape, dtype, Device::Cpu).unwrap();
            Key::new(work, tensor.view()).unwrap()
        };
        let key = of(1, DType::F32, &[2, 3]);
        assert_eq!(key, of(1, DType::F32, &[2, 3]));
        assert_ne!(key, of(2, DType::F32, &[2, 3]));
        assert_ne!(key, of(1, DType::F16, &[2, 3]));
        assert_ne!(key, of(1, DType::F32, &[3, 2]));
        assert_ne!(key, of(1, DType::F32, &[6]));
    }
}
