//! `kernels/channel_gate.cu`.

use super::Op;
use crate::cuda::SliceMut;
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// A gate for each channel of images in f16.
pub(crate) fn channel_gate(x: TensorViewMut, gate: TensorView) -> Result<()> {
    const OP: &str = "channel_gate";
    let [images, height, width, channels] = *x.shape() else {
        unreachable!("the shape has been checked")
    };
    if !channels.is_multiple_of(8) {
        let expected = "(B, H, W, C) with C a multiple of 8 on a GPU";
        return Err(Error::shape(OP, "x", expected, x.shape()));
    }
    let x = x.into_cuda().map(SliceMut::into_slice);
    let op = Op::new(OP, "x", x)?;
    let count = height * width * channels;
    op.int("x", count)?;
    let [pixels, c] = [op.int("x", height * width)?, op.int("x", channels)?];
    let x = op.aligned("x", op.address("x", x, DType::F16)?)?;
    let gate = op.aligned("gate", op.read("gate", gate, DType::F16)?)?;
    let launch = Launch { grid: [count.div_ceil(2048), images, 1], block: 256, shared: 0 };
    // SAFETY: x has `pixels` rows of `c` numbers for each image, gate one row; x is the only way to
    // what is written.
    unsafe { op.launch("channel_gate", &[], launch, &args![x, gate, pixels, c]) }
}
