//! `kernels/squeeze_excite.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};

/// The gate (B, M) in f16, before the sigmoid, of images of so many pixels from their sums (B, S, M); layers are a
/// weight (R, M) and a bias, all in f32.
pub(crate) fn squeeze_excite(
    sums: TensorView,
    pixels: usize,
    [reduce, expand]: &[[Tensor; 2]; 2],
    gate: TensorViewMut,
) -> Result<()> {
    const OP: &str = "squeeze_excite";
    let op = Op::new(OP, "sums", sums.on_cuda())?;
    let &[images, count, channels] = sums.shape() else { unreachable!("sums have three axes") };
    let reduced = reduce[1].len();
    assert!(reduce[0].len() == reduced * channels && expand[0].len() == reduced * channels);
    assert!(expand[1].len() == channels && gate.len() == images * channels);
    if channels + reduced > 12_288 - 512 {
        let expected = "at most 11776 channels, the reduced ones among them, on a GPU";
        return Err(Error::argument(OP, "reduce", expected, channels + reduced));
    }
    let parts = (16 / channels.div_ceil(32)).max(1);
    let shared = size_of::<f32>() * (parts * channels + reduced);
    let launch = Launch { grid: [images, 1, 1], block: 512, shared: shared as u32 };
    let int = |value| op.int("sums", value);
    let [count, pixels, m, r] = [int(count)?, int(pixels)?, int(channels)?, int(reduced)?];
    let sums = op.read("sums", sums, DType::F32)?;
    let layer = |arg, layer: &[Tensor; 2]| -> Result<_> {
        let [weight, bias] = layer.each_ref().map(|tensor| op.read(arg, tensor.view(), DType::F32));
        Ok((weight?, bias?))
    };
    let ((reduce, reduce_bias), (expand, expand_bias)) =
        (layer("reduce", reduce)?, layer("expand", expand)?);
    let gate = op.write("gate", gate, DType::F16)?;
    let args = args![sums, reduce, reduce_bias, expand, expand_bias, gate, count, pixels, m, r];
    // SAFETY: the tensors have these sizes.
    unsafe { op.launch(OP, &[], launch, &args) }
}
