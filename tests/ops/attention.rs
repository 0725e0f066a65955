use crate::support::numbers::*;
use invad::{Tensor, ops};

const TOKENS: [usize; 9] = [1, 3, 17, 63, 64, 65, 113, 196, 256];
const HEAD_SIZES: [usize; 6] = [8, 32, 64, 72, 128, 256];

/// Probabilities (N, N), log-sum-exp (N) and output (N, d) of one head.
fn forward(q: &[f64], k: &[f64], v: &[f64], n: usize) -> [Vec<f64>; 3] {
    let d = q.len() / n;
    let mut p = product(q, &transposed(k, n, d), [n, d, n]);
    let mut lse = Vec::with_capacity(n);
    for row in p.chunks_exact_mut(n) {
        row.iter_mut().for_each(|s| *s /= (d as f64).sqrt());
        let max = row.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
        let l = max + row.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        row.iter_mut().for_each(|s| *s = (*s - l).exp());
        lse.push(l);
    }
    let out = product(&p, v, [n, n, d]);
    [p, lse, out]
}

/// The gradients of q, k and v of one head.
fn backward(q: &[f64], k: &[f64], v: &[f64], dout: &[f64], n: usize) -> [Vec<f64>; 3] {
    let d = q.len() / n;
    let [p, _, _] = forward(q, k, v, n);
    let mut ds = product(dout, &transposed(v, n, d), [n, d, n]);
    for (ds, p) in ds.chunks_exact_mut(n).zip(p.chunks_exact(n)) {
        let delta = dot(ds, p);
        ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - delta) / (d as f64).sqrt());
    }
    [
        product(&ds, k, [n, n, d]),
        product(&transposed(&ds, n, n), q, [n, n, d]),
        product(&transposed(&p, n, n), dout, [n, n, d]),
    ]
}

#[test]
fn oracle_is_the_gradient() {
    for (n, d) in [(1, 3), (4, 3), (3, 6)] {
        let numbers = |seed| f64s(&tensor(seed, &[n * d], 1.7));
        let (qkv, dout) = ([1, 2, 3].map(numbers), numbers(4));
        let want = numeric_gradient(&qkv.concat(), |v| {
            let (q, kv) = v.split_at(n * d);
            let [_, _, out] = forward(q, &kv[..n * d], &kv[n * d..], n);
            dot(&dout, &out)
        });
        let got = backward(&qkv[0], &qkv[1], &qkv[2], &dout, n).concat();
        assert_close(&format!("{n} tokens of {d}"), &got, &want, 1e-9);
    }
}

struct Results {
    out: Tensor,
    lse: Tensor,
    dqkv: Tensor,
}

fn run(qkv: &Tensor, dout: &Tensor) -> Results {
    let [b, n, _, h, d] = qkv.shape().try_into().unwrap();
    let (mut out, mut lse) = (poisoned(&[b, n, h * d]), poisoned(&[b, h, n]));
    let mut dqkv = poisoned(qkv.shape());
    ops::attention(qkv, &mut out, Some(lse.view_mut())).unwrap();
    ops::attention_backward(qkv, &out, &lse, dout, &mut dqkv).unwrap();
    Results { out, lse, dqkv }
}

/// The same by the oracle, laid out alike.
fn oracle(qkv: &Tensor, dout: &Tensor) -> [Vec<f64>; 3] {
    let [b, n, _, h, d] = qkv.shape().try_into().unwrap();
    let (x, dout) = (f64s(qkv), f64s(dout));
    let mut out = vec![0.0; b * n * h * d];
    let mut lse = Vec::with_capacity(b * h * n);
    let mut dqkv = vec![0.0; x.len()];
    for image in 0..b {
        for head in 0..h {
            let in_qkv = |part: usize, token: usize, j: usize| {
                (((image * n + token) * 3 + part) * h + head) * d + j
            };
            let in_out = |token: usize, j: usize| ((image * n + token) * h + head) * d + j;
            let every = || (0..n).flat_map(|token| (0..d).map(move |j| (token, j)));
            let [q, k, v] =
                [0, 1, 2].map(|part| every().map(|(t, j)| x[in_qkv(part, t, j)]).collect());
            let (q, k, v): (Vec<f64>, Vec<f64>, Vec<f64>) = (q, k, v);
            let d_o: Vec<f64> = every().map(|(t, j)| dout[in_out(t, j)]).collect();
            let [_, l, o] = forward(&q, &k, &v, n);
            lse.extend(l);
            every().zip(o).for_each(|((t, j), o)| out[in_out(t, j)] = o);
            for (part, dx) in backward(&q, &k, &v, &d_o, n).into_iter().enumerate() {
                every().zip(dx).for_each(|((t, j), dx)| dqkv[in_qkv(part, t, j)] = dx);
            }
        }
    }
    [out, lse, dqkv]
}

fn check(shape: [usize; 4], scale: f32, tolerance: f64) {
    let [b, n, h, d] = shape;
    let case = format!("(B {b}, N {n}, H {h}, d {d}) × {scale}");
    let qkv = tensor(1, &[b, n, 3, h, d], scale);
    let dout = tensor(2, &[b, n, h * d], 1.0);
    let got = run(&qkv, &dout);
    let [out, lse, dqkv] = oracle(&qkv, &dout);
    assert_close(&format!("{case}: out"), &f64s(&got.out), &out, tolerance);
    assert_close(&format!("{case}: lse"), &f64s(&got.lse), &lse, 1e-6);
    assert_close(&format!("{case}: dqkv"), &f64s(&got.dqkv), &dqkv, tolerance);
    let mut without = poisoned(&[b, n, h * d]);
    ops::attention(&qkv, &mut without, None).unwrap();
    assert_eq!(bits(&without), bits(&got.out), "{case}: without lse");
}

/// Every token count with every head size, and each of both with one, two and three images.
#[test]
fn forward_and_backward() {
    for (i, tokens) in TOKENS.into_iter().enumerate() {
        for (j, size) in HEAD_SIZES.into_iter().enumerate() {
            check([1 + (i + j) % 3, tokens, 1 + (i + j / 3) % 3, size], 1.7, 5e-6);
        }
    }
}

/// Few tokens of many heads of 64, as at the deepest levels of a UNet.
#[test]
fn few_tokens() {
    for shape in [[2, 4, 32, 64], [1, 16, 24, 64], [3, 16, 2, 64]] {
        check(shape, 1.7, 5e-6);
    }
}

/// Logits of ±1e3, where an ulp is 6e-5: probabilities are off by that much.
#[test]
fn huge_logits() {
    for (shape, scale) in [([1, 65, 2, 8], 33.0), ([2, 113, 1, 64], 22.0), ([1, 256, 1, 32], 26.0)]
    {
        check(shape, scale, 2e-4);
    }
}

#[test]
fn one_logit_above_all() {
    let (n, d) = (40, 8);
    let mut x = vec![0.0f32; n * 3 * d];
    for (token, row) in x.chunks_exact_mut(3 * d).enumerate() {
        row[0] = 1e3 * 8f32.sqrt();
        row[d] = if token == 7 { 1.0 } else { -1.0 };
        row[2 * d..].fill(token as f32);
    }
    let qkv = from(&x, &[1, n, 3, 1, d]);
    let got = run(&qkv, &tensor(2, &[1, n, d], 1.0));
    assert!(got.out.to_vec_f32().iter().all(|&o| o == 7.0));
    assert!(got.lse.to_vec_f32().iter().all(|&l| (l - 1e3).abs() <= 1e-3));
    let dqkv = got.dqkv.to_vec_f32();
    assert!(dqkv.iter().all(|d| d.is_finite()));
    let of = |part: usize| move |row: &[f32]| row[part * d..][..d].to_vec();
    assert!(dqkv.chunks_exact(3 * d).flat_map(of(0)).all(|dq| dq.abs() <= 1e-3));
}

#[test]
fn threads_do_not_matter() {
    for [b, n, h, d] in [[1, 256, 2, 32], [1, 65, 3, 72], [3, 113, 2, 64]] {
        let qkv = tensor(1, &[b, n, 3, h, d], 1.7);
        let dout = tensor(2, &[b, n, h * d], 1.0);
        assert_threads_do_not_matter(|| {
            let Results { out, lse, dqkv } = run(&qkv, &dout);
            [out, lse, dqkv]
        });
    }
}

#[test]
fn refuses_other_shapes() {
    let (qkv, mut out) = (tensor(1, &[2, 3, 3, 2, 4], 1.0), poisoned(&[2, 3, 8]));
    assert_refused(
        ops::attention(&tensor(1, &[2, 3, 2, 2, 4], 1.0), &mut out, None),
        "attention: `qkv` should have shape (B, N, 3, H, d), got [2, 3, 2, 2, 4]",
    );
    assert_refused(
        ops::attention(&qkv, &mut out, Some(poisoned(&[2, 3, 2]).view_mut())),
        "attention: `lse` should have shape [2, 2, 3], got [2, 3, 2]",
    );
    let (lse, mut dqkv) = (poisoned(&[2, 2, 3]), poisoned(qkv.shape()));
    assert_refused(
        ops::attention_backward(&qkv, &out, &lse, &poisoned(&[2, 8, 3]), &mut dqkv),
        "attention_backward: `dout` should have shape [2, 3, 8], got [2, 8, 3]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use half::f16;
    use invad::{DType, Device};
    use std::env;
    use std::process::Command;

    /// Output (B, N, H·d) and log-sum-exp (B, H, N), and the output with scores and probabilities
    /// stored in f16.
    fn expected(qkv: &[f32], [b, n, h, d]: [usize; 4]) -> [Vec<f64>; 3] {
        let mut out = vec![0.0; b * n * h * d];
        let (mut naive, mut lse) = (out.clone(), Vec::new());
        for image in 0..b {
            for head in 0..h {
                let part = |part: usize| -> Vec<f64> {
                    let at = |i: usize| (((image * n + i / d) * 3 + part) * h + head) * d + i % d;
                    (0..n * d).map(|i| qkv[at(i)].into()).collect()
                };
                let (q, k, v) = (part(0), part(1), part(2));
                let [_, l, o] = forward(&q, &k, &v, n);
                lse.extend(l);
                let mut p = product(&q, &transposed(&k, n, d), [n, d, n]);
                for row in p.chunks_exact_mut(n) {
                    row.iter_mut().for_each(|s| *s = rounded(*s / (d as f64).sqrt()));
                    let max = row.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
                    let sum: f64 = row.iter().map(|s| (s - max).exp()).sum();
                    row.iter_mut().for_each(|s| *s = rounded((*s - max).exp() / sum));
                }
                let stored = product(&p, &v, [n, n, d]);
                for i in 0..n * d {
                    let at = ((image * n + i / d) * h + head) * d + i % d;
                    (out[at], naive[at]) = (o[i], rounded(stored[i]));
                }
            }
        }
        [out, lse, naive]
    }

    /// Alone, and among so many copies that there are more blocks than multiprocessors, which takes another
    /// kernel.
    fn check(shape: [usize; 4], scale: f32) {
        let Some(gpu) = gpu() else { return };
        let [b, n, h, d] = shape;
        let numbers = halves(1, b * n * 3 * h * d, scale);
        let [want, want_lse, naive] = expected(&numbers, shape);
        let multiprocessors = if is_emulated() { 32 } else { 512 };
        let crowd = 1 + multiprocessors / (b * n.div_ceil(32) * h);
        for copies in if n > 256 { vec![1] } else { vec![1, crowd] } {
            let b = copies * b;
            let case = format!("(B {b}, N {n}, H {h}, d {d}) × {scale}");
            let qkv = upload(&numbers.repeat(copies), &[b, n, 3, h, d], DType::F16, gpu);
            let mut out = Guarded::new(&[b, n, h * d], DType::F16, gpu);
            let mut lse = Guarded::new(&[b, h, n], DType::F32, gpu);
            ops::attention(&qkv, out.view_mut(), Some(lse.view_mut())).unwrap();
            let (got, got_lse) = (out.f64s(), lse.f64s());
            let (first, first_lse) = (&got[..want.len()], &got_lse[..want_lse.len()]);
            assert_as_good(&case, first, &want, &naive);
            assert_close(&format!("{case}: lse"), first_lse, &want_lse, 3e-6);
            assert!(got.chunks(first.len()).all(|copy| copy == first), "{case}: copies");
            assert!(got_lse.chunks(first_lse.len()).all(|copy| copy == first_lse), "{case}: lse");
            let mut without = Guarded::new(&[b, n, h * d], DType::F16, gpu);
            ops::attention(&qkv, without.view_mut(), None).unwrap();
            assert_eq!(without.f64s(), got, "{case}: without lse");
        }
    }

    /// dQKV, and the same with everything on the way to it stored in f16: scores, probabilities and
    /// their gradients.
    fn expected_backward(qkv: &[f32], dout: &[f32], [b, n, h, d]: [usize; 4]) -> [Vec<f64>; 2] {
        let mut want = vec![0.0; b * n * 3 * h * d];
        let mut naive = want.clone();
        let root = (d as f64).sqrt();
        for image in 0..b {
            for head in 0..h {
                let at = |part: usize, i: usize| {
                    (((image * n + i / d) * 3 + part) * h + head) * d + i % d
                };
                let [q, k, v] = [0, 1, 2]
                    .map(|part| (0..n * d).map(|i| qkv[at(part, i)].into()).collect::<Vec<f64>>());
                let in_out = |i: usize| ((image * n + i / d) * h + head) * d + i % d;
                let d_o: Vec<f64> = (0..n * d).map(|i| dout[in_out(i)].into()).collect();
                let exact = backward(&q, &k, &v, &d_o, n);

                let mut p = product(&q, &transposed(&k, n, d), [n, d, n]);
                for row in p.chunks_exact_mut(n) {
                    row.iter_mut().for_each(|s| *s = rounded(*s / root));
                    let max = row.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
                    let sum: f64 = row.iter().map(|s| (s - max).exp()).sum();
                    row.iter_mut().for_each(|s| *s = rounded((*s - max).exp() / sum));
                }
                let out = product(&p, &v, [n, n, d]);
                let mut ds = product(&d_o, &transposed(&v, n, d), [n, d, n]);
                for (i, (ds, p)) in ds.chunks_exact_mut(n).zip(p.chunks_exact(n)).enumerate() {
                    let products = out[i * d..][..d].iter().zip(&d_o[i * d..]);
                    let delta: f64 = products.map(|(o, d)| rounded(*o) * d).sum();
                    for (ds, p) in ds.iter_mut().zip(p) {
                        *ds = rounded(p * (rounded(*ds) - delta));
                    }
                }
                let over_root = |x: Vec<f64>| x.into_iter().map(|x| x / root).collect::<Vec<_>>();
                let stored = [
                    over_root(product(&ds, &k, [n, n, d])),
                    over_root(product(&transposed(&ds, n, n), &q, [n, n, d])),
                    product(&transposed(&p, n, n), &d_o, [n, n, d]),
                ];
                for part in 0..3 {
                    for i in 0..n * d {
                        want[at(part, i)] = exact[part][i];
                        naive[at(part, i)] = rounded(stored[part][i]);
                    }
                }
            }
        }
        [want, naive]
    }

    /// The same numbers apart for q, k and v.
    fn parts(x: &[f64], width: usize) -> [Vec<f64>; 3] {
        [0, 1, 2].map(|part| {
            let rows = x.chunks_exact(3 * width);
            rows.flat_map(|row| row[part * width..][..width].to_vec()).collect()
        })
    }

    /// The gradient on a GPU, of what the forward pass there has left.
    fn run_backward(qkv: &[f32], dout: &[f32], [b, n, h, d]: [usize; 4], gpu: Device) -> Vec<f64> {
        let qkv = upload(qkv, &[b, n, 3, h, d], DType::F16, gpu);
        let dout = upload(dout, &[b, n, h * d], DType::F16, gpu);
        let mut out = Tensor::zeros(&[b, n, h * d], DType::F16, gpu).unwrap();
        let mut lse = Tensor::zeros(&[b, h, n], DType::F32, gpu).unwrap();
        ops::attention(&qkv, &mut out, Some(lse.view_mut())).unwrap();
        let mut dqkv = Guarded::new(&[b, n, 3, h, d], DType::F16, gpu);
        ops::attention_backward(&qkv, &out, &lse, &dout, dqkv.view_mut()).unwrap();
        dqkv.f64s()
    }

    /// `dout` is up to `usual`, in some rows up to `at_times`.
    fn check_backward(shape: [usize; 4], scale: f32, [usual, at_times]: [f32; 2]) {
        let Some(gpu) = gpu() else { return };
        let [b, n, h, d] = shape;
        let qkv = halves(1, b * n * 3 * h * d, scale);
        let mut dout = uniform(2, b * n * h * d, usual);
        for row in dout.chunks_exact_mut(h * d).skip(n / 2).step_by(n.max(7)) {
            row.iter_mut().for_each(|x| *x *= at_times / usual);
        }
        let dout: Vec<f32> = dout.into_iter().map(|x| f16::from_f32(x).to_f32()).collect();
        let [want, naive] = expected_backward(&qkv, &dout, shape);
        let got = run_backward(&qkv, &dout, shape, gpu);
        let [got, want, naive] = [got, want, naive].map(|x| parts(&x, h * d));
        for (part, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
            let case = format!("(B {b}, N {n}, H {h}, d {d}) × {scale}, {at_times}: {name}");
            assert_gradient_as_good(&case, &got[part], &want[part], &naive[part]);
        }
    }

    #[test]
    fn tiny() {
        check([1, 65, 1, 64], 1.7);
        check([1, 33, 1, 136], 1.7);
        check([1, 257, 1, 32], 1.7);
    }

    #[test]
    fn tiny_backward() {
        check_backward([1, 65, 1, 40], 1.7, [1.0; 2]);
        check_backward([1, 257, 1, 32], 1.7, [1.0; 2]);
    }

    #[test]
    fn backward_up_to_256_tokens() {
        for (i, tokens) in TOKENS.into_iter().enumerate() {
            for (j, size) in HEAD_SIZES.into_iter().enumerate() {
                // Every number of tokens and every size, each with two of the others.
                if (i + j) % 3 == 0 || tokens == 256 {
                    check_backward([1 + (i + j) % 2, tokens, 1 + j % 2, size], 1.7, [1.0; 2]);
                }
            }
        }
    }

    #[test]
    fn backward_of_more_tokens() {
        for shape in [[2, 300, 2, 72], [1, 321, 1, 256], [1, 513, 2, 96], [1, 1024, 1, 32]] {
            check_backward(shape, 1.7, [1.0; 2]);
        }
    }

    #[test]
    fn backward_of_large_and_small_numbers() {
        check_backward([1, 65, 2, 32], 12.0, [1.0; 2]);
        check_backward([1, 256, 1, 64], 8.0, [1.0, 100.0]);
        check_backward([2, 113, 1, 72], 1.7, [8.0, 800.0]);
        check_backward([1, 100, 1, 128], 1.7, [0.05; 2]);
    }

    /// What f16 cannot hold is seen by whoever looks for it.
    #[test]
    fn backward_overflows_to_infinity() {
        let Some(gpu) = gpu() else { return };
        let shape @ [b, n, h, d] = [1, 70, 2, 32];
        let qkv = halves(1, b * n * 3 * h * d, 4.0);
        let dout = halves(2, b * n * h * d, 60_000.0);
        let [want, _] = expected_backward(&qkv, &dout, shape);
        assert!(want.iter().any(|x| x.abs() > 65_520.0), "nothing to overflow");
        let got = run_backward(&qkv, &dout, shape, gpu);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(want.abs() < 66_000.0 || !got.is_finite(), "[{i}] got {got}, want {want}");
        }
    }

    /// Whatever other threads do with what the kernels leave to each other.
    #[test]
    fn backward_gives_the_same_bits_again() {
        let Some(gpu) = gpu() else { return };
        let shape @ [b, n, h, d] = [2, 196, 2, 64];
        std::thread::scope(|scope| {
            for seed in [1, 2, 3] {
                scope.spawn(move || {
                    let qkv = halves(seed, b * n * 3 * h * d, 1.7);
                    let dout = halves(seed + 3, b * n * h * d, 1.0);
                    let first = run_backward(&qkv, &dout, shape, gpu);
                    for _ in 0..4 {
                        assert_eq!(run_backward(&qkv, &dout, shape, gpu), first);
                    }
                });
            }
        });
    }

    #[test]
    fn up_to_256_tokens() {
        for (i, tokens) in TOKENS.into_iter().enumerate() {
            for (j, size) in HEAD_SIZES.into_iter().enumerate() {
                // Every number of tokens and every size, each with two of the others.
                if (i + j) % 3 == 0 || tokens == 256 {
                    check([1 + (i + j) % 2, tokens, 1 + j % 2, size], 1.7);
                }
            }
        }
    }

    #[test]
    fn few_tokens() {
        for shape in [[2, 4, 5, 64], [1, 16, 3, 64], [3, 4, 1, 64]] {
            check(shape, 1.7);
            check_backward(shape, 1.7, [1.0; 2]);
        }
    }

    /// The kernel of compute capability 9.0, which the emulated GPU has where it is told so.
    #[test]
    fn of_hopper() {
        if gpu().is_none() || !is_emulated() {
            return;
        }
        for seed in ["0", "1"] {
            let ran = Command::new(env::current_exe().unwrap())
                .args(["attention::on_gpu::", "--skip", "backward", "--skip", "of_hopper"])
                .env("INVAD_TEST_DEVICE", "emulated")
                .env("INVAD_EMULATOR_ARCH", "90")
                .env("INVAD_ATTENTION", "wgmma")
                .env("INVAD_EMULATOR_SEED", seed)
                .output()
                .unwrap();
            let [out, err] = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap());
            assert!(ran.status.success(), "seed {seed}: {out}{err}");
        }
    }

    #[test]
    fn more_tokens() {
        for shape in [[1, 257, 2, 32], [1, 300, 1, 72], [2, 333, 1, 128], [1, 321, 1, 256]] {
            check(shape, 1.7);
        }
    }

    #[test]
    fn large_logits() {
        check([1, 65, 2, 32], 12.0);
        check([1, 256, 1, 64], 8.0);
    }

    #[test]
    fn refuses_sizes_it_has_no_kernel_for() {
        let Some(gpu) = gpu() else { return };
        for size in [4, 12, 264] {
            let qkv = upload(&vec![0.0; 6 * size], &[1, 2, 3, 1, size], DType::F16, gpu);
            let (mut out, mut dqkv) =
                (upload(&vec![0.0; 2 * size], &[1, 2, size], DType::F16, gpu), qkv.clone());
            let lse = upload(&[0.0; 2], &[1, 1, 2], DType::F32, gpu);
            let refused = format!(
                "`qkv` should have shape (B, N, 3, H, d) with d a multiple of 8 up to 256 on a \
                 GPU, got [1, 2, 3, 1, {size}]"
            );
            let forward = ops::attention(&qkv, &mut out, None);
            assert_refused(forward, &format!("attention: {refused}"));
            let backward = ops::attention_backward(&qkv, &out, &lse, &out, &mut dqkv);
            assert_refused(backward, &format!("attention_backward: {refused}"));
        }
    }
}
