//! One Euler step of DDIM inversion on the host.

use multiversion::multiversion;

use super::for_parts;

pub(crate) fn inversion_step(x: &mut [f32], output: &[f32], a: f32, b: f32) {
    for_parts(x, |start, x| step(x, &output[start..][..x.len()], a, b));
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn step(x: &mut [f32], output: &[f32], a: f32, b: f32) {
    for (x, o) in x.iter_mut().zip(output) {
        *x = a * *x + b * o;
    }
}
