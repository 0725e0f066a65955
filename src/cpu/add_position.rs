//! The positional embedding on the host.

use super::for_parts;

pub(crate) fn add_position(x: &mut [f32], position: &[f32]) {
    for x in x.chunks_exact_mut(position.len()) {
        for_parts(x, |start, x| {
            for (x, p) in x.iter_mut().zip(&position[start..]) {
                *x += p;
            }
        });
    }
}

pub(crate) fn add_position_backward(dx: &[f32], dposition: &mut [f32]) {
    let n = dposition.len();
    for_parts(dposition, |start, part| {
        for dx in dx.chunks_exact(n) {
            for (d, dx) in part.iter_mut().zip(&dx[start..]) {
                *d += dx;
            }
        }
    });
}
