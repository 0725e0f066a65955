//! ReLU6 on the host.

use super::for_parts;

pub(crate) fn relu6(x: &[f32], y: &mut [f32]) {
    for_parts(y, |start, y| {
        for (y, &x) in y.iter_mut().zip(&x[start..]) {
            *y = x.clamp(0.0, 6.0);
        }
    });
}

pub(crate) fn relu6_backward(y: &[f32], dy: &[f32], dx: &mut [f32]) {
    for_parts(dx, |start, dx| {
        for (dx, (&y, &dy)) in dx.iter_mut().zip(y[start..].iter().zip(&dy[start..])) {
            *dx = if y > 0.0 && y < 6.0 { dy } else { 0.0 };
        }
    });
}
