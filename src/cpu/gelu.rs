//! The derivative of GELU on the host.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use super::for_parts;
use super::gemm::GELU_SCALE;
use super::math::sigmoid;

pub(crate) fn gelu_backward(x: &[f32], dx: &mut [f32]) {
    for_parts(dx, |start, dx| backward(&x[start..][..dx.len()], dx));
}

#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn backward(x: &[f32], dx: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    for (dx, &x) in dx.iter_mut().zip(x) {
        // GELU = x·σ(2u), u = √(2/π)(x + 0.044715x³).
        let s = sigmoid::<FMA>(2.0 * GELU_SCALE * (x + 0.044_715 * x * x * x));
        let slope = 2.0 * GELU_SCALE * (1.0 + 3.0 * 0.044_715 * x * x);
        *dx *= s + x * (s * (1.0 - s)) * slope;
    }
}
