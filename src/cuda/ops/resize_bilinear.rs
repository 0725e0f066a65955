//! `kernels/resize_bilinear.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Bilinear resizing in f32.
pub(crate) fn resize_bilinear(x: TensorView, y: TensorViewMut) -> Result<()> {
    let op = Op::new("resize_bilinear", "x", x.on_cuda())?;
    let &[images, height, width, channels] = x.shape() else {
        unreachable!("the shape has been checked")
    };
    let (out_height, out_width) = (y.shape()[1], y.shape()[2]);
    let row = out_width * channels;
    op.int("y", row)?;
    let int = |arg, value| op.int(arg, value);
    let [height, width, channels] = [int("x", height)?, int("x", width)?, int("x", channels)?];
    let sizes = [int("y", out_height)?, int("y", out_width)?];
    let x = op.read("x", x, DType::F32)?;
    let y = op.write("y", y, DType::F32)?;
    let launch = Launch { grid: [row.div_ceil(256), out_height, images], block: 256, shared: 0 };
    let args = args![x, y, height, width, channels, sizes[0], sizes[1]];
    // SAFETY: x and y have these sizes.
    unsafe { op.launch("resize_bilinear", &[], launch, &args) }
}
