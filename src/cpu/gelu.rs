//! The derivative of GELU on the host.

use multiversion::multiversion;

use super::for_parts;
use super::gemm::GELU_SCALE;
use super::math::tanh;

pub(crate) fn gelu_backward(x: &[f32], dx: &mut [f32]) {
    for_parts(dx, |start, dx| backward(&x[start..][..dx.len()], dx));
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn backward(x: &[f32], dx: &mut [f32]) {
    for (dx, &x) in dx.iter_mut().zip(x) {
        let t = tanh(GELU_SCALE * (x + 0.044_715 * x * x * x));
        let slope = GELU_SCALE * (1.0 + 3.0 * 0.044_715 * x * x);
        *dx *= 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope;
    }
}
