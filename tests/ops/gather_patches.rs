use crate::conv2d::Naive;
use crate::support::numbers::*;
use invad::ops::{self, Activation, Resample};

const RESAMPLES: [Resample; 3] = [Resample::Same, Resample::Halve, Resample::Double];

/// (B, H, W, C).
const SIZES: [[usize; 4]; 7] = [
    [1, 1, 1, 1],
    [2, 2, 2, 16],
    [1, 4, 4, 5],
    [3, 1, 5, 8],
    [2, 7, 4, 3],
    [1, 5, 8, 24],
    [1, 16, 16, 40],
];

/// An image with its cells copied and a border of zeros, and what of it each patch begins at.
struct Padded {
    /// Rows, columns and channels.
    shape: [usize; 3],
    copies: usize,
    places: Vec<[usize; 2]>,
}

impl Padded {
    fn new([_, h, w, c]: [usize; 4], resample: Resample) -> Self {
        let copies = if resample == Resample::Double { 2 } else { 1 };
        let stride = if resample == Resample::Halve { 2 } else { 1 };
        let [height, width] = [h * copies, w * copies];
        let places = (0..height).step_by(stride);
        let places = places.flat_map(|i| (0..width).step_by(stride).map(move |j| [i, j])).collect();
        Self { shape: [height + 2, width + 2, c], copies, places }
    }

    /// Calls `each(cell, padded cell)` for every cell of the image that is enlarged.
    fn cells(&self, mut each: impl FnMut(usize, usize)) {
        let [height, width, _] = self.shape;
        let across = (width - 2) / self.copies;
        for (i, j) in (1..height - 1).flat_map(|i| (1..width - 1).map(move |j| (i, j))) {
            each((i - 1) / self.copies * across + (j - 1) / self.copies, i * width + j);
        }
    }

    /// Calls `each(tap of all places, padded cell)`.
    fn taps(&self, mut each: impl FnMut(usize, usize)) {
        for (place, [i, j]) in self.places.iter().enumerate() {
            for tap in 0..9 {
                each(place * 9 + tap, (i + tap / 3) * self.shape[1] + j + tap % 3);
            }
        }
    }

    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

fn patches(shape: [usize; 4], resample: Resample, x: &[f64]) -> Vec<f64> {
    let (padded, c) = (Padded::new(shape, resample), shape[3]);
    x.chunks(x.len() / shape[0])
        .flat_map(|x| {
            let mut image = vec![0.0; padded.numbers()];
            padded.cells(|from, to| image[to * c..][..c].copy_from_slice(&x[from * c..][..c]));
            let mut out = vec![f64::NAN; padded.places.len() * 9 * c];
            padded.taps(|to, from| out[to * c..][..c].copy_from_slice(&image[from * c..][..c]));
            out
        })
        .collect()
}

/// The transpose of [`patches`].
fn gradient(shape: [usize; 4], resample: Resample, dpatches: &[f64]) -> Vec<f64> {
    let (padded, [b, h, w, c]) = (Padded::new(shape, resample), shape);
    let add = |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
    dpatches
        .chunks(dpatches.len() / b)
        .flat_map(|dpatches| {
            let mut image = vec![0.0; padded.numbers()];
            padded.taps(|from, to| add(&mut image[to * c..][..c], &dpatches[from * c..][..c]));
            let mut dx = vec![0.0; h * w * c];
            padded.cells(|to, from| add(&mut dx[to * c..][..c], &image[from * c..][..c]));
            dx
        })
        .collect()
}

fn shape_of_patches([b, h, w, c]: [usize; 4], resample: Resample) -> [usize; 3] {
    let [rows, columns] = resample.output([h, w]);
    [b, rows * columns, 9 * c]
}

#[test]
fn follows_a_padded_image_and_back() {
    for shape in SIZES {
        for resample in RESAMPLES {
            let case = format!("{shape:?} {resample:?}");
            let of_patches = shape_of_patches(shape, resample);
            let x = tensor(1, &shape, 1.0);
            let mut got = poisoned(&of_patches);
            ops::gather_patches(&x, resample, &mut got).unwrap();
            assert_eq!(f64s(&got), patches(shape, resample, &f64s(&x)), "{case}");

            let dpatches = tensor(2, &of_patches, 1.0);
            let mut want = gradient(shape, resample, &f64s(&dpatches));
            let mut dx = poisoned(&shape);
            ops::gather_patches_backward(&dpatches, resample, &mut dx, false).unwrap();
            assert_close(&case, &f64s(&dx), &want, 1e-6);
            let mut dx = x.clone();
            ops::gather_patches_backward(&dpatches, resample, &mut dx, true).unwrap();
            want.iter_mut().zip(f64s(&x)).for_each(|(w, x)| *w += x);
            assert_close(&format!("{case} accumulated"), &f64s(&dx), &want, 1e-6);
        }
    }
}

/// ⟨patches(x), p⟩ = ⟨x, gradient(p)⟩.
#[test]
fn oracle_is_the_gradient() {
    for shape in SIZES {
        for resample in RESAMPLES {
            let (x, p) =
                (tensor(1, &shape, 1.0), tensor(2, &shape_of_patches(shape, resample), 1.0));
            let (x, p) = (f64s(&x), f64s(&p));
            let forward = dot(&patches(shape, resample, &x), &p);
            let backward = dot(&x, &gradient(shape, resample, &p));
            assert!((forward - backward).abs() <= 1e-9 * x.len() as f64, "{shape:?} {resample:?}");
        }
    }
}

/// A linear layer over patches is the convolution, and its gradients are.
#[test]
fn convolves() {
    for (shape, resample) in [([2, 7, 4, 5], Resample::Same), ([2, 7, 4, 5], Resample::Halve)] {
        let ([b, h, w, c], o) = (shape, 6);
        let [rows, columns] = resample.output([h, w]);
        let stride = if resample == Resample::Halve { 2 } else { 1 };
        let convolution = ops::Convolution {
            stride,
            padding: ops::Padding::all(1),
            activation: Activation::None,
        };
        let (x, weight) = (tensor(1, &shape, 1.0), tensor(2, &[o, 9 * c], 1.0));
        let (bias, dy) = (tensor(3, &[o], 1.0), tensor(4, &[b, rows, columns, o], 1.0));
        let outputs_last = transposed(&f64s(&weight), o, 9 * c);
        let naive = Naive::new(shape, [3, 3, c, o], convolution);
        let want = naive.forward(&f64s(&x), &outputs_last, &f64s(&bias));
        let [want_dx, want_dw] = naive.backward([&f64s(&x), &outputs_last, &f64s(&dy)]);

        let of_patches = shape_of_patches(shape, resample);
        let (mut patches, mut y) = (poisoned(&of_patches), poisoned(dy.shape()));
        ops::gather_patches(&x, resample, &mut patches).unwrap();
        ops::linear(&patches, &weight, Some(bias.view()), Activation::None, None, &mut y).unwrap();
        let mut dweight = from(&vec![0.0; 9 * c * o], &[o, 9 * c]);
        ops::linear_backward_weight(&dy, &patches, &mut dweight, None).unwrap();
        let mut dx = poisoned(&shape);
        ops::linear_backward_input(&dy, &weight, None, &mut patches).unwrap();
        ops::gather_patches_backward(&patches, resample, &mut dx, false).unwrap();
        let case = format!("{shape:?} {resample:?}");
        assert_close(&case, &f64s(&y), &want, 1e-6);
        assert_close(&case, &f64s(&dx), &want_dx, 1e-6);
        assert_close(&case, &transposed(&f64s(&dweight), o, 9 * c), &want_dw, 1e-6);
    }
}

#[test]
fn threads_do_not_matter() {
    let shape = [3, 16, 16, 40];
    let x = tensor(1, &shape, 1.0);
    for resample in RESAMPLES {
        assert_threads_do_not_matter(|| {
            let mut patches = poisoned(&shape_of_patches(shape, resample));
            let mut dx = poisoned(&shape);
            ops::gather_patches(&x, resample, &mut patches).unwrap();
            ops::gather_patches_backward(&patches, resample, &mut dx, false).unwrap();
            [patches, dx]
        });
    }
}

#[test]
fn refuses_other_shapes() {
    let x = tensor(1, &[1, 4, 3, 8], 1.0);
    for (resample, places) in [(Resample::Same, 12), (Resample::Halve, 4), (Resample::Double, 48)] {
        assert_refused(
            ops::gather_patches(&x, resample, &mut poisoned(&[1, 12, 8])),
            &format!(
                "gather_patches: `patches` should have shape [1, {places}, 72], got [1, 12, 8]"
            ),
        );
    }
    assert_refused(
        ops::gather_patches(&poisoned(&[1, 0, 3, 8]), Resample::Same, &mut poisoned(&[1, 0, 72])),
        "gather_patches: `x` should have shape (B, H, W, C), none of them 0, got [1, 0, 3, 8]",
    );
    assert_refused(
        ops::gather_patches_backward(&x, Resample::Same, &mut poisoned(&[12, 8]), true),
        "gather_patches_backward: `dx` should have shape (B, H, W, C), got [12, 8]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    const SIZES: [[usize; 4]; 5] =
        [[1, 1, 1, 8], [2, 2, 2, 72], [3, 1, 5, 8], [2, 7, 4, 24], [1, 16, 16, 40]];

    #[test]
    fn as_on_the_cpu() {
        let Some(gpu) = gpu() else { return };
        for shape in SIZES {
            for resample in RESAMPLES {
                for dtype in [DType::F32, DType::F16] {
                    let x = halves(1, shape.iter().product(), 1.0);
                    let want = patches(shape, resample, &f64s(&from(&x, &shape)));
                    let x = upload(&x, &shape, dtype, gpu);
                    let mut got = Guarded::new(&shape_of_patches(shape, resample), DType::F16, gpu);
                    ops::gather_patches(&x, resample, got.view_mut()).unwrap();
                    assert_eq!(got.f64s(), want, "{shape:?} {resample:?} {dtype:?}");
                }
            }
        }
    }

    #[test]
    fn backward() {
        let Some(gpu) = gpu() else { return };
        for shape in SIZES {
            for resample in RESAMPLES {
                let of_patches = shape_of_patches(shape, resample);
                let dpatches = halves(2, of_patches.iter().product(), 1.0);
                let own = gradient(shape, resample, &f64s(&from(&dpatches, &of_patches)));
                let start = halves(3, own.len(), 1.0);
                let dpatches = upload(&dpatches, &of_patches, DType::F16, gpu);
                for dtype in [DType::F32, DType::F16] {
                    for accumulate in [false, true] {
                        let case = format!("{shape:?} {resample:?} {dtype:?} {accumulate}");
                        let mut dx = Guarded::new(&shape, dtype, gpu);
                        let mut want = own.clone();
                        if accumulate {
                            dx.view_mut().copy_from_slice(&start).unwrap();
                            want.iter_mut().zip(&start).for_each(|(w, &s)| *w += f64::from(s));
                        }
                        let to = dx.view_mut();
                        ops::gather_patches_backward(&dpatches, resample, to, accumulate).unwrap();
                        let most = if dtype == DType::F16 { 5e-4 } else { 1e-6 };
                        assert_close(&case, &dx.f64s(), &want, most);
                    }
                }
            }
        }
    }

    #[test]
    fn refuses_channels_it_has_no_kernel_for() {
        let Some(gpu) = gpu() else { return };
        let x = upload(&[0.0; 48], &[1, 2, 2, 12], DType::F16, gpu);
        let mut patches = Guarded::new(&[1, 4, 108], DType::F16, gpu);
        assert_refused(
            ops::gather_patches(&x, Resample::Same, patches.view_mut()),
            "gather_patches: `x` should be (B, H, W, C) with C a multiple of 8, on a GPU, got C = 12",
        );
    }
}
