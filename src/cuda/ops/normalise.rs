//! `kernels/normalise.cu`.

use super::{Op, is_f16};
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Bytes (…, 3) as f32 or f16, normalised.
pub(crate) fn normalise(
    rgb: TensorView,
    mean: [f32; 3],
    std: [f32; 3],
    y: TensorViewMut,
) -> Result<()> {
    let op = Op::new("normalise", "rgb", rgb.on_cuda())?;
    let (dtype, count) = (op.float("y", y.dtype())?, y.len());
    let n = op.int("y", count)?;
    let rgb = op.read("rgb", rgb, DType::U8)?;
    let y = op.aligned("y", op.write("y", y, dtype)?)?;
    let [[fr, fg, fb], [or, og, ob]] = factors(mean, std);
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    let args = args![rgb, y, n, fr, fg, fb, or, og, ob, is_f16(dtype)];
    // SAFETY: both have n numbers.
    unsafe { op.launch("normalise", &[], launch, &args) }
}

/// What bytes of red, green and blue are multiplied by, and what is added then.
pub(crate) fn factors(mean: [f32; 3], std: [f32; 3]) -> [[f32; 3]; 2] {
    [std.map(|std| 1.0 / (255.0 * std)), [0, 1, 2].map(|i| -mean[i] / std[i])]
}
