use crate::support::numbers::*;
use invad::ops::{self, TIMESTEP_FEATURES};

const HALF: usize = TIMESTEP_FEATURES / 2;

fn embed(t: &[f32]) -> invad::Tensor {
    let mut out = poisoned(&[t.len(), TIMESTEP_FEATURES]);
    ops::timestep_embedding(&from(t, &[t.len()]), &mut out).unwrap();
    out
}

/// The frequencies that the operation uses: where t·f is below 1e-6, its sine is t·f in f32.
fn frequencies() -> Vec<f32> {
    let t = (-20f32).exp2();
    embed(&[t]).to_vec_f32()[HALF..].iter().map(|s| s / t).collect()
}

#[test]
fn frequencies_follow_the_formula() {
    let step = -(1e4f64.ln()) / HALF as f64;
    for (i, f) in frequencies().into_iter().enumerate() {
        let exact = (step * i as f64).exp();
        // The exponent −ln(10000)·i/128 is an f32 below 16, rounded twice.
        assert!((f64::from(f) - exact).abs() <= 1e-6 * exact, "frequency {i} is {f} for {exact}");
        let exponent = (-(1e4f64.ln())) as f32 * i as f32 / HALF as f32;
        let rounded = f64::from(exponent).exp() as f32;
        let ulps = f.to_bits().abs_diff(rounded.to_bits());
        assert!(ulps <= 1, "frequency {i} is {f}, {ulps} ulp from {rounded}");
    }
}

#[test]
fn products_are_rounded_to_f32() {
    let t: Vec<f32> = (0..1000).step_by(37).chain([999]).map(|t| t as f32).collect();
    let got = f64s(&embed(&t));
    let f = frequencies();
    for (t, got) in t.iter().zip(got.chunks_exact(TIMESTEP_FEATURES)) {
        let angles = f.iter().map(|f| f64::from(t * f));
        let want: Vec<f64> =
            angles.clone().map(f64::cos).chain(angles.clone().map(f64::sin)).collect();
        assert_close(&format!("t {t}"), got, &want, 7e-8);
    }
}

#[test]
fn threads_do_not_matter() {
    let t: Vec<f32> = (0..1000).map(|t| t as f32).collect();
    assert_threads_do_not_matter(|| [embed(&t)]);
}

#[test]
fn refuses_other_shapes() {
    assert_refused(
        ops::timestep_embedding(&tensor(1, &[3, 1], 1.0), &mut poisoned(&[3, 256])),
        "timestep_embedding: `t` should have shape (B), got [3, 1]",
    );
    assert_refused(
        ops::timestep_embedding(&tensor(1, &[3], 1.0), &mut poisoned(&[3, 128])),
        "timestep_embedding: `out` should have shape [3, 256], got [3, 128]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn as_on_the_cpu() {
        let Some(gpu) = gpu() else { return };
        let t = [0.0, 1.0, 17.0, 250.0, 999.0];
        let want = f64s(&embed(&t));
        let naive: Vec<f64> = want.iter().map(|&x| rounded(x)).collect();
        for _ in 0..2 {
            let mut out = Guarded::new(&[t.len(), TIMESTEP_FEATURES], DType::F16, gpu);
            let t = upload(&t, &[t.len()], DType::F32, gpu);
            ops::timestep_embedding(&t, out.view_mut()).unwrap();
            assert_as_good("embedding", &out.f64s(), &want, &naive);
        }
    }
}
