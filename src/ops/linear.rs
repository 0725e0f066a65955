//! Linear layers.

use std::fmt;

use super::linear_quantised::require_terms;
use super::{Activation, expect_shape};
use crate::cpu::{self, gemm};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::tensor::{DType, Tensor};
use crate::tensor::{Device, TensorView, TensorViewMut};
#[cfg(feature = "cuda")]
use crate::types::EightBits;
use crate::types::{Precision, Products};

/// A weight that is used again and again, laid out for the device's matrix product.
pub struct PackedWeight(Packed, [usize; 2]);

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedWeight {:?}", self.1)
    }
}

enum Packed {
    Cpu(gemm::Packed),
    /// As it is, in f16.
    #[cfg(feature = "cuda")]
    Cuda(Tensor),
    /// As codes of int8, and a scale of each row.
    #[cfg(feature = "cuda")]
    CudaCodes(Tensor, Tensor),
}

impl PackedWeight {
    /// Packs a weight of shape (N, K) for the device it is on.
    ///
    /// # Errors
    /// [`Error::Shape`] if `weight` has not two axes.
    pub fn new<'a>(weight: impl Into<TensorView<'a>>) -> Result<Self> {
        let weight = weight.into();
        Self::on(weight.device(), weight)
    }

    /// Packs a weight of shape (N, K) for a device: as f32 for the CPU, rounded to f16 for a GPU.
    ///
    /// # Errors
    /// [`Error::Shape`] if `weight` has not two axes; [`Error::Device`] if it is on a GPU and wanted
    /// elsewhere; [`Error::OutOfMemory`] if a GPU has not enough memory.
    pub fn on<'a>(device: Device, weight: impl Into<TensorView<'a>>) -> Result<Self> {
        Self::by(gemm::Packed::new, device, weight.into())
    }

    /// Packs a weight for an x whose rows 2i and 2i + 1 belong together, as two tokens of an image do.
    ///
    /// On a CPU large products are then computed by Strassen's algorithm where that is faster. It takes
    /// 7/4 of the memory, and rounding errors are a few times larger; those of a row depend on its
    /// partner as well, on no other row. A number that is not finite reaches the partner, too.
    ///
    /// # Errors
    /// As for [`PackedWeight::on`].
    pub fn in_pairs<'a>(device: Device, weight: impl Into<TensorView<'a>>) -> Result<Self> {
        Self::by(gemm::Packed::in_pairs, device, weight.into())
    }

    /// Packs a weight for products of other numbers than the device's own. Those of eight bits have a scale of each row
    /// of the weight; the rows of x become the same, and a product is that of [`linear_quantised`](super::linear_quantised)
    /// of what [`quantise`](super::quantise) makes of both.
    ///
    /// # Errors
    /// As for [`PackedWeight::on`]; those of [`Precision::require`]; [`Error::Argument`] for int8 if K is above 133,144.
    pub fn with_products<'a>(
        device: Device,
        products: Products,
        weight: impl Into<TensorView<'a>>,
    ) -> Result<Self> {
        const OP: &str = "PackedWeight::with_products";
        let weight = weight.into();
        let [_, k] = matrix(OP, "weight", weight.shape())?;
        Precision::of(device).with_products(Some(products)).require(OP, device)?;
        if let Some(format) = products.eight_bits() {
            require_terms(OP, format, k)?;
        }
        #[cfg(feature = "cuda")]
        if device != Device::Cpu {
            return Self::codes_on(device, weight);
        }
        Self::by(|weight| gemm::Packed::with_products(products, weight), device, weight)
    }

    #[cfg(feature = "cuda")]
    fn codes_on(device: Device, weight: TensorView) -> Result<Self> {
        let [n, k] = matrix("PackedWeight::with_products", "weight", weight.shape())?;
        let weight = weight.copied_to(device, DType::F32)?;
        let mut codes = Tensor::zeros(&[n, k], DType::U8, device)?;
        let mut scales = Tensor::zeros(&[n], DType::F32, device)?;
        super::quantise(&weight, EightBits::Int8, &mut codes, &mut scales)?;
        Ok(Self(Packed::CudaCodes(codes, scales), [n, k]))
    }

    fn by(
        pack: impl Fn(gemm::Mat) -> gemm::Packed,
        device: Device,
        weight: TensorView,
    ) -> Result<Self> {
        const OP: &str = "PackedWeight::new";
        let [n, k] = matrix(OP, "weight", weight.shape())?;
        #[cfg(feature = "cuda")]
        if device != Device::Cpu {
            return Ok(Self(Packed::Cuda(weight.copied_to(device, DType::F16)?), [n, k]));
        }
        device.require()?;
        let data = weight.f32s(OP, "weight")?;
        Ok(Self(Packed::Cpu(pack(gemm::Mat::new(data, n, k).t())), [n, k]))
    }

    /// (N, K).
    pub fn shape(&self) -> [usize; 2] {
        self.1
    }
}

/// The weight of a linear layer, of shape (N, K).
#[derive(Debug)]
pub enum Weight<'a> {
    /// As it is.
    Plain(TensorView<'a>),
    /// Packed.
    Packed(&'a PackedWeight),
}

impl Weight<'_> {
    /// (N, K).
    fn sizes(&self, op: &'static str) -> Result<[usize; 2]> {
        match self {
            Weight::Plain(w) => matrix(op, "weight", w.shape()),
            Weight::Packed(w) => Ok(w.shape()),
        }
    }
}

impl<'a, T: Into<TensorView<'a>>> From<T> for Weight<'a> {
    fn from(weight: T) -> Self {
        Weight::Plain(weight.into())
    }
}

impl<'a> From<&'a PackedWeight> for Weight<'a> {
    fn from(weight: &'a PackedWeight) -> Self {
        Weight::Packed(weight)
    }
}

/// y = activation(x · weightᵀ + bias).
///
/// `x`: (…, K); `weight`: (N, K); `bias`: (N); `y`: (…, N). `before_activation`, shaped like `y`,
/// receives x · weightᵀ + bias, which the backward pass of the activation needs. On a GPU `weight`
/// holds f16, `x` too or f32, which is rounded, `y` f16 or f32 and `bias` the same; of activations only the two
/// GELUs can be there. `before_activation` is for the tanh form and holds f16 with N a multiple of 8, as `y` does then;
/// with the other `y` holds f16, a multiple of 8 numbers. `bias` begins at a multiple of 16 bytes there.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn linear<'a>(
    x: impl Into<TensorView<'a>>,
    weight: impl Into<Weight<'a>>,
    bias: Option<TensorView<'a>>,
    activation: Activation,
    before_activation: Option<TensorViewMut<'a>>,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    let (x, weight, y) = (x.into(), weight.into(), y.into());
    let m = check("linear", &x, &weight, &bias, &y)?;
    if let Some(pre) = &before_activation {
        expect_shape("linear", "before_activation", pre.shape(), y.shape())?;
    }
    forward("linear", x, weight, bias, activation, before_activation, None, y, m)
}

/// y = residual + x · weightᵀ + bias.
///
/// Shapes and types as in [`linear`]; `residual` has the shape and the type of `y`. On a GPU the sum is rounded once.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn linear_residual<'a>(
    x: impl Into<TensorView<'a>>,
    weight: impl Into<Weight<'a>>,
    bias: Option<TensorView<'a>>,
    residual: impl Into<TensorView<'a>>,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "linear_residual";
    let (x, weight, residual, y) = (x.into(), weight.into(), residual.into(), y.into());
    let m = check(OP, &x, &weight, &bias, &y)?;
    expect_shape(OP, "residual", residual.shape(), y.shape())?;
    forward(OP, x, weight, bias, Activation::None, None, Some(residual), y, m)
}

/// The rows of x, if all fits together.
fn check(
    op: &'static str,
    x: &TensorView,
    weight: &Weight,
    bias: &Option<TensorView>,
    y: &TensorViewMut,
) -> Result<usize> {
    let [n, k] = weight.sizes(op)?;
    let m = rows(op, "x", x.shape(), k)?;
    if rows(op, "y", y.shape(), n)? != m {
        return Err(Error::shape(op, "y", format!("(…, {n}) with {m} rows"), y.shape()));
    }
    bias.as_ref().map_or(Ok(()), |bias| expect_shape(op, "bias", bias.shape(), &[n]))?;
    Ok(m)
}

/// What both forms have in common, when shapes have been checked.
#[allow(clippy::too_many_arguments)]
fn forward(
    op: &'static str,
    x: TensorView,
    weight: Weight,
    bias: Option<TensorView>,
    activation: Activation,
    before_activation: Option<TensorViewMut>,
    residual: Option<TensorView>,
    y: TensorViewMut,
    m: usize,
) -> Result<()> {
    let [n, k] = weight.sizes(op)?;
    on_gpu!(x, {
        let weight = match &weight {
            Weight::Plain(w) => *w,
            Weight::Packed(PackedWeight(Packed::Cuda(w), _)) => w.view(),
            Weight::Packed(PackedWeight(Packed::CudaCodes(codes, scales), _)) => {
                if before_activation.is_some() {
                    let expected = "none where the weight is codes, on a GPU";
                    return Err(Error::argument(op, "before_activation", expected, "some"));
                }
                let (codes, scales) = (codes.view(), scales.view());
                let weight = super::Quantised { codes, scales, format: EightBits::Int8 };
                let sizes = (m, k, n);
                return crate::cuda::ops::linear_of_codes(
                    op, x, weight, bias, activation, residual, y, sizes,
                );
            }
            Weight::Packed(PackedWeight(Packed::Cpu(_), _)) => {
                let (expected, got) = (x.device(), Device::Cpu);
                return Err(Error::Device { op, arg: "weight", expected, got });
            }
        };
        let before = before_activation;
        crate::cuda::ops::linear(op, x, weight, bias, activation, before, residual, y, (m, k, n))
    });
    let rhs = match &weight {
        Weight::Plain(w) => gemm::Rhs::Mat(gemm::Mat::new(w.f32s(op, "weight")?, n, k).t()),
        Weight::Packed(PackedWeight(Packed::Cpu(w), _)) => gemm::Rhs::Packed(w),
        #[cfg(feature = "cuda")]
        Weight::Packed(PackedWeight(Packed::Cuda(w) | Packed::CudaCodes(w, _), _)) => {
            let (expected, got) = (Device::Cpu, w.device());
            return Err(Error::Device { op, arg: "weight", expected, got });
        }
    };
    cpu::linear(
        x.f32s(op, "x")?,
        rhs,
        bias.map(|b| b.f32s(op, "bias")).transpose()?,
        activation,
        before_activation.map(|p| p.into_f32s(op, "before_activation")).transpose()?,
        residual.map(|r| r.f32s(op, "residual")).transpose()?,
        y.into_f32s(op, "y")?,
        (m, k, n),
    );
    Ok(())
}

/// dx = dy · weight, or (dy · weight) ∘ GELU′(gelu_input) where the layer's input was a GELU's output.
///
/// `dy`: (…, N); `weight`: (N, K); `dx`: (…, K), written; `gelu_input`: shaped like `dx`, what
/// [`Activation::Gelu`] was applied to. On a GPU `weight` holds f16, `dy` f16 or f32, which is
/// rounded, `dx` f16 or f32, and `gelu_input` f16 with K a multiple of 8, as `dx` does then.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn linear_backward_input<'a>(
    dy: impl Into<TensorView<'a>>,
    weight: impl Into<TensorView<'a>>,
    gelu_input: Option<TensorView<'a>>,
    dx: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "linear_backward_input";
    let (dy, weight, dx) = (dy.into(), weight.into(), dx.into());
    let [n, k] = matrix(OP, "weight", weight.shape())?;
    let m = rows(OP, "dy", dy.shape(), n)?;
    if rows(OP, "dx", dx.shape(), k)? != m {
        return Err(Error::shape(OP, "dx", format!("(…, {k}) with {m} rows"), dx.shape()));
    }
    if let Some(at) = &gelu_input {
        expect_shape(OP, "gelu_input", at.shape(), dx.shape())?;
    }
    on_gpu!(dy, crate::cuda::ops::linear_backward_input(dy, weight, gelu_input, dx, (m, k, n)));
    let at = gelu_input.map(|x| x.f32s(OP, "gelu_input")).transpose()?;
    let (dy, weight) = (dy.f32s(OP, "dy")?, weight.f32s(OP, "weight")?);
    cpu::linear_backward_input(dy, weight, at, dx.into_f32s(OP, "dx")?, (m, k, n));
    Ok(())
}

/// dweight += dyᵀ · x and dbias += Σ dy over rows.
///
/// `dy`: (…, N); `x`: (…, K); `dweight`: (N, K) and `dbias`: (N), accumulated. On a GPU `x` holds f16,
/// `dy` f16 or f32, which is rounded for `dweight`, the gradients f32.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn linear_backward_weight<'a>(
    dy: impl Into<TensorView<'a>>,
    x: impl Into<TensorView<'a>>,
    dweight: impl Into<TensorViewMut<'a>>,
    dbias: Option<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "linear_backward_weight";
    let (dy, x, dweight) = (dy.into(), x.into(), dweight.into());
    let [n, k] = matrix(OP, "dweight", dweight.shape())?;
    let m = rows(OP, "dy", dy.shape(), n)?;
    if rows(OP, "x", x.shape(), k)? != m {
        return Err(Error::shape(OP, "x", format!("(…, {k}) with {m} rows"), x.shape()));
    }
    if let Some(dbias) = &dbias {
        expect_shape(OP, "dbias", dbias.shape(), &[n])?;
    }
    on_gpu!(dy, crate::cuda::ops::linear_backward_weight(dy, x, dweight, dbias, (m, k, n)));
    cpu::linear_backward_weight(
        dy.f32s(OP, "dy")?,
        x.f32s(OP, "x")?,
        dweight.into_f32s(OP, "dweight")?,
        dbias.map(|b| b.into_f32s(OP, "dbias")).transpose()?,
        (m, k, n),
    );
    Ok(())
}

fn matrix(op: &'static str, arg: &'static str, shape: &[usize]) -> Result<[usize; 2]> {
    shape.try_into().map_err(|_| Error::shape(op, arg, "(N, K)", shape))
}

/// The product of all axes but the last, which must be `last`.
fn rows(op: &'static str, arg: &'static str, shape: &[usize], last: usize) -> Result<usize> {
    match shape.split_last() {
        Some((&l, leading)) if l == last => Ok(leading.iter().product()),
        _ => Err(Error::shape(op, arg, format!("(…, {last})"), shape)),
    }
}
