//! Linear layers of numbers of eight bits, on the host.

use super::gemm::rounded::{Decoded, multiply};
use crate::types::{EightBits, Products};

/// Codes, and a scale of each row or of all.
type Codes<'a> = (&'a [u8], &'a [f32]);

/// y (M, N) = x (M, K) · w (N, K)ᵀ + bias.
pub(crate) fn linear_quantised(
    (x, x_scales): Codes,
    (w, w_scales): Codes,
    format: EightBits,
    bias: Option<&[f32]>,
    y: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    if y.is_empty() {
        return;
    }
    let x = Decoded::new(format, x, x_scales, m, k);
    let w = Decoded::new(format, w, w_scales, n, k);
    let products = match format {
        EightBits::Int8 => Products::Int8,
        EightBits::E4m3 => Products::Fp8,
    };
    y.copy_from_slice(&multiply(products, &x, &w));
    if let Some(bias) = bias {
        y.chunks_exact_mut(n).for_each(|y| y.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
}
