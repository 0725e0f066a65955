//! Linear layers, by cuBLASLt.

use super::Op;
use crate::cuda::gemm::{Operands, Product};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// y = activation(x · weightᵀ + bias + skip): x and weight f16, y f16 or f32, bias and skip of y's type.
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear(
    x: TensorView,
    weight: TensorView,
    bias: Option<TensorView>,
    activation: Activation,
    skip: Option<TensorView>,
    y: TensorViewMut,
    (m, k, n): (usize, usize, usize),
) -> Result<()> {
    const OP: &str = "linear";
    let op = Op::new(OP, "x", x.on_cuda())?;
    let gelu = match activation {
        Activation::None => false,
        Activation::Gelu => true,
        other => {
            let expected = "none or GELU on a GPU";
            return Err(Error::argument(OP, "activation", expected, format!("{other:?}")));
        }
    };
    if k == 0 {
        return Err(Error::shape(OP, "x", "(…, K ≥ 1)", x.shape()));
    }
    let dtype = y.dtype();
    let product = Product {
        m,
        n,
        k,
        wide: dtype == DType::F32,
        bias: bias.is_some(),
        gelu,
        skip: skip.is_some(),
    };
    let skip = skip.map(|skip| op.read("skip", skip, dtype)).transpose()?;
    let y_at = op.write("y", y, dtype)?;
    let operands = Operands {
        x: op.read("x", x, DType::F16)?,
        weight: op.read("weight", weight, DType::F16)?,
        bias: bias.map_or(Ok(0), |bias| op.read("bias", bias, dtype))?,
        skip: skip.unwrap_or(y_at),
        y: y_at,
    };
    // SAFETY: the operands have the product's shapes and types.
    unsafe { op.context.gemm()?.run(op.context, product, operands) }
}
