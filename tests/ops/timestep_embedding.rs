use crate::support::numbers::*;
use invad::ops;

/// The network's, a power of two, and one that is no multiple of a block.
const FEATURES: [usize; 4] = [256, 64, 2, 514];

fn embed(t: &[f32], features: usize) -> invad::Tensor {
    let mut out = poisoned(&[t.len(), features]);
    ops::timestep_embedding(&from(t, &[t.len()]), &mut out).unwrap();
    out
}

/// The frequencies that the operation uses: where t·f is below 1e-6, its sine is t·f in f32.
fn frequencies(features: usize) -> Vec<f32> {
    let t = (-20f32).exp2();
    embed(&[t], features).to_vec_f32()[features / 2..].iter().map(|s| s / t).collect()
}

#[test]
fn frequencies_follow_the_formula() {
    for features in FEATURES {
        let half = features / 2;
        let step = -(1e4f64.ln()) / half as f64;
        for (i, f) in frequencies(features).into_iter().enumerate() {
            let exact = (step * i as f64).exp();
            // The exponent −ln(10000)·i/half is an f32 below 16, rounded twice.
            assert!((f64::from(f) - exact).abs() <= 1e-6 * exact, "frequency {i}: {f} for {exact}");
            let exponent = (-(1e4f64.ln())) as f32 * i as f32 / half as f32;
            let rounded = f64::from(exponent).exp() as f32;
            let ulps = f.to_bits().abs_diff(rounded.to_bits());
            let most = u32::from(half == 128);
            assert!(ulps <= most, "frequency {i} of {half} is {f}, {ulps} ulp from {rounded}");
        }
    }
}

#[test]
fn products_are_rounded_to_f32() {
    let t: Vec<f32> = (0..1000).step_by(37).chain([999]).map(|t| t as f32).collect();
    for features in FEATURES {
        let got = f64s(&embed(&t, features));
        let f = frequencies(features);
        for (t, got) in t.iter().zip(got.chunks_exact(features)) {
            let angles = f.iter().map(|f| f64::from(t * f));
            let want: Vec<f64> =
                angles.clone().map(f64::cos).chain(angles.clone().map(f64::sin)).collect();
            assert_close(&format!("t {t}"), got, &want, 7e-8);
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let t: Vec<f32> = (0..1000).map(|t| t as f32).collect();
    assert_threads_do_not_matter(|| [embed(&t, 256)]);
}

#[test]
fn refuses_other_shapes() {
    let refused = |t: &[usize], out: &[usize], message: &str| {
        let refused = ops::timestep_embedding(&tensor(1, t, 1.0), &mut poisoned(out));
        assert_refused(refused, message);
    };
    refused(&[3, 1], &[3, 256], "timestep_embedding: `t` should have shape (B), got [3, 1]");
    let even = "timestep_embedding: `out` should have shape (3, F), F even, got ";
    refused(&[3], &[3, 129], &format!("{even}[3, 129]"));
    refused(&[3], &[3, 0], &format!("{even}[3, 0]"));
    refused(&[3], &[3, 4, 1], &format!("{even}[3, 4, 1]"));
    refused(&[3], &[4, 2], "timestep_embedding: `out` should have shape [3, 2], got [4, 2]");
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
        for features in FEATURES.into_iter().chain(FEATURES) {
            let want = f64s(&embed(&t, features));
            let naive: Vec<f64> = want.iter().map(|&x| rounded(x)).collect();
            let mut out = Guarded::new(&[t.len(), features], DType::F16, gpu);
            let t = upload(&t, &[t.len()], DType::F32, gpu);
            ops::timestep_embedding(&t, out.view_mut()).unwrap();
            assert_as_good(&format!("{features} features"), &out.f64s(), &want, &naive);
        }
    }
}
