use crate::support::numbers::*;
use invad::Tensor;
use invad::ops::{self, AdamW, Moved};

/// Parameters, moments and average.
struct Oracle {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    average: Vec<f64>,
}

impl Oracle {
    fn step(&mut self, c: AdamW, k: i32, factor: f64, decay: f64, gradient: &[f64]) {
        for (i, g) in gradient.iter().enumerate() {
            let g = factor * g;
            self.m[i] = c.beta1 * self.m[i] + (1.0 - c.beta1) * g;
            self.v[i] = c.beta2 * self.v[i] + (1.0 - c.beta2) * g * g;
            let m = self.m[i] / (1.0 - c.beta1.powi(k));
            let v = self.v[i] / (1.0 - c.beta2.powi(k));
            self.p[i] -= c.learning_rate * c.weight_decay * self.p[i];
            self.p[i] -= c.learning_rate * m / (v.sqrt() + c.eps);
            self.average[i] = decay * self.average[i] + (1.0 - decay) * self.p[i];
        }
    }
}

#[derive(Clone)]
struct State {
    p: Tensor,
    m: Tensor,
    v: Tensor,
    average: Tensor,
}

impl State {
    fn new(n: usize, scale: f32) -> Self {
        let (p, zeros) = (tensor(1, &[n], scale), from(&vec![0.0; n], &[n]));
        Self { average: p.clone(), p, m: zeros.clone(), v: zeros }
    }

    fn oracle(&self) -> Oracle {
        let Self { p, m, v, average } = self;
        Oracle { p: f64s(p), m: f64s(m), v: f64s(v), average: f64s(average) }
    }

    fn moved(&mut self) -> Moved<'_> {
        Moved {
            parameters: self.p.view_mut(),
            m: self.m.view_mut(),
            v: self.v.view_mut(),
            average: Some(self.average.view_mut()),
            rounded: None,
        }
    }
}

fn numbers(config: AdamW, step: u64, loss_scale: f64, decay: f64) -> Tensor {
    from(&config.numbers(step, loss_scale, decay).unwrap(), &[AdamW::NUMBERS])
}

/// A norm that has the gradient multiplied by `factor`.
fn multiplied_by(factor: f32) -> Tensor {
    from(&[f32::NAN, factor], &[2])
}

fn configs() -> [AdamW; 3] {
    [
        AdamW { learning_rate: 5e-5, ..Default::default() },
        AdamW { learning_rate: 1e-2, weight_decay: 0.3, ..Default::default() },
        AdamW { learning_rate: 3e-3, beta1: 0.5, beta2: 0.9, eps: 1e-3, weight_decay: 0.01 },
    ]
}

/// Several steps, from zero parameters too, where a step is not lost in the parameter's rounding.
#[test]
fn several_steps() {
    for (config, factor) in configs().into_iter().zip([1.0, 0.37, 1e-3]) {
        for (n, scale) in [(1, 0.0), (7, 1.0), (1001, 0.0), (40_000, 1.0)] {
            let mut got = State::new(n, scale);
            let mut want = got.oracle();
            for k in 1..=6 {
                let g = tensor(10 + k, &[n], 10f32.powi(k as i32 - 4));
                let numbers = numbers(config, k, 1.0, 0.9);
                ops::adamw(&g, &numbers, &multiplied_by(factor), 0, got.moved()).unwrap();
                want.step(config, k as i32, factor.into(), 0.9, &f64s(&g));
                let case = format!("{config:?} × {factor} n {n} scale {scale}, step {k}");
                assert_close(&format!("{case}: p"), &f64s(&got.p), &want.p, 1.5e-6);
                assert_close(&format!("{case}: m"), &f64s(&got.m), &want.m, 1e-6);
                assert_close(&format!("{case}: v"), &f64s(&got.v), &want.v, 1e-6);
                let average = f64s(&got.average);
                assert_close(&format!("{case}: average"), &average, &want.average, 1.5e-6);
            }
        }
    }
}

/// The average is what [`ops::ema`] makes of the parameters.
#[test]
fn average_may_be_taken_apart() {
    let (mut both, mut apart) = (State::new(20_001, 1.0), State::new(20_001, 1.0));
    for k in 1..=3 {
        let (g, numbers) = (tensor(k, &[20_001], 1.0), numbers(configs()[0], k, 1.0, 0.99));
        ops::adamw(&g, &numbers, &multiplied_by(1.0), 0, both.moved()).unwrap();
        let moved = Moved { average: None, ..apart.moved() };
        ops::adamw(&g, &numbers, &multiplied_by(1.0), 0, moved).unwrap();
        ops::ema(0.99, &apart.p, &mut apart.average).unwrap();
    }
    assert!(bits(&both.p) == bits(&apart.p) && bits(&both.average) == bits(&apart.average));
}

#[test]
fn parameters_without_gradient_only_decay() {
    let config = AdamW { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() };
    let mut state = State { p: from(&[2.0, -4.0], &[2]), ..State::new(2, 1.0) };
    let g = from(&[0.0; 2], &[2]);
    let numbers = numbers(config, 1, 1.0, 0.0);
    ops::adamw(&g, &numbers, &multiplied_by(1.0), 0, state.moved()).unwrap();
    assert_close("p", &f64s(&state.p), &[1.9, -3.8], 1e-7);
}

/// (norm, factor) of a gradient.
fn norm(x: &Tensor, max_norm: f64, loss_scale: f64) -> [f32; 2] {
    let mut norm = poisoned(&[2]);
    let numbers = numbers(AdamW::default(), 1, loss_scale, 0.0);
    ops::global_norm(x, max_norm, &numbers, &mut norm).unwrap();
    norm.to_vec_f32().try_into().unwrap()
}

#[test]
fn norm_and_its_clipping() {
    for n in [0, 1, 255, 257, 40_000, 100_003] {
        for loss_scale in [1.0, 1024.0] {
            let x = tensor(1, &[n], 3.0);
            let want = dot(&f64s(&x), &f64s(&x)).sqrt() / loss_scale;
            let [got, factor] = norm(&x, 1.0, loss_scale).map(f64::from);
            assert_close(&format!("n {n}"), &[got], &[want], 1e-7);
            let clipped = (1.0 / (want + 1e-6)).min(1.0) / loss_scale;
            assert_close(&format!("n {n}: factor"), &[factor], &[clipped], 1e-7);
        }
    }
    let of = |x: f32, max_norm| norm(&from(&[x], &[1]), max_norm, 1.0)[1];
    assert_eq!(of(0.0, 1.0), 1.0);
    assert_eq!(of(0.5, 1.0), 1.0);
    assert_eq!(of(4.0, 1.0), (1.0f64 / 4.000001) as f32);
    assert_eq!(of(4.0, 2.0), (2.0f64 / 4.000001) as f32);
    assert_eq!(of(4.0, f64::INFINITY), 1.0);
}

/// A gradient that is not finite must not pass for one that needs no clipping.
#[test]
fn moves_nothing_without_a_finite_gradient() {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let g = from(&[1.0, x, 2.0], &[3]);
        for max_norm in [1.0, f64::INFINITY] {
            let got = norm(&g, max_norm, 8.0);
            assert!(!got[0].is_finite() && got[1].is_nan(), "{got:?}");
            let mut state = State::new(3, 1.0);
            let start = state.clone();
            let numbers = numbers(configs()[1], 1, 8.0, 0.9);
            ops::adamw(&g, &numbers, &from(&got, &[2]), 0, state.moved()).unwrap();
            for (got, want) in [
                (&state.p, &start.p),
                (&state.m, &start.m),
                (&state.v, &start.v),
                (&state.average, &start.average),
            ] {
                assert_eq!(bits(got), bits(want));
            }
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let n = 100_003;
    let g = tensor(1, &[n], 3.0);
    let config = AdamW { learning_rate: 1e-2, weight_decay: 0.3, ..Default::default() };
    assert_threads_do_not_matter(|| {
        let mut state = State::new(n, 1.0);
        state.v.view_mut().fill(0.5).unwrap();
        let (numbers, mut norm) = (numbers(config, 3, 1.0, 0.99), poisoned(&[2]));
        ops::global_norm(&g, 1.0, &numbers, &mut norm).unwrap();
        ops::adamw(&g, &numbers, &norm, 0, state.moved()).unwrap();
        let State { p, m, v, average } = state;
        [p, m, v, average, norm]
    });
}

#[test]
fn refuses_other_arguments() {
    let (g, numbers) = (tensor(1, &[3], 1.0), numbers(AdamW::default(), 1, 1.0, 0.0));
    let (norm, mut state) = (multiplied_by(1.0), State::new(3, 1.0));
    let mut four = poisoned(&[4]);
    let moved = Moved { v: four.view_mut(), ..state.moved() };
    assert_refused(
        ops::adamw(&g, &numbers, &norm, 0, moved),
        "adamw: `v` should have shape [3], got [4]",
    );
    assert_refused(
        ops::adamw(&tensor(1, &[2], 1.0), &numbers, &norm, 0, state.moved()),
        "adamw: `gradient` should have shape [3], got [2]",
    );
    assert_refused(
        ops::adamw(&g, &norm, &norm, 0, state.moved()),
        "adamw: `numbers` should have shape [11], got [2]",
    );
    let mut three = poisoned(&[3]);
    let moved = Moved { rounded: Some(three.view_mut()), ..state.moved() };
    assert_refused(
        ops::adamw(&g, &numbers, &norm, 0, moved),
        "adamw: `rounded` should be none on the CPU, got some",
    );
    assert_refused(
        ops::global_norm(&g, 1.0, &numbers, &mut three),
        "global_norm: `norm` should have shape [2], got [3]",
    );
    assert_refused(
        AdamW::default().numbers(0, 1.0, 0.0).map(drop),
        "adamw: `step` should be 1 or more, got 0",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use half::{bf16, f16};
    use invad::ops::{Random, Stream};
    use invad::{DType, Device};

    const SEED: u64 = 0x0123_4567_89ab_cdef;

    /// Parameters, moments, average and the copy in f16.
    struct OnGpu {
        p: Guarded,
        m: Guarded,
        v: Guarded,
        average: Guarded,
        rounded: Guarded,
    }

    impl OnGpu {
        fn new(of: &State, moments: DType, gpu: Device) -> Self {
            let up = |t: &Tensor, dtype| {
                let mut guarded = Guarded::new(t.shape(), dtype, gpu);
                guarded.view_mut().copy_from_slice(&t.to_vec_f32()).unwrap();
                guarded
            };
            Self {
                p: up(&of.p, DType::F32),
                m: up(&of.m, moments),
                v: up(&of.v, moments),
                average: up(&of.average, DType::F32),
                rounded: Guarded::new(of.p.shape(), DType::F16, gpu),
            }
        }

        fn moved(&mut self) -> Moved<'_> {
            Moved {
                parameters: self.p.view_mut(),
                m: self.m.view_mut(),
                v: self.v.view_mut(),
                average: Some(self.average.view_mut()),
                rounded: Some(self.rounded.view_mut()),
            }
        }
    }

    fn up(t: &Tensor, gpu: Device) -> Tensor {
        upload(&t.to_vec_f32(), t.shape(), DType::F32, gpu)
    }

    #[test]
    fn tiny() {
        let Some(gpu) = gpu() else { return };
        for (config, factor) in configs().into_iter().zip([1.0, 0.37, 1e-3]) {
            for (n, scale) in [(1, 0.0), (7, 1.0), (8, 1.0), (2051, 0.0)] {
                let start = State::new(n, scale);
                let mut want = start.oracle();
                let mut got = OnGpu::new(&start, DType::F32, gpu);
                for k in 1..=3 {
                    let g = tensor(10 + k, &[n], 10f32.powi(k as i32 - 4));
                    let numbers = up(&numbers(config, k, 1.0, 0.9), gpu);
                    let norm = up(&multiplied_by(factor), gpu);
                    ops::adamw(&up(&g, gpu), &numbers, &norm, SEED, got.moved()).unwrap();
                    want.step(config, k as i32, factor.into(), 0.9, &f64s(&g));
                    let case = format!("{config:?} × {factor} n {n} scale {scale}, step {k}");
                    let p = got.p.f64s();
                    assert_close(&format!("{case}: p"), &p, &want.p, 1.5e-6);
                    assert_close(&format!("{case}: m"), &got.m.f64s(), &want.m, 1e-6);
                    assert_close(&format!("{case}: v"), &got.v.f64s(), &want.v, 1e-6);
                    let average = got.average.f64s();
                    assert_close(&format!("{case}: average"), &average, &want.average, 1.5e-6);
                    let halves: Vec<f64> = p.iter().map(|&p| f16::from_f64(p).to_f64()).collect();
                    assert_eq!(got.rounded.f64s(), halves, "{case}: f16");
                }
            }
        }
    }

    /// An f32 rounded to bf16 with 16 random bits.
    fn at_random(x: f64, bits: u32) -> f64 {
        let rounded = ((x as f32).to_bits() + bits) >> 16;
        bf16::from_bits(rounded as u16).to_f64()
    }

    /// Moments in bf16 are those of the oracle, rounded with the words of this step and seed. Where the
    /// oracle's f32 is one off, so may be the rounding: it is one of the two neighbours.
    #[test]
    fn tiny_moments_in_bf16() {
        let Some(gpu) = gpu() else { return };
        let (config, n) = (configs()[0], 1003);
        let mut state = State::new(n, 1.0);
        state.m = from(&uniform(5, n, 1.0), &[n]);
        state.v = from(&uniform(6, n, 1.0).iter().map(|v| v.abs()).collect::<Vec<_>>(), &[n]);
        let mut got = OnGpu::new(&state, DType::BF16, gpu);
        let mut want = Oracle { m: got.m.f64s(), v: got.v.f64s(), ..state.oracle() };
        let (g, k) = (tensor(7, &[n], 1.0), 12345);
        let numbers = up(&numbers(config, k, 1.0, 0.9), gpu);
        let norm = up(&multiplied_by(1.0), gpu);
        ops::adamw(&up(&g, gpu), &numbers, &norm, SEED, got.moved()).unwrap();
        want.step(config, k as i32, 1.0, 0.9, &f64s(&g));
        assert_close("p", &got.p.f64s(), &want.p, 1.5e-6);
        let random = Random { seed: SEED, stream: Stream::Rounding, step: k };
        for (name, got, want, shift) in
            [("m", got.m.f64s(), want.m, 0), ("v", got.v.f64s(), want.v, 16)]
        {
            let mut other = 0;
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let word = random.words(i as u64 / 4)[i % 4] >> shift & 0xffff;
                other += usize::from(*got != at_random(*want, word));
                let neighbours = [0, 0xffff].map(|bits| at_random(*want, bits));
                assert!(neighbours.contains(got), "{name}[{i}]: {got} for {want}");
            }
            assert!(other <= 2, "{name}: {other} of {n} rounded otherwise");
        }
    }

    /// With v far above g², v·(1 − β₂) is below half of a bf16's last place: rounded to nearest, v would
    /// stay where it is.
    #[test]
    fn tiny_moments_in_bf16_do_not_stall() {
        let Some(gpu) = gpu() else { return };
        let (config, n, steps) = (configs()[0], 4096, 100);
        let mut state = State::new(n, 1.0);
        state.v = from(&vec![1.0; n], &[n]);
        let mut got = OnGpu::new(&state, DType::BF16, gpu);
        let (g, norm) = (from(&vec![0.0; n], &[n]), up(&multiplied_by(1.0), gpu));
        let g = up(&g, gpu);
        for k in 1..=steps {
            let numbers = up(&numbers(config, k, 1.0, 0.9), gpu);
            ops::adamw(&g, &numbers, &norm, SEED, got.moved()).unwrap();
        }
        let mean = got.v.f64s().iter().sum::<f64>() / n as f64;
        let want = 0.999f64.powi(steps as i32);
        // A step's rounding has a deviation below 2⁻⁹; of 100 steps and 4096 numbers the mean's is 3e-4.
        assert!((mean - want).abs() <= 1.2e-3, "{mean} for {want}");
    }

    #[test]
    fn tiny_norm() {
        let Some(gpu) = gpu() else { return };
        for n in [1, 7, 16_384, 16_391, 40_003] {
            for (loss_scale, max_norm) in [(1.0, 1.0), (1024.0, 0.1), (1.0, f64::INFINITY)] {
                let x = tensor(1, &[n], 3.0);
                let numbers = up(&numbers(AdamW::default(), 1, loss_scale, 0.0), gpu);
                let mut got = Guarded::new(&[2], DType::F32, gpu);
                ops::global_norm(&up(&x, gpu), max_norm, &numbers, got.view_mut()).unwrap();
                let length = dot(&f64s(&x), &f64s(&x)).sqrt() / loss_scale;
                let factor = (max_norm / (length + 1e-6)).min(1.0) / loss_scale;
                let case = format!("n {n} / {loss_scale} ≤ {max_norm}");
                assert_close(&format!("{case}: norm"), &got.f64s()[..1], &[length], 1e-6);
                assert_close(&format!("{case}: factor"), &got.f64s()[1..], &[factor], 1e-6);
            }
        }
    }

    #[test]
    fn tiny_moves_nothing_without_a_finite_gradient() {
        let Some(gpu) = gpu() else { return };
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut g = uniform(1, 2051, 1.0);
            g[2050] = x;
            let g = upload(&g, &[2051], DType::F32, gpu);
            let numbers = up(&numbers(configs()[1], 1, 8.0, 0.9), gpu);
            let mut norm = Guarded::new(&[2], DType::F32, gpu);
            ops::global_norm(&g, 1.0, &numbers, norm.view_mut()).unwrap();
            let values = norm.f64s();
            assert!(!values[0].is_finite() && values[1].is_nan(), "{values:?}");
            let start = State::new(2051, 1.0);
            for moments in [DType::F32, DType::BF16] {
                let mut got = OnGpu::new(&start, moments, gpu);
                ops::adamw(&g, &numbers, norm.view_mut().view(), SEED, got.moved()).unwrap();
                assert_eq!(got.p.f64s(), f64s(&start.p));
                assert_eq!(got.m.f64s(), f64s(&start.m));
                assert_eq!(got.v.f64s(), f64s(&start.v));
                assert_eq!(got.average.f64s(), f64s(&start.average));
                assert!(got.rounded.f64s().iter().all(|x| x.is_nan()));
            }
        }
    }
}
