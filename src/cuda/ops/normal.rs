//! `kernels/normal.cu`.

use super::Op;
use crate::cuda::SliceMut;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::ops::Random;
use crate::tensor::{DType, TensorViewMut};

/// Normal numbers in f32, those of the host.
pub(crate) fn normal(random: Random, out: TensorViewMut) -> Result<()> {
    let count = out.len();
    let out = out.into_cuda().map(SliceMut::into_slice);
    let op = Op::new("normal", "out", out)?;
    let out = op.address("out", out, DType::F32)?;
    let n = op.int("out", count)?;
    let launch = Launch { grid: [count.div_ceil(1024), 1, 1], block: 256, shared: 0 };
    let key = [random.seed as i32, (random.seed >> 32) as i32];
    let args = args![out, n, key[0], key[1], random.stream as i32, random.step as i32];
    // SAFETY: out has n numbers.
    unsafe { op.launch("normal", &[], launch, &args) }
}
