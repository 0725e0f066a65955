//! `kernels/gather_tokens.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// The last T tokens of x (B, N, D) as channels of `features` (B, T, F) from `first_channel` on; either holds f16 or
/// f32, and D, F and `first_channel` are multiples of 8.
pub(crate) fn gather_tokens(
    x: TensorView,
    features: TensorViewMut,
    first_channel: usize,
) -> Result<()> {
    const OP: &str = "gather_tokens";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let (&[images, n, d], &[_, t, all]) = (x.shape(), features.shape()) else {
        unreachable!("the shapes have been checked")
    };
    if ![d, all, first_channel].iter().all(|n| n.is_multiple_of(8)) {
        let expected = "channels, and a first one, in multiples of 8 on a GPU";
        let got = format!("{d} of {all} from {first_channel} on");
        return Err(Error::argument(OP, "features", expected, got));
    }
    op.int("x", n * d)?;
    let int = |value| op.int("features", value);
    let (tokens, width) = (int(n)?, int(d)?);
    let [taken, channels, first] = [int(t)?, int(all)?, int(first_channel)?];
    let (from, to) = (op.float("x", x.dtype())?, op.float("features", features.dtype())?);
    let x = op.aligned("x", op.read("x", x, from)?)?;
    let features = op.aligned("features", op.write("features", features, to)?)?;
    let launch = Launch { grid: [(t * d).div_ceil(2048), images, 1], block: 256, shared: 0 };
    let (x_f16, features_f16) = (is_f16(from), is_f16(to));
    let args = args![x, features, tokens, width, taken, channels, first, x_f16, features_f16];
    // SAFETY: the tensors have these sizes.
    unsafe { op.launch(OP, &[], launch, &args) }
}
