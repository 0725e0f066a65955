use crate::support::numbers::*;
use invad::ops::{self, Target};
use invad::{Tensor, ops::denoising_loss};

const SHAPES: [&[usize]; 6] =
    [&[1], &[4], &[2, 3], &[3, 17, 5], &[2, 16, 16, 33], &[3, 1024 * 3 + 1]];

/// Loss of each image, for a target t.
fn losses(p: &[f64], t: &[f64], w: &[f64]) -> Vec<f64> {
    let n = p.len() / w.len();
    let of = |b: usize| {
        let pairs = p[b * n..][..n].iter().zip(&t[b * n..][..n]);
        w[b] * pairs.map(|(p, t)| (p - t).powi(2)).sum::<f64>() / n as f64
    };
    (0..w.len()).map(of).collect()
}

/// The gradient of the mean of the losses with respect to `p`.
fn gradient(p: &[f64], t: &[f64], w: &[f64]) -> Vec<f64> {
    let (n, all) = (p.len() / w.len(), p.len() as f64);
    p.iter().zip(t).enumerate().map(|(i, (p, t))| 2.0 * w[i / n] * (p - t) / all).collect()
}

struct Case {
    prediction: Tensor,
    x0: Tensor,
    noise: Tensor,
    scales: [Tensor; 2],
    weight: Tensor,
    slope: Tensor,
}

impl Case {
    fn new(shape: &[usize]) -> Self {
        let weight = tensor(3, &shape[..1], 1.0);
        let n = shape.iter().product::<usize>() as f32;
        let slope: Vec<f32> = weight.to_vec_f32().iter().map(|w| 2.0 * w / n).collect();
        Self {
            prediction: tensor(1, shape, 2.0),
            x0: tensor(2, shape, 2.0),
            noise: tensor(4, shape, 2.0),
            scales: [tensor(5, &shape[..1], 1.0), tensor(6, &shape[..1], 1.0)],
            slope: from(&slope, &shape[..1]),
            weight,
        }
    }

    fn target(&self) -> Target<'_> {
        let [signal_scale, noise_scale] = &self.scales;
        Target {
            x0: self.x0.view(),
            noise: self.noise.view(),
            signal_scale: signal_scale.view(),
            noise_scale: noise_scale.view(),
        }
    }

    /// What is to be predicted.
    fn expected(&self) -> Vec<f64> {
        let [signal, noise] = self.scales.each_ref().map(f64s);
        let n = self.x0.len() / signal.len();
        let pairs = f64s(&self.x0).into_iter().zip(f64s(&self.noise)).enumerate();
        pairs.map(|(i, (x, e))| signal[i / n] * x + noise[i / n] * e).collect()
    }

    fn run(&self) -> [Tensor; 2] {
        let Self { prediction, weight, slope, .. } = self;
        let (mut loss, mut d) = (poisoned(weight.shape()), poisoned(prediction.shape()));
        let into = Some(d.view_mut());
        denoising_loss(prediction, self.target(), weight, slope, &mut loss, into).unwrap();
        let mut alone = poisoned(weight.shape());
        denoising_loss(prediction, self.target(), weight, slope, &mut alone, None).unwrap();
        assert_eq!(bits(&alone), bits(&loss), "without the gradient");
        [loss, d]
    }
}

#[test]
fn oracle_is_the_gradient() {
    for shape in [&[3][..], &[2, 5], &[3, 2, 4]] {
        let case = Case::new(shape);
        let (p, t, w) = (f64s(&case.prediction), case.expected(), f64s(&case.weight));
        let mean = |p: &[f64]| losses(p, &t, &w).iter().sum::<f64>() / w.len() as f64;
        assert_close(
            &format!("{shape:?}"),
            &gradient(&p, &t, &w),
            &numeric_gradient(&p, mean),
            1e-9,
        );
    }
}

#[test]
fn forward_and_backward() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let (p, t, w) = (f64s(&case.prediction), case.expected(), f64s(&case.weight));
        let [loss, d] = case.run();
        assert_close(&format!("{shape:?}: loss"), &f64s(&loss), &losses(&p, &t, &w), 3e-7);
        assert_close(&format!("{shape:?}: gradient"), &f64s(&d), &gradient(&p, &t, &w), 3e-7);
    }
}

#[test]
fn nan_stays_in_its_image() {
    let mut case = Case::new(&[3, 40]);
    let mut p = case.prediction.to_vec_f32();
    p[57] = f32::NAN;
    case.prediction = from(&p, &[3, 40]);
    let [loss, d] = case.run();
    let nan: Vec<bool> = loss.to_vec_f32().iter().map(|l| l.is_nan()).collect();
    assert_eq!(nan, [false, true, false]);
    assert!(d.to_vec_f32().iter().enumerate().all(|(i, d)| d.is_nan() == (i == 57)));
}

#[test]
fn threads_do_not_matter() {
    let case = Case::new(&[5, 5000]);
    assert_threads_do_not_matter(|| case.run());
}

#[test]
fn refuses_other_shapes() {
    let case = Case::new(&[2, 3]);
    let Case { prediction, weight, slope, .. } = &case;
    let run = |target, weight: &Tensor, loss: &[usize], d: &[usize]| {
        let (mut loss, mut d) = (poisoned(loss), poisoned(d));
        ops::denoising_loss(prediction, target, weight, slope, &mut loss, Some(d.view_mut()))
    };
    let (one, other) = (tensor(1, &[3], 1.0), tensor(1, &[3, 2], 1.0));
    assert_refused(
        run(case.target(), &one, &[2], &[2, 3]),
        "denoising_loss: `weight` should have shape [2], got [3]",
    );
    assert_refused(
        run(case.target(), weight, &[1], &[2, 3]),
        "denoising_loss: `loss` should have shape [2], got [1]",
    );
    assert_refused(
        run(case.target(), weight, &[2], &[3, 2]),
        "denoising_loss: `dprediction` should have shape [2, 3], got [3, 2]",
    );
    assert_refused(
        run(Target { noise: other.view(), ..case.target() }, weight, &[2], &[2, 3]),
        "denoising_loss: `noise` should have shape [2, 3], got [3, 2]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    fn check(shape: &[usize], scale: f32) {
        let Some(gpu) = gpu() else { return };
        let mut case = Case::new(shape);
        case.prediction = from(&halves(1, case.prediction.len(), 2.0), shape);
        case.x0 = from(&halves(2, case.x0.len(), 2.0), shape);
        let slope: Vec<f32> = case.slope.to_vec_f32().iter().map(|s| s * scale).collect();
        let images = shape[0];
        let (p, t, w) = (f64s(&case.prediction), case.expected(), f64s(&case.weight));
        let want: Vec<f64> = gradient(&p, &t, &w).iter().map(|d| d * f64::from(scale)).collect();
        let n = p.len() / images;
        let naive: Vec<f64> = (0..p.len())
            .map(|i| rounded(f64::from(slope[i / n]) * rounded(p[i] - rounded(t[i]))))
            .collect();
        let up = |tensor: &Tensor| upload(&tensor.to_vec_f32(), tensor.shape(), DType::F32, gpu);
        let in_f16 = |tensor: &Tensor| upload(&tensor.to_vec_f32(), shape, DType::F16, gpu);
        let (x0, prediction) = (in_f16(&case.x0), in_f16(&case.prediction));
        let (noise, [signal, spread]) = (up(&case.noise), case.scales.each_ref().map(up));
        let target = Target {
            x0: x0.view(),
            noise: noise.view(),
            signal_scale: signal.view(),
            noise_scale: spread.view(),
        };
        let (weight, slope) = (up(&case.weight), upload(&slope, &[images], DType::F32, gpu));
        for with_gradient in [false, true] {
            let mut loss = Guarded::new(&[images], DType::F32, gpu);
            let mut d = Guarded::new(shape, DType::F16, gpu);
            let into = with_gradient.then(|| d.view_mut());
            denoising_loss(&prediction, target, &weight, &slope, loss.view_mut(), into).unwrap();
            let case = format!("{shape:?} × {scale} gradient {with_gradient}");
            assert_close(&format!("{case}: loss"), &loss.f64s(), &losses(&p, &t, &w), 2e-6);
            if with_gradient {
                assert_gradient_as_good(&case, &d.f64s(), &want, &naive);
            }
        }
    }

    #[test]
    fn tiny() {
        for shape in [&[1][..], &[4], &[2, 3], &[3, 17, 5], &[2, 1027]] {
            check(shape, 1.0);
        }
        check(&[2, 13, 200], 1024.0);
    }
}
