//! Multi-head self-attention.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// out = softmax(q·kᵀ / √d)·v, for each image and head.
///
/// `qkv`: (B, N, 3, H, d), as a projection to 3·D leaves it; `out`: (B, N, H·d). `lse`: (B, H, N),
/// receives the natural logarithm of each softmax's denominator, which the backward pass needs. On a GPU `qkv` and `out` hold f16, and d is
/// a multiple of 8 up to 256.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn attention<'a>(
    qkv: impl Into<TensorView<'a>>,
    out: impl Into<TensorViewMut<'a>>,
    lse: Option<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "attention";
    let (qkv, out) = (qkv.into(), out.into());
    let (images, h) = heads(OP, qkv.shape())?;
    expect_shape(OP, "out", out.shape(), &[images, h.tokens, h.heads * h.size])?;
    if let Some(lse) = &lse {
        expect_shape(OP, "lse", lse.shape(), &[images, h.heads, h.tokens])?;
    }
    on_gpu!(qkv, crate::cuda::ops::attention(qkv, out, lse));
    let lse = lse.map(|v| v.into_f32s(OP, "lse")).transpose()?;
    cpu::attention(qkv.f32s(OP, "qkv")?, out.into_f32s(OP, "out")?, lse, h);
    Ok(())
}

/// The gradient of [`attention`] with respect to `qkv`; nothing N × N is kept between the passes.
///
/// `qkv`, `out`, `lse`: as in the forward pass; `dout`: (B, N, H·d); `dqkv`: (B, N, 3, H, d),
/// written. On a GPU all but `lse` hold f16, and a gradient that exceeds it becomes infinite.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn attention_backward<'a>(
    qkv: impl Into<TensorView<'a>>,
    out: impl Into<TensorView<'a>>,
    lse: impl Into<TensorView<'a>>,
    dout: impl Into<TensorView<'a>>,
    dqkv: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "attention_backward";
    let (qkv, out, lse) = (qkv.into(), out.into(), lse.into());
    let (dout, dqkv) = (dout.into(), dqkv.into());
    let (images, h) = heads(OP, qkv.shape())?;
    expect_shape(OP, "out", out.shape(), &[images, h.tokens, h.heads * h.size])?;
    expect_shape(OP, "lse", lse.shape(), &[images, h.heads, h.tokens])?;
    expect_shape(OP, "dout", dout.shape(), out.shape())?;
    expect_shape(OP, "dqkv", dqkv.shape(), qkv.shape())?;
    on_gpu!(qkv, crate::cuda::ops::attention_backward(qkv, out, lse, dout, dqkv));
    cpu::attention_backward(
        qkv.f32s(OP, "qkv")?,
        out.f32s(OP, "out")?,
        lse.f32s(OP, "lse")?,
        dout.f32s(OP, "dout")?,
        dqkv.into_f32s(OP, "dqkv")?,
        h,
    );
    Ok(())
}

fn heads(op: &'static str, shape: &[usize]) -> Result<(usize, cpu::Heads)> {
    match *shape {
        [images, tokens, 3, heads, size] if tokens * heads * size > 0 => {
            Ok((images, cpu::Heads { tokens, heads, size }))
        }
        _ => Err(Error::shape(op, "qkv", "(B, N, 3, H, d)", shape)),
    }
}
