//! The positional embedding on the host.

use super::for_parts;

pub(crate) fn add_position(tokens: &[f32], position: &[f32], x: &mut [f32]) {
    let n = position.len();
    for (tokens, x) in tokens.chunks_exact(n).zip(x.chunks_exact_mut(n)) {
        for_parts(x, |start, x| {
            for ((x, t), p) in x.iter_mut().zip(&tokens[start..]).zip(&position[start..]) {
                *x = t + p;
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
