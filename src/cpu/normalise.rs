//! Pixel values to network inputs, on the host.

use rayon::prelude::*;

/// (v/255 − mean)/std for each of the 256 values of each channel.
pub(crate) fn table(mean: [f32; 3], std: [f32; 3]) -> [[f32; 256]; 3] {
    std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]))
}

pub(crate) fn normalise(table: &[[f32; 256]; 3], rgb: &[u8], y: &mut [f32]) {
    const PART: usize = 3 << 12;
    normalise_in_parts(table, rgb, y, PART);
}

/// Parts of so many numbers, a multiple of 3, on threads of their own.
pub(crate) fn normalise_in_parts(table: &[[f32; 256]; 3], rgb: &[u8], y: &mut [f32], part: usize) {
    y.par_chunks_mut(part).zip(rgb.par_chunks(part)).for_each(|(y, rgb)| {
        let (y, rgb) = (y.as_chunks_mut::<3>().0, rgb.as_chunks::<3>().0);
        for (y, rgb) in y.iter_mut().zip(rgb) {
            for c in 0..3 {
                y[c] = table[c][usize::from(rgb[c])];
            }
        }
    });
}
