//! AdaLN-Zero: a gated residual, LayerNorm and its modulation in one operation.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// One vector of D numbers per image: columns `index`·D .. (`index` + 1)·D of a table of shape
/// (B, P·D), or of shape (1, P·D) where all images share a row.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The table of modulation vectors.
    pub table: TensorView<'a>,
    /// Which of the table's P vectors.
    pub index: usize,
}

impl<'a> Chunk<'a> {
    /// The table's rows and their length, if it has the chunk.
    fn check(
        &self,
        op: &'static str,
        arg: &'static str,
        images: usize,
        width: usize,
    ) -> Result<[usize; 2]> {
        let (shape, least) = (self.table.shape(), columns(self.index, width));
        match *shape {
            [rows, stride] if (rows == images || rows == 1) && least <= stride => {
                Ok([rows, stride])
            }
            _ => Err(Error::shape(op, arg, format!("(1 or {images}, at least {least})"), shape)),
        }
    }

    fn per_image(
        &self,
        op: &'static str,
        arg: &'static str,
        images: usize,
        width: usize,
    ) -> Result<cpu::PerImage<'a>> {
        let [rows, stride] = self.check(op, arg, images, width)?;
        let data = self.table.f32s(op, arg)?;
        Ok(cpu::PerImage { data, rows, stride, start: self.index * width })
    }
}

/// A branch's output `y` (B, N, D) and the gate by which it joins the residual stream.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// The branch's output.
    pub y: TensorView<'a>,
    /// The gate.
    pub gate: Chunk<'a>,
}

/// x_out = x + gate·y; out = LN(x_out)·(1 + scale) + shift, LN over D without affine, with `eps` under the
/// root of the variance.
///
/// `x`, `x_out`, `out`: (B, N, D). Without a `residual`, x_out is x and must not be passed.
/// `stats`: (B, N, 2), receives mean and 1/σ of each row, which the backward pass needs. On a GPU
/// `y` and `out` hold f16, `x` and `x_out` f32 or f16, and D is a multiple of 8 up to 8192.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together; [`Error::Argument`] if `x_out` is missing
/// where there is a residual, or given where there is none.
#[allow(clippy::too_many_arguments)]
pub fn adaln_zero<'a>(
    x: impl Into<TensorView<'a>>,
    residual: Option<Residual<'a>>,
    shift: Chunk<'a>,
    scale: Chunk<'a>,
    eps: f32,
    x_out: Option<TensorViewMut<'a>>,
    out: impl Into<TensorViewMut<'a>>,
    stats: Option<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "adaln_zero";
    let (x, out) = (x.into(), out.into());
    let [images, tokens, width] = activations(OP, "x", x.shape())?;
    expect_shape(OP, "out", out.shape(), x.shape())?;
    if residual.is_some() != x_out.is_some() {
        let expected = "given exactly where there is a residual";
        return Err(Error::argument(
            OP,
            "x_out",
            expected,
            if residual.is_some() { "none" } else { "some" },
        ));
    }
    if let Some(r) = &residual {
        expect_shape(OP, "y", r.y.shape(), x.shape())?;
    }
    if let Some(x_out) = &x_out {
        expect_shape(OP, "x_out", x_out.shape(), x.shape())?;
    }
    if let Some(stats) = &stats {
        expect_shape(OP, "stats", stats.shape(), &[images, tokens, 2])?;
    }
    shift.check(OP, "shift", images, width)?;
    scale.check(OP, "scale", images, width)?;
    residual.map_or(Ok([0; 2]), |r| r.gate.check(OP, "gate", images, width))?;
    on_gpu!(x, crate::cuda::ops::adaln_zero(x, residual, shift, scale, eps, x_out, out, stats));
    let residual = match &residual {
        Some(r) => Some((r.y.f32s(OP, "y")?, r.gate.per_image(OP, "gate", images, width)?)),
        None => None,
    };
    cpu::adaln_zero(
        x.f32s(OP, "x")?,
        residual,
        shift.per_image(OP, "shift", images, width)?,
        scale.per_image(OP, "scale", images, width)?,
        eps,
        x_out.map(|v| v.into_f32s(OP, "x_out")).transpose()?,
        out.into_f32s(OP, "out")?,
        stats.map(|v| v.into_f32s(OP, "stats")).transpose()?,
        (tokens, width),
    );
    Ok(())
}

/// What [`adaln_zero_backward`] needs of the residual, and the gradient of its branch.
#[derive(Debug)]
pub struct ResidualBackward<'a> {
    /// The branch's output and its gate, as in the forward pass.
    pub forward: Residual<'a>,
    /// Receives gate·dx, the gradient of `y`: (B, N, D).
    pub dy: TensorViewMut<'a>,
}

/// The gradients of [`adaln_zero`]'s inputs.
///
/// `x`: (B, N, D), the forward pass's x_out (or x where there was no residual); `stats`: as the
/// forward pass left them; `dout`: (B, N, D). `dx`: (B, N, D), on entry the gradient that reaches
/// x_out by other ways, on return the gradient of x. The sums over tokens for shift, scale and
/// gate are written into `dtable` (B, P·D) at the chunks' columns; the gate's index is the
/// residual's. On a GPU `x` holds f32 or f16, `y`, `dout` and `dy` f16, the others f32, and D is a
/// multiple of 8 up to 4096.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
#[allow(clippy::too_many_arguments)]
pub fn adaln_zero_backward<'a>(
    x: impl Into<TensorView<'a>>,
    stats: impl Into<TensorView<'a>>,
    shift_index: usize,
    scale: Chunk<'a>,
    dout: impl Into<TensorView<'a>>,
    dx: impl Into<TensorViewMut<'a>>,
    residual: Option<ResidualBackward<'a>>,
    dtable: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "adaln_zero_backward";
    let (x, stats, dout, dx) = (x.into(), stats.into(), dout.into(), dx.into());
    let dtable = dtable.into();
    let [images, tokens, width] = activations(OP, "x", x.shape())?;
    expect_shape(OP, "stats", stats.shape(), &[images, tokens, 2])?;
    expect_shape(OP, "dout", dout.shape(), x.shape())?;
    expect_shape(OP, "dx", dx.shape(), x.shape())?;
    let gate_index = residual.as_ref().map_or(0, |r| r.forward.gate.index);
    let least = columns(shift_index.max(scale.index).max(gate_index), width);
    let stride = match *dtable.shape() {
        [rows, stride] if rows == images && stride >= least => stride,
        _ => {
            let expected = format!("({images}, at least {least})");
            return Err(Error::shape(OP, "dtable", expected, dtable.shape()));
        }
    };
    if let Some(r) = &residual {
        expect_shape(OP, "y", r.forward.y.shape(), x.shape())?;
        expect_shape(OP, "dy", r.dy.shape(), x.shape())?;
        r.forward.gate.check(OP, "gate", images, width)?;
    }
    scale.check(OP, "scale", images, width)?;
    on_gpu!(
        x,
        crate::cuda::ops::adaln_zero_backward(
            x,
            stats,
            shift_index,
            scale,
            dout,
            dx,
            residual,
            dtable,
        )
    );
    let residual = match residual {
        Some(r) => {
            let gate = r.forward.gate.per_image(OP, "gate", images, width)?;
            Some((r.forward.y.f32s(OP, "y")?, gate, r.dy.into_f32s(OP, "dy")?))
        }
        None => None,
    };
    cpu::adaln_zero_backward(
        x.f32s(OP, "x")?,
        stats.f32s(OP, "stats")?,
        scale.per_image(OP, "scale", images, width)?,
        dout.f32s(OP, "dout")?,
        dx.into_f32s(OP, "dx")?,
        residual,
        dtable.into_f32s(OP, "dtable")?,
        (stride, shift_index * width, scale.index * width, gate_index * width),
        (tokens, width),
    );
    Ok(())
}

/// The columns that a table needs to have a vector `index`.
fn columns(index: usize, width: usize) -> usize {
    index.saturating_add(1).saturating_mul(width)
}

fn activations(op: &'static str, arg: &'static str, shape: &[usize]) -> Result<[usize; 3]> {
    match *shape {
        [b, n, d] if d > 0 => Ok([b, n, d]),
        _ => Err(Error::shape(op, arg, "(B, N, D)", shape)),
    }
}
