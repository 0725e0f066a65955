//! Matrix products on the host.

use super::math::tanh;

/// A matrix read through strides, in elements.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A contiguous row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows are `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// What is applied to each element of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// GELU in its tanh form.
    Gelu,
    /// min(max(x, 0), 6).
    Relu6,
}

impl Activation {
    #[inline(always)]
    pub(crate) fn apply(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Gelu => gelu(x),
            Activation::Relu6 => x.clamp(0.0, 6.0),
        }
    }
}

/// GELU in its tanh form: ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(GELU_SCALE * (x + 0.044_715 * x * x * x)))
}

/// √(2/π).
pub(crate) const GELU_SCALE: f32 = 0.797_884_6;

/// What happens to a product before it is stored: out = activation(a·b + bias), or out += a·b + bias.
#[derive(Default)]
pub(crate) struct Epilogue<'a> {
    /// One number per column.
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    /// Receives a·b + bias, as laid out as `out`.
    pub before_activation: Option<&'a mut [f32]>,
    /// Adds to `out`; without an activation.
    pub accumulate: bool,
}

/// Whether a product is split over rayon's threads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

/// out = a·b, with `epilogue`. The rows of `out` are `out_stride` apart.
///
/// Each element is summed in an order that depends on the shapes alone.
pub(crate) fn gemm(
    a: Mat,
    b: Mat,
    out: &mut [f32],
    out_stride: usize,
    epilogue: Epilogue,
    threads: Threads,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len());
    debug_assert!(!(epilogue.accumulate && epilogue.activation != Activation::None));
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: `Mat`'s constructors and the assertion above keep every element that the strides
    // reach within its slice, and `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            epilogue.accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
    let Epilogue { bias, activation, mut before_activation, .. } = epilogue;
    for i in 0..m {
        let row = &mut out[i * out_stride..][..n];
        if let Some(bias) = bias {
            for (y, b) in row.iter_mut().zip(bias) {
                *y += b;
            }
        }
        if let Some(pre) = before_activation.as_deref_mut() {
            pre[i * out_stride..][..n].copy_from_slice(row);
        }
        if activation != Activation::None {
            for y in row.iter_mut() {
                *y = activation.apply(*y);
            }
        }
    }
}
