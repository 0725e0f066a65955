//! `kernels/channel_mean.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// The mean over an image's pixels in f16.
pub(crate) fn channel_mean(x: TensorView, mean: TensorViewMut) -> Result<()> {
    const OP: &str = "channel_mean";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let &[images, height, width, channels] = x.shape() else {
        unreachable!("the shape has been checked")
    };
    if !channels.is_multiple_of(8) {
        let expected = "(B, H, W, C) with C a multiple of 8 on a GPU";
        return Err(Error::shape(OP, "x", expected, x.shape()));
    }
    let [pixels, c] = [op.int("x", height * width)?, op.int("x", channels)?];
    let x = op.aligned("x", op.read("x", x, DType::F16)?)?;
    let mean = op.write("mean", mean, DType::F16)?;
    let launch = Launch { grid: [channels.div_ceil(64), images, 1], block: 256, shared: 0 };
    // SAFETY: x has `pixels` rows of `c` numbers for each image, mean one row.
    unsafe { op.launch("channel_mean", &[], launch, &args![x, mean, pixels, c]) }
}
