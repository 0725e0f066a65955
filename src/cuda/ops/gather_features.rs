//! `kernels/gather_features.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// x (B, H, W, C) in f16, resized bilinearly to the grid of `features` (B, G, G, F) in f16 or f32, as
/// its channels from `first_channel` on; C, F and `first_channel` are multiples of 8.
pub(crate) fn gather_features(
    x: TensorView,
    features: TensorViewMut,
    first_channel: usize,
) -> Result<()> {
    const OP: &str = "gather_features";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let &[images, height, width, channels] = x.shape() else {
        unreachable!("the shape has been checked")
    };
    let (grid, all) = (features.shape()[1], features.shape()[3]);
    let eights = [channels, all, first_channel].iter().all(|n| n.is_multiple_of(8));
    if !eights {
        let expected = "channels, and a first one, in multiples of 8 on a GPU";
        let got = format!("{channels} of {all} from {first_channel} on");
        return Err(Error::argument(OP, "features", expected, got));
    }
    op.int("x", height * width * channels)?;
    let int = |value| op.int("features", value);
    let [h, w, c, g] = [int(height)?, int(width)?, int(channels)?, int(grid)?];
    let [all, first] = [int(all)?, int(first_channel)?];
    let dtype = op.float("features", features.dtype())?;
    let x = op.aligned("x", op.read("x", x, DType::F16)?)?;
    let features = op.aligned("features", op.write("features", features, dtype)?)?;
    let across = (grid * (channels / 8)).div_ceil(128);
    let launch = Launch { grid: [across, grid, images], block: 128, shared: 0 };
    let args = args![x, features, h, w, c, g, all, first, is_f16(dtype)];
    // SAFETY: the tensors have these sizes.
    unsafe { op.launch(OP, &[], launch, &args) }
}
