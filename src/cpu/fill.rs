//! Setting all elements on the host.

use super::for_parts;

pub(crate) fn fill(x: &mut [f32], value: f32) {
    for_parts(x, |_, x| x.fill(value));
}
