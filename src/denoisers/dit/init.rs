//! Sin-cos positions, which a fresh network begins with.

/// Two-dimensional sin-cos positions (N, D), as in MAE (He et al., 2022): the first half of the
/// width encodes the column, the second the row; each half is sines, then cosines, of the
/// coordinate times 10000^(−i/(D/4)).
pub(super) fn sin_cos_positions(across: usize, width: usize, out: &mut [f32]) {
    let quarter = width / 4;
    for (token, out) in out.chunks_exact_mut(width).enumerate() {
        for (half, coordinate) in [token % across, token / across].into_iter().enumerate() {
            for i in 0..quarter {
                let angle = coordinate as f64 / 10000f64.powf(i as f64 / quarter as f64);
                out[half * 2 * quarter + i] = angle.sin() as f32;
                out[half * 2 * quarter + quarter + i] = angle.cos() as f32;
            }
        }
    }
}
