//! A gate for each channel: the excitation of squeeze-excite.

use super::{expect_axes, expect_shape};
use crate::cpu;
use crate::error::Result;
use crate::tensor::{TensorView, TensorViewMut};

/// x[b, i, j, c] ← x[b, i, j, c] · σ(gate[b, c]) (Hu et al., "Squeeze-and-Excitation Networks",
/// 2018).
///
/// `x`: (B, H, W, C), updated in place. `gate`: (B, C), before the sigmoid. On a GPU both hold f16,
/// and C is a multiple of 8.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes do not fit together.
pub fn channel_gate<'a>(
    x: impl Into<TensorViewMut<'a>>,
    gate: impl Into<TensorView<'a>>,
) -> Result<()> {
    const OP: &str = "channel_gate";
    let (x, gate) = (x.into(), gate.into());
    let [b, h, w, c] = expect_axes(OP, "x", x.shape(), "(B, H, W, C)")?;
    expect_shape(OP, "gate", gate.shape(), &[b, c])?;
    on_gpu!(x, crate::cuda::ops::channel_gate(x, gate));
    cpu::channel_gate(x.into_f32s(OP, "x")?, gate.f32s(OP, "gate")?, [h * w, c]);
    Ok(())
}
