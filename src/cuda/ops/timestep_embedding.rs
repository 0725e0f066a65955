//! `kernels/timestep_embedding.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Bytes of the table of frequencies of 256 features.
pub(crate) const TIMESTEP_TABLE_BYTES: usize = 128 * size_of::<f32>();

/// The embedding of timesteps (f32) in f16, with the frequencies whose bits these are.
pub(crate) fn timestep_embedding(
    t: TensorView,
    frequencies: &[u32],
    out: TensorViewMut,
) -> Result<()> {
    let op = Op::new("timestep_embedding", "t", t.on_cuda())?;
    let (images, count) = (t.len(), frequencies.len());
    let n = op.int("out", count)?;
    let t = op.read("t", t, DType::F32)?;
    let out = op.write("out", out, DType::F16)?;
    let frequencies: Vec<f32> = frequencies.iter().map(|&bits| f32::from_bits(bits)).collect();
    let frequencies = op.context.table("frequencies", &frequencies)?;
    let launch = Launch { grid: [images, count.div_ceil(128), 1], block: 128, shared: 0 };
    // SAFETY: t has a number for each row of blocks, the table n, out 2n for each row of blocks.
    unsafe { op.launch("timestep_embedding", &[], launch, &args![t, frequencies, out, n]) }
}
