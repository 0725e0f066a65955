//! Linear layers, by cuBLASLt or `kernels/linear.cu`, with `kernels/to_f16.cu` and `kernels/gelu.cu`.

use super::column_sums::{Slabs, column_sums};
use super::{Op, gelu};
use crate::cuda::context::Linear;
use crate::cuda::gemm::{Form, Gelu, Operands, Product};
use crate::cuda::launch::{Define, Launch, args};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Rows of which a bias's gradient is first summed.
const SLAB: usize = 256;

/// How an output is shared out by the kernels of `kernels/include/linear.cuh`.
pub(super) struct Tiles {
    pub defines: [Define; 1],
    pub launch: Launch,
}

impl Tiles {
    /// Of an output (m, n). Bits do not depend on the choice.
    pub fn of(op: &Op, m: usize, n: usize) -> Self {
        let multiprocessors = op.context.limits.multiprocessors;
        let count = |tile| m.div_ceil(tile) * n.div_ceil(tile);
        // Large ones are computed with fewer reads, if every multiprocessor has one.
        let tile = if count(128) < multiprocessors { 64 } else { 128 };
        // As many as multiprocessors hold.
        let blocks = if tile == 64 { 4 } else { 2 } * multiprocessors;
        let grid = [count(tile).min(blocks), 1, 1];
        let launch = Launch { grid, block: 128, shared: 49_152 };
        Self { defines: [("TILE", tile as i64)], launch }
    }
}

/// y = activation(x · weightᵀ + bias + residual): x f32 (then rounded) or f16, weight f16, y f16 or f32, bias and
/// residual of y's type, before_activation f16 as y must then be.
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear(
    name: &'static str,
    x: TensorView,
    weight: TensorView,
    bias: Option<TensorView>,
    activation: Activation,
    before_activation: Option<TensorViewMut>,
    residual: Option<TensorView>,
    y: TensorViewMut,
    (m, k, n): (usize, usize, usize),
) -> Result<()> {
    let op = Op::new(name, "x", x.on_cuda())?;
    let kind = match (activation, &before_activation) {
        // cuBLASLt has the tanh form alone.
        (Activation::None | Activation::GeluErf, None) => Gelu::None,
        (Activation::Gelu, None) => Gelu::Applied,
        (Activation::Gelu, Some(_)) => Gelu::Kept,
        (Activation::None | Activation::GeluErf, Some(_)) => {
            let expected = "none without GELU in its tanh form, on a GPU";
            return Err(Error::argument(name, "before_activation", expected, "some"));
        }
        (other, _) => {
            let expected = "none or GELU on a GPU";
            return Err(Error::argument(name, "activation", expected, format!("{other:?}")));
        }
    };
    if k == 0 {
        return Err(Error::shape(name, "x", "(…, K ≥ 1)", x.shape()));
    }
    let erf = activation == Activation::GeluErf;
    let narrow = kind == Gelu::Kept || erf;
    let dtype = if narrow { DType::F16 } else { op.float("y", y.dtype())? };
    let numbers = if erf { gelu::numbers(&op, "y", y.shape())? } else { 0 };
    if erf {
        op.load("gelu", &[])?;
    }
    let tiles = (op.context.linear == Linear::Own).then(|| Tiles::of(&op, m, n));
    if let Some(tiles) = &tiles {
        op.load("linear", &tiles.defines)?;
    }
    let product = Product {
        form: Form::Output,
        m,
        n,
        k,
        wide: dtype == DType::F32,
        bias: bias.is_some(),
        gelu: kind,
        skip: residual.is_some(),
    };
    let residual = residual.map(|r| op.read("residual", r, dtype)).transpose()?;
    let kept = match before_activation {
        Some(kept) => {
            check_kept(&op, "before_activation", kept.shape())?;
            op.aligned("before_activation", op.write("before_activation", kept, DType::F16)?)?
        }
        None => 0,
    };
    let y = op.write("y", y, dtype)?;
    let operands = Operands {
        left: op.read("weight", weight, DType::F16)?,
        right: halves(&op, "x", x)?,
        // cuBLASLt takes it for aligned, and cannot be told otherwise.
        bias: bias.map_or(Ok(0), |bias| op.aligned("bias", op.read("bias", bias, dtype)?))?,
        kept,
        skip: residual.unwrap_or(y),
        result: if erf { op.aligned("y", y)? } else { y },
    };
    // SAFETY: the operands have the product's shapes and types; y has `numbers` numbers.
    unsafe {
        match tiles {
            Some(tiles) => own(&op, tiles, product, operands)?,
            None => op.product(product, operands)?,
        }
        if erf { gelu::launch(&op, y, y, numbers, true) } else { Ok(()) }
    }
}

/// Queues a product that is an output, without cuBLASLt.
///
/// # Safety
/// Memory of the product's shapes and types is behind the addresses.
unsafe fn own(op: &Op, tiles: Tiles, product: Product, at: Operands) -> Result<()> {
    let Product { m, n, k, wide, gelu, skip, .. } = product;
    op.int("y", m * n)?;
    let [m, n, k] = [("x", m), ("weight", n), ("x", k)].map(|(arg, n)| op.int(arg, n));
    let skip = skip.then_some(at.skip);
    let (y_f16, gelu) = (i32::from(!wide), i32::from(gelu != Gelu::None));
    let args = args![at.right, at.left, at.bias, skip, at.kept, at.result, m?, n?, k?, y_f16, gelu];
    // SAFETY: the caller vouches for it.
    unsafe { op.launch("linear", &tiles.defines, tiles.launch, &args) }
}

/// dx = (dy · weight) ∘ GELU′(gelu_input): dy f32 (then rounded) or f16, weight f16, dx f16 or f32;
/// gelu_input f16, as dx must then be.
pub(crate) fn linear_backward_input(
    dy: TensorView,
    weight: TensorView,
    gelu_input: Option<TensorView>,
    dx: TensorViewMut,
    (m, k, n): (usize, usize, usize),
) -> Result<()> {
    const OP: &str = "linear_backward_input";
    let op = Op::new(OP, "dy", dy.on_cuda())?;
    if n == 0 {
        return Err(Error::shape(OP, "dy", "(…, N ≥ 1)", dy.shape()));
    }
    let dtype = if gelu_input.is_some() { DType::F16 } else { op.float("dx", dx.dtype())? };
    let product = Product {
        form: Form::InputGradient,
        m,
        n,
        k,
        wide: dtype == DType::F32,
        bias: false,
        gelu: if gelu_input.is_some() { Gelu::Slope } else { Gelu::None },
        skip: false,
    };
    let kept = match gelu_input {
        Some(at) => {
            check_kept(&op, "gelu_input", at.shape())?;
            op.aligned("gelu_input", op.read("gelu_input", at, DType::F16)?)?
        }
        None => 0,
    };
    let dx = op.write("dx", dx, dtype)?;
    let left = op.read("weight", weight, DType::F16)?;
    let operands =
        Operands { left, right: halves(&op, "dy", dy)?, bias: 0, kept, skip: dx, result: dx };
    // SAFETY: the operands have the product's shapes and types.
    unsafe { op.product(product, operands) }
}

/// dweight += dyᵀ · x and dbias += Σ dy over rows, both f32: dy f32 (then rounded for the product) or
/// f16, x f16.
pub(crate) fn linear_backward_weight(
    dy: TensorView,
    x: TensorView,
    dweight: TensorViewMut,
    dbias: Option<TensorViewMut>,
    (m, k, n): (usize, usize, usize),
) -> Result<()> {
    const OP: &str = "linear_backward_weight";
    let op = Op::new(OP, "dy", dy.on_cuda())?;
    if dbias.is_some() {
        op.load("column_sums", &[])?;
    }
    let product = Product {
        form: Form::WeightGradient,
        m,
        n,
        k,
        wide: true,
        bias: false,
        gelu: Gelu::None,
        skip: true,
    };
    let left = op.read("x", x, DType::F16)?;
    let dweight = op.write("dweight", dweight, DType::F32)?;
    let dbias = dbias.map(|dbias| op.write("dbias", dbias, DType::F32)).transpose()?;
    let right = halves(&op, "dy", dy)?;
    let operands = Operands { left, right, bias: 0, kept: 0, skip: dweight, result: dweight };
    // SAFETY: the operands have the product's shapes and types.
    unsafe { op.product(product, operands)? };
    let Some(dbias) = dbias.filter(|_| m > 0) else { return Ok(()) };
    let dtype = dy.dtype();
    let address = op.read("dy", dy, dtype)?;
    let all = Slabs { address, dtype, rows: m, columns: n, stride: n, slab: SLAB };
    if m <= SLAB {
        // SAFETY: dy has m rows of n numbers, dbias one.
        return unsafe { column_sums(&op, all, &[dbias], n, true) };
    }
    let slabs = m.div_ceil(SLAB);
    let address = op.context.scratch(bias_scratch(m, n))?;
    let sums =
        Slabs { address, dtype: DType::F32, rows: slabs, columns: n, stride: n, slab: slabs };
    // SAFETY: dy has m rows of n numbers, the scratch one for each slab, dbias one.
    unsafe {
        column_sums(&op, all, &[address], n, false)?;
        column_sums(&op, sums, &[dbias], n, true)
    }
}

/// The address of an argument in f16, rounded if it is f32.
fn halves(op: &Op, arg: &'static str, x: TensorView) -> Result<u64> {
    if x.dtype() != DType::F32 {
        return op.read(arg, x, DType::F16);
    }
    let count = x.len();
    let n = op.int(arg, count)?;
    let from = op.aligned(arg, op.read(arg, x, DType::F32)?)?;
    let to = op.context.scratch(rounding_scratch(count))?;
    let launch = Launch { grid: [count.div_ceil(2048), 1, 1], block: 256, shared: 0 };
    // SAFETY: both have n numbers.
    unsafe { op.launch("to_f16", &[], launch, &args![from, to, n])? };
    Ok(to)
}

/// Scratch bytes for the gradient of a layer's weight and bias where `dy` (m, n) is f32 or f16.
pub(crate) fn linear_backward_scratch(m: usize, n: usize, dy: DType) -> usize {
    let rounding = if dy == DType::F32 { rounding_scratch(m * n) } else { 0 };
    rounding.max(bias_scratch(m, n))
}

fn rounding_scratch(count: usize) -> usize {
    count * DType::F16.size()
}

fn bias_scratch(m: usize, n: usize) -> usize {
    if m <= SLAB { 0 } else { m.div_ceil(SLAB) * n * size_of::<f32>() }
}

/// Checks what cuBLASLt asks of what GELU is applied to.
fn check_kept(op: &Op, arg: &'static str, shape: &[usize]) -> Result<()> {
    match shape.last() {
        Some(last) if last.is_multiple_of(8) => Ok(()),
        _ => Err(Error::shape(op.name, arg, "(…, a multiple of 8) on a GPU", shape)),
    }
}
