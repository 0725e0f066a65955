//! `kernels/linear_quantised.cu`, and linear layers that quantise what they read with `kernels/quantise.cu`.

use super::Op;
use super::linear::Tiles;
use super::quantise::{self, Rows, require_int8};
use crate::cuda::launch::args;
use crate::error::{Error, Result};
use crate::ops::{Activation, Quantised};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// y = x · weightᵀ + bias of codes of int8 with a scale of each row: bias and y f32.
pub(crate) fn linear_quantised(
    x: Quantised,
    weight: Quantised,
    bias: Option<TensorView>,
    y: TensorViewMut,
    sizes: (usize, usize, usize),
) -> Result<()> {
    const OP: &str = "linear_quantised";
    let op = Op::new(OP, "x", x.codes.on_cuda())?;
    require_int8(OP, x.format)?;
    let (m, ..) = sizes;
    let x = Codes {
        address: op.aligned("x", op.read("x", x.codes, DType::U8)?)?,
        scales: scales(&op, "x's scales", x.scales, m)?,
    };
    let layer = Layer { bias, gelu: false, skip: None };
    multiply(&op, x, weight, layer, y, sizes)
}

/// The same of an x in f32 or f16, whose rows become codes: bias and residual of y's type, f16 or f32.
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear(
    name: &'static str,
    x: TensorView,
    weight: Quantised,
    bias: Option<TensorView>,
    activation: Activation,
    residual: Option<TensorView>,
    y: TensorViewMut,
    sizes: (usize, usize, usize),
) -> Result<()> {
    let op = Op::new(name, "x", x.on_cuda())?;
    let gelu = match activation {
        Activation::None => false,
        Activation::Gelu => true,
        other => {
            let expected = "none or GELU in its tanh form, with codes on a GPU";
            return Err(Error::argument(name, "activation", expected, format!("{other:?}")));
        }
    };
    let (m, k, n) = sizes;
    op.load("linear_quantised", &Tiles::of(&op, m, n).defines)?;
    let dtype = op.float("x", x.dtype())?;
    let rows = Rows { address: op.aligned("x", op.read("x", x, dtype)?)?, dtype, rows: m, k };
    // The scales come first, and leave codes aligned.
    let of_scales = (m * size_of::<f32>()).next_multiple_of(256);
    let scales = op.context.scratch(of_scales + m * k)?;
    let codes = Codes { address: scales + of_scales as u64, scales };
    // SAFETY: the scratch has room for the codes and scales of these rows.
    unsafe { quantise::launch(&op, rows, codes.address, codes.scales)? };
    multiply(&op, codes, weight, Layer { bias, gelu, skip: residual }, y, sizes)
}

/// Codes aligned to 16 bytes, and where the scale of each row is.
struct Codes {
    address: u64,
    scales: u64,
}

/// What follows a product.
struct Layer<'a> {
    bias: Option<TensorView<'a>>,
    gelu: bool,
    skip: Option<TensorView<'a>>,
}

fn multiply(
    op: &Op,
    x: Codes,
    weight: Quantised,
    layer: Layer,
    y: TensorViewMut,
    (m, k, n): (usize, usize, usize),
) -> Result<()> {
    if k == 0 || !k.is_multiple_of(16) {
        let expected = "(…, a multiple of 16) on a GPU";
        return Err(Error::shape(op.name, "x", expected, &[m, k]));
    }
    op.int("y", m * n)?;
    let dtype = op.float("y", y.dtype())?;
    let w_scales = scales(op, "weight's scales", weight.scales, n)?;
    let w = op.aligned("weight", op.read("weight", weight.codes, DType::U8)?)?;
    let bias = layer.bias.map(|bias| op.read("bias", bias, dtype)).transpose()?;
    let skip = layer.skip.map(|skip| op.read("residual", skip, dtype)).transpose()?;
    let y = op.write("y", y, dtype)?;
    let Tiles { defines, launch } = Tiles::of(op, m, n);
    let [rows, columns, terms] = [("x", m), ("weight", n), ("x", k)].map(|(arg, n)| op.int(arg, n));
    let (y_f16, gelu) = (super::is_f16(dtype), i32::from(layer.gelu));
    let args = args![
        x.address, x.scales, w, w_scales, bias, skip, y, rows?, columns?, terms?, y_f16, gelu
    ];
    // SAFETY: all have these sizes and types.
    unsafe { op.launch("linear_quantised", &defines, launch, &args) }
}

/// Where the scale of each row is.
fn scales(op: &Op, arg: &'static str, scales: TensorView, rows: usize) -> Result<u64> {
    if scales.len() != rows {
        return Err(Error::shape(op.name, arg, format!("[{rows}] on a GPU"), scales.shape()));
    }
    op.read(arg, scales, DType::F32)
}
