//! The positional embedding on the host.

use super::for_parts;

pub(crate) fn add_position(tokens: &[f32], position: &[f32], x: &mut [f32]) {
    let images = x.chunks_exact_mut(position.len());
    if images.len() == 0 {
        return;
    }
    let of_image = tokens.len() / images.len();
    let (alone, position) = position.split_at(position.len() - of_image);
    for (image, x) in images.enumerate() {
        let tokens = &tokens[image * of_image..][..of_image];
        let (first, x) = x.split_at_mut(alone.len());
        first.copy_from_slice(alone);
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
