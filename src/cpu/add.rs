//! Addition on the host.

use multiversion::multiversion;

use super::for_parts;

pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    for_parts(y, |start, y| add_to(y, &x[start..]));
}

/// y += the beginning of x.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub(super) fn add_to(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}
