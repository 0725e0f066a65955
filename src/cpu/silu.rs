//! SiLU on the host.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use super::for_parts;
use super::math::sigmoid;

pub(crate) fn silu(x: &[f32], y: &mut [f32]) {
    for_parts(y, |start, y| forward(&x[start..][..y.len()], y));
}

pub(crate) fn silu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    for_parts(dx, |start, dx| {
        let n = dx.len();
        backward(&x[start..][..n], &dy[start..][..n], dx);
    });
}

#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn forward(x: &[f32], y: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * sigmoid::<FMA>(x);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    for (dx, (&x, &dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
        let s = sigmoid::<FMA>(x);
        *dx = dy * s * (1.0 + x * (1.0 - s));
    }
}
