//! The sinusoidal embedding of timesteps on the host.

pub(crate) fn timestep_embedding(t: &[f32], frequency_bits: &[u32], out: &mut [f32]) {
    let half = frequency_bits.len();
    for (&t, out) in t.iter().zip(out.chunks_exact_mut(2 * half)) {
        let (cos, sin) = out.split_at_mut(half);
        for ((c, s), &bits) in cos.iter_mut().zip(sin).zip(frequency_bits) {
            let (sine, cosine) = f64::from(t * f32::from_bits(bits)).sin_cos();
            (*c, *s) = (cosine as f32, sine as f32);
        }
    }
}
