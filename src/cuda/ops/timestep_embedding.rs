//! `kernels/timestep_embedding.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Bytes of the table of frequencies.
pub(crate) const TIMESTEP_TABLE_BYTES: usize = 128 * size_of::<f32>();

/// The embedding of timesteps (f32) in f16, with the frequencies whose bits these are.
pub(crate) fn timestep_embedding(
    t: TensorView,
    frequencies: &[u32; 128],
    out: TensorViewMut,
) -> Result<()> {
    let op = Op::new("timestep_embedding", "t", t.on_cuda())?;
    let images = t.len();
    let t = op.read("t", t, DType::F32)?;
    let out = op.write("out", out, DType::F16)?;
    let frequencies = op.context.table("frequencies", &frequencies.map(f32::from_bits))?;
    let launch = Launch { grid: [images, 1, 1], block: 128, shared: 0 };
    // SAFETY: t has a number for each block, the table 128 in all, out 256 for each block.
    unsafe { op.launch("timestep_embedding", &[], launch, &args![t, frequencies, out]) }
}
