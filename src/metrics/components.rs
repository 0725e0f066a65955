//! Connected regions of a mask.

use crate::error::{Error, Result};

/// The connected regions of a mask; see [`connected_components`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Components {
    /// For every pixel, row-major: 0 outside, else the number of its region, from 1.
    pub labels: Vec<u32>,
    /// The pixels of each region: those labelled `i + 1` are `sizes[i]`.
    pub sizes: Vec<u32>,
}

/// The 8-connected regions of true pixels in `mask` (`height` × `width`, row-major), numbered in
/// the order in which their first pixels come.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if `mask` has not `height` × `width` pixels, or has 2³² or more.
pub fn connected_components(mask: &[bool], width: usize, height: usize) -> Result<Components> {
    const OP: &str = "connected_components";
    if width.checked_mul(height) != Some(mask.len()) {
        return Err(Error::shape(OP, "mask", format!("[{height}, {width}]"), &[mask.len()]));
    }
    if u32::try_from(mask.len()).is_err() {
        return Err(Error::shape(OP, "mask", "fewer than 2^32 pixels", &[height, width]));
    }
    let mut labels = vec![0; mask.len()];
    let mut sizes = Vec::new();
    let mut pending = Vec::new();
    for start in 0..mask.len() {
        if !mask[start] || labels[start] != 0 {
            continue;
        }
        let label = sizes.len() as u32 + 1;
        let mut size = 0;
        labels[start] = label;
        pending.push(start);
        while let Some(pixel) = pending.pop() {
            size += 1;
            let (x, y) = (pixel % width, pixel / width);
            for row in y.saturating_sub(1)..(y + 2).min(height) {
                for near in row * width + x.saturating_sub(1)..row * width + (x + 2).min(width) {
                    if mask[near] && labels[near] == 0 {
                        labels[near] = label;
                        pending.push(near);
                    }
                }
            }
        }
        sizes.push(size);
    }
    Ok(Components { labels, sizes })
}
