use crate::support::numbers::*;
use invad::{Tensor, ops};
use nalgebra::{DMatrix, DVector};

/// Sizes B, P, K, C.
type Sizes = [usize; 4];

/// (B, P) by the formula.
fn oracle(x: &[f64], mean: &[f64], vectors: &[f64], [b, p, k, c]: Sizes) -> Vec<f64> {
    let distance = |i: usize| {
        let (x, mean) = (&x[i * c..][..c], &mean[i % p * c..][..c]);
        let y: Vec<f64> = x.iter().zip(mean).map(|(x, m)| x - m).collect();
        let rows = vectors[i % p * k * c..][..k * c].chunks_exact(c);
        let explained: f64 = rows.map(|v| dot(v, &y).powi(2)).sum();
        (dot(&y, &y) - explained).max(0.0).sqrt()
    };
    (0..b * p).map(distance).collect()
}

/// x, mean and vectors; those take away a third at most.
fn numbers([b, p, k, c]: Sizes, scale: f32) -> [Vec<f32>; 3] {
    let length = 1.0 / ((k * c).max(1) as f32).sqrt();
    [uniform(1, b * p * c, scale), uniform(2, p * c, 0.7 * scale), uniform(3, p * k * c, length)]
}

fn tensors([b, p, k, c]: Sizes, scale: f32) -> [Tensor; 3] {
    let [x, mean, vectors] = numbers([b, p, k, c], scale);
    [from(&x, &[b, p, c]), from(&mean, &[p, c]), from(&vectors, &[p, k, c])]
}

fn run([x, mean, vectors]: &[Tensor; 3], [b, p, ..]: Sizes) -> Tensor {
    let mut map = poisoned(&[b, p]);
    ops::mahalanobis(x, mean, vectors, &mut map).unwrap();
    map
}

const TINY: [Sizes; 9] = [
    [1, 1, 1, 8],
    [1, 3, 0, 16],
    [2, 3, 3, 24],
    [3, 1, 16, 72],
    [5, 3, 17, 64],
    [1, 17, 3, 200],
    [9, 2, 4, 8],
    [2, 1, 33, 520],
    [0, 3, 2, 8],
];
const OF_A_NETWORK: [Sizes; 3] = [[3, 17, 16, 192], [1, 256, 16, 192], [2, 256, 3, 272]];

#[test]
fn forward() {
    let others = [[1, 1, 1, 1], [2, 3, 5, 7], [3, 17, 1, 33], [17, 3, 6, 300]];
    for sizes in TINY.into_iter().chain(OF_A_NETWORK).chain(others) {
        // Rows whose squares are large as well.
        for scale in [1.7, 1e15] {
            let inputs = tensors(sizes, scale);
            let [x, mean, vectors] = inputs.each_ref().map(f64s);
            let want = oracle(&x, &mean, &vectors, sizes);
            assert_close(&format!("{sizes:?}"), &f64s(&run(&inputs, sizes)), &want, 5e-7);
        }
    }
}

/// `rank` orthonormal columns of `channels` numbers.
fn orthonormal(seed: u64, channels: usize, rank: usize) -> DMatrix<f64> {
    let numbers = uniform(seed, channels * rank, 1.0).into_iter().map(f64::from);
    DMatrix::from_iterator(channels, rank, numbers).qr().q()
}

/// λ of each column.
fn eigenvalues(rank: usize) -> DVector<f64> {
    DVector::from_fn(rank, |k, _| 20.0 / (k + 1) as f64)
}

/// The rows v_k of one position.
fn rows(u: &DMatrix<f64>, eigenvalues: &DVector<f64>) -> Vec<f32> {
    let scaled = u.column_iter().zip(eigenvalues.iter());
    scaled
        .flat_map(|(u, l)| (u * (l / (1.0 + l)).sqrt()).data.as_vec().clone())
        .map(|v| v as f32)
        .collect()
}

#[test]
fn is_the_distance_by_the_inverse_of_the_covariance() {
    for [b, p, k, c] in [[3, 3, 1, 8], [2, 4, 5, 24], [2, 2, 16, 192], [1, 2, 8, 8]] {
        let [x, mean, _] = numbers([b, p, k, c], 1.7);
        let (mut vectors, mut want) = (Vec::new(), vec![0.0; b * p]);
        for position in 0..p {
            let (u, eigenvalues) = (orthonormal(position as u64, c, k), eigenvalues(k));
            vectors.extend(rows(&u, &eigenvalues));
            let low_rank = &u * DMatrix::from_diagonal(&eigenvalues) * u.transpose();
            let inverse = (DMatrix::identity(c, c) + low_rank).try_inverse().unwrap();
            for image in 0..b {
                let i = image * p + position;
                let y = DVector::from_fn(c, |e, _| {
                    f64::from(x[i * c + e]) - f64::from(mean[position * c + e])
                });
                want[i] = y.dot(&(&inverse * &y)).sqrt();
            }
        }
        let inputs = [from(&x, &[b, p, c]), from(&mean, &[p, c]), from(&vectors, &[p, k, c])];
        let got = f64s(&run(&inputs, [b, p, k, c]));
        assert_close(&format!("{:?}", [b, p, k, c]), &got, &want, 2e-6);
    }
}

#[test]
fn along_a_vector_most_cancels() {
    let (u, eigenvalues) = (orthonormal(1, 192, 3), eigenvalues(3));
    let vectors = from(&rows(&u, &eigenvalues), &[1, 3, 192]);
    let mean = from(&[0.0; 192], &[1, 192]);
    for (u, l) in u.column_iter().zip(eigenvalues.iter()) {
        let x: Vec<f32> = u.iter().map(|&u| 7.0 * u as f32).collect();
        let got =
            f64s(&run(&[from(&x, &[1, 1, 192]), mean.clone(), vectors.clone()], [1, 1, 3, 192]));
        assert_close(&format!("λ = {l}"), &got, &[7.0 / (1.0 + l).sqrt()], 1e-7 * (1.0 + l));
    }
}

#[test]
fn rounding_below_zero_is_zero() {
    // v is longer than 1.
    let v = from(&[0.6, 0.8 + 1e-6], &[1, 1, 2]);
    let x = from(&[3.0, 4.0, 0.0, 0.0], &[2, 1, 2]);
    assert_eq!(run(&[x, from(&[0.0; 2], &[1, 2]), v], [2, 1, 1, 2]).to_vec_f32(), [0.0, 0.0]);
}

const NOT_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

#[test]
fn what_is_not_finite_stays_so() {
    let sizes @ [_, p, k, c] = [5, 3, 5, 24];
    let inputs = tensors(sizes, 1.7);
    let before = bits(&run(&inputs, sizes));
    for value in NOT_FINITE.into_iter().chain([f32::MAX, 1e30]) {
        for at in [0, 23, 24 * 7 + 17, 24 * 15 - 1] {
            let [x, mean, vectors] = inputs.clone();
            let mut x = x.to_vec_f32();
            x[at] = value;
            let inputs = [from(&x, &[5, p, c]), mean, vectors];
            let map = run(&inputs, sizes).to_vec_f32();
            for (i, (&got, &before)) in map.iter().zip(&before).enumerate() {
                let as_before = got.to_bits() == before;
                assert!(if i == at / c { !got.is_finite() } else { as_before }, "{value} at {at}");
            }
        }
    }
    // And what no data should hold.
    let [x, mean, _] = inputs;
    for value in NOT_FINITE {
        let vectors = from(&vec![value; p * k * c], &[p, k, c]);
        let map = run(&[x.clone(), mean.clone(), vectors], sizes).to_vec_f32();
        assert!(map.iter().all(|d| !d.is_finite()), "vectors of {value}");
    }
}

#[test]
fn other_axes_are_the_same_rows() {
    let sizes = [3, 4, 5, 24];
    let [x, mean, vectors] = tensors(sizes, 1.7);
    let want = bits(&run(&[x.clone(), mean.clone(), vectors.clone()], sizes));
    for shape in [&[3, 2, 2, 24][..], &[12, 24]] {
        let x = x.clone().reshape(shape).unwrap();
        assert_eq!(bits(&run(&[x, mean.clone(), vectors.clone()], sizes)), want, "{shape:?}");
    }
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let [b, p, k, c] = [19, 35, 5, 50];
    let [x, mean, vectors] = tensors([b, p, k, c], 1.7);
    let all = bits(&run(&[x.clone(), mean.clone(), vectors.clone()], [b, p, k, c]));
    for (image, (x, want)) in x.to_vec_f32().chunks(p * c).zip(all.chunks(p)).enumerate() {
        let inputs = [from(x, &[1, p, c]), mean.clone(), vectors.clone()];
        assert_eq!(bits(&run(&inputs, [1, p, k, c])), want, "image {image}");
    }
}

#[test]
fn threads_do_not_matter() {
    let sizes = [11, 100, 5, 50];
    let inputs = tensors(sizes, 1.7);
    assert_threads_do_not_matter(|| [run(&inputs, sizes)]);
}

#[test]
fn refuses_other_shapes() {
    let run = |x: &[usize], mean: &[usize], vectors: &[usize], map: &[usize]| {
        let [x, mean, vectors] = [x, mean, vectors].map(|shape| tensor(1, shape, 1.0));
        ops::mahalanobis(&x, &mean, &vectors, &mut poisoned(map))
    };
    for (x, mean, vectors, map, message) in [
        (
            &[2, 3, 4][..],
            &[2, 3, 4][..],
            &[3, 5, 4][..],
            &[2, 3][..],
            "`mean` should have shape (P, C), got [2, 3, 4]",
        ),
        (
            &[2, 0, 4],
            &[0, 4],
            &[0, 5, 4],
            &[2, 0],
            "`mean` should have shape (P ≥ 1, C ≥ 1), got [0, 4]",
        ),
        (
            &[2, 3, 4],
            &[3, 4],
            &[15, 4],
            &[2, 3],
            "`vectors` should have shape (P, K, C), got [15, 4]",
        ),
        (
            &[2, 3, 4],
            &[3, 4],
            &[2, 5, 4],
            &[2, 3],
            "`vectors` should have shape [3, 5, 4], got [2, 5, 4]",
        ),
        (&[2, 3, 4], &[3, 4], &[3, 5, 4], &[6], "`map` should have shape (B, P), got [6]"),
        (&[2, 3, 4], &[3, 4], &[3, 5, 4], &[2, 4], "`map` should have shape [2, 3], got [2, 4]"),
        (
            &[3, 3, 4],
            &[3, 4],
            &[3, 5, 4],
            &[2, 3],
            "`x` should have shape (…, 4) with 6 rows, got [3, 3, 4]",
        ),
        (
            &[2, 4, 3],
            &[3, 4],
            &[3, 5, 4],
            &[2, 3],
            "`x` should have shape (…, 4) with 6 rows, got [2, 4, 3]",
        ),
    ] {
        assert_refused(run(x, mean, vectors, map), &format!("mahalanobis: {message}"));
    }
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::{DType, Device};

    fn run_on(
        [x, mean, vectors]: [&[f32]; 3],
        [b, p, k, c]: Sizes,
        dtype: DType,
        gpu: Device,
    ) -> Vec<f64> {
        let x = upload(x, &[b, p, c], dtype, gpu);
        let mean = upload(mean, &[p, c], DType::F32, gpu);
        let vectors = upload(vectors, &[p, k, c], DType::F32, gpu);
        let mut map = Guarded::new(&[b, p], DType::F32, gpu);
        ops::mahalanobis(&x, &mean, &vectors, map.view_mut()).unwrap();
        map.f64s()
    }

    fn check(sizes: Sizes, scale: f32) {
        let Some(gpu) = gpu() else { return };
        let [x, mean, vectors] = numbers(sizes, scale);
        let halves = halves(1, x.len(), scale);
        for (x, dtype) in [(x, DType::F32), (halves, DType::F16)] {
            let [x64, mean64, vectors64] =
                [&x, &mean, &vectors].map(|v| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
            let want = oracle(&x64, &mean64, &vectors64, sizes);
            let got = run_on([&x, &mean, &vectors], sizes, dtype, gpu);
            assert_close(&format!("{sizes:?} of {scale} in {dtype:?}"), &got, &want, 1e-6);
        }
    }

    #[test]
    fn tiny() {
        for sizes in TINY {
            check(sizes, 1.7);
        }
    }

    #[test]
    fn of_a_network() {
        for sizes in OF_A_NETWORK {
            check(sizes, 1.7);
        }
    }

    #[test]
    fn large_rows() {
        check([2, 3, 5, 72], 6e4);
    }

    #[test]
    fn along_a_vector_most_cancels() {
        let Some(gpu) = gpu() else { return };
        let (u, eigenvalues) = (orthonormal(1, 192, 3), eigenvalues(3));
        let vectors = rows(&u, &eigenvalues);
        for (u, l) in u.column_iter().zip(eigenvalues.iter()) {
            let x: Vec<f32> = u.iter().map(|&u| 7.0 * u as f32).collect();
            let inputs = [&x[..], &[0.0; 192], &vectors];
            let got = run_on(inputs, [1, 1, 3, 192], DType::F32, gpu);
            assert_close(&format!("λ = {l}"), &got, &[7.0 / (1.0 + l).sqrt()], 2e-7 * (1.0 + l));
        }
    }

    #[test]
    fn rounding_below_zero_is_zero() {
        let Some(gpu) = gpu() else { return };
        let (mut x, mut v) = ([0.0; 16], [0.0; 8]);
        (x[0], x[1], v[0], v[1]) = (3.0, 4.0, 0.6, 0.8 + 1e-6);
        let map = run_on([&x, &[0.0; 8], &v], [2, 1, 1, 8], DType::F16, gpu);
        assert_eq!(map, [0.0, 0.0]);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let Some(gpu) = gpu() else { return };
        let sizes @ [_, _, _, c] = [3, 3, 5, 72];
        let [x, mean, vectors] = numbers(sizes, 1.7);
        for dtype in [DType::F16, DType::F32] {
            let before = run_on([&x, &mean, &vectors], sizes, dtype, gpu);
            for value in NOT_FINITE.into_iter().chain((dtype == DType::F32).then_some(1e30)) {
                for at in [0, 71, 72 * 5 + 17, 72 * 9 - 1] {
                    let mut x = x.clone();
                    x[at] = value;
                    let map = run_on([&x, &mean, &vectors], sizes, dtype, gpu);
                    for (i, (&got, &before)) in map.iter().zip(&before).enumerate() {
                        let fits = if i == at / c { !got.is_finite() } else { got == before };
                        assert!(fits, "{value} at {at} in {dtype:?}: [{i}] {got}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        let Some(gpu) = gpu() else { return };
        let [b, p, k, c] = [5, 3, 19, 72];
        let [x, mean, vectors] = numbers([b, p, k, c], 1.7);
        let all = run_on([&x, &mean, &vectors], [b, p, k, c], DType::F32, gpu);
        for (x, want) in x.chunks(p * c).zip(all.chunks(p)) {
            assert_eq!(run_on([x, &mean, &vectors], [1, p, k, c], DType::F32, gpu), want);
        }
    }

    #[test]
    fn refuses_what_it_has_no_kernel_for() {
        let Some(gpu) = gpu() else { return };
        let run = |c: usize, dtype| {
            let x = upload(&vec![0.0; 2 * c], &[2, 1, c], DType::F16, gpu);
            let mean = upload(&vec![0.0; c], &[1, c], dtype, gpu);
            let vectors = upload(&vec![0.0; 3 * c], &[1, 3, c], DType::F32, gpu);
            let mut map = Guarded::new(&[2, 1], DType::F32, gpu);
            ops::mahalanobis(&x, &mean, &vectors, map.view_mut())
        };
        assert_refused(
            run(12, DType::F32),
            "mahalanobis: `mean` should have shape (P, C) with C a multiple of 8 on a GPU, got [1, \
             12]",
        );
        assert_refused(run(8, DType::F16), "mahalanobis: `mean` should hold F32, got F16");
    }
}
