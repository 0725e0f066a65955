//! Tokens as channels of features, on the host.

/// Tokens of an image and their width; how many are taken, and the channels of features.
#[derive(Clone, Copy)]
pub(crate) struct TokenSizes {
    pub tokens: usize,
    pub width: usize,
    pub taken: usize,
    pub channels: usize,
}

pub(crate) fn gather_tokens(x: &[f32], features: &mut [f32], first: usize, sizes: TokenSizes) {
    let TokenSizes { tokens, width, taken, channels } = sizes;
    if taken * width == 0 {
        return;
    }
    let images = x.chunks_exact(tokens * width).zip(features.chunks_exact_mut(taken * channels));
    for (x, features) in images {
        let last = x[(tokens - taken) * width..].chunks_exact(width);
        for (x, cell) in last.zip(features.chunks_exact_mut(channels)) {
            cell[first..][..width].copy_from_slice(x);
        }
    }
}
