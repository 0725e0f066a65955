use crate::conv2d::Naive;
use crate::support::numbers::*;
use invad::ops::{
    Activation, Convolution, Expansion, FoldedLayer, InvertedResidual, InvertedResidualLayers,
    InvertedResidualScratch, Padding, inverted_residual,
};
use invad::tensor::TensorView;
use invad::{Device, Error, Result, Tensor};

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A block with weights of its own.
#[derive(Clone, Debug)]
struct Case {
    input: [usize; 2],
    /// C, M and O.
    channels: [usize; 3],
    kernel: usize,
    stride: usize,
    activation: Activation,
    stem: bool,
    skip: bool,
}

fn case(
    input: [usize; 2],
    channels: [usize; 3],
    kernel: usize,
    stride: usize,
    activation: Activation,
) -> Case {
    Case { input, channels, kernel, stride, activation, stem: false, skip: false }
}

fn cases() -> Vec<Case> {
    use Activation::{Relu6, Silu};
    vec![
        Case { stem: true, ..case([13, 10], [3, 16, 8], 3, 1, Relu6) },
        Case { stem: true, ..case([1, 1], [3, 8, 24], 5, 2, Silu) },
        case([9, 14], [8, 48, 16], 3, 2, Relu6),
        Case { skip: true, ..case([7, 5], [16, 32, 16], 5, 1, Relu6) },
        Case { skip: true, ..case([2, 3], [8, 24, 8], 3, 1, Silu) },
        case([11, 4], [24, 8, 40], 5, 2, Activation::None),
    ]
}

/// The weights and biases of expansion, depthwise convolution and projection.
struct Weights([[Tensor; 2]; 3]);

impl Weights {
    fn new(case: &Case) -> Self {
        let Case { channels: [c, mid, out], kernel, stem, .. } = *case;
        let first = if stem { vec![3, 3, 3, mid] } else { vec![c, mid] };
        let layers = [(first, mid), (vec![kernel, kernel, mid], mid), (vec![mid, out], out)];
        let mut seed = 0;
        Self(layers.map(|(shape, outputs)| {
            seed += 2;
            [tensor(seed, &shape, 0.5), tensor(seed + 1, &[outputs], 1.0)]
        }))
    }

    fn layers(&self, case: &Case) -> InvertedResidualLayers<'_> {
        let [first, depthwise, projection] = self
            .0
            .each_ref()
            .map(|[weight, bias]| FoldedLayer { weight: weight.view(), bias: bias.view() });
        InvertedResidualLayers {
            input: case.input,
            expansion: match case.stem {
                true => Expansion::Stem { layer: first, mean: MEAN, std: STD },
                false => Expansion::Pointwise(first),
            },
            depthwise,
            stride: case.stride,
            projection,
            activation: case.activation,
            skip: case.skip,
        }
    }

    fn packed(&self, case: &Case, device: Device) -> Result<InvertedResidual> {
        InvertedResidual::new(&self.layers(case), device)
    }

    /// The three convolutions one after another, each result as `store` stores it.
    fn oracle(&self, case: &Case, x: &[f64], b: usize, store: fn(f64) -> f64) -> Vec<f64> {
        let same = |[h, w]: [usize; 2], c: usize, kernel: usize, stride, o: usize, activation| {
            let padding = Padding::same([h, w], [kernel; 2], stride);
            let convolution = Convolution { stride, padding, activation };
            Naive::new([b, h, w, c], [kernel, kernel, c, o], convolution)
        };
        let [c, mid, out] = case.channels;
        let (k, s) = if case.stem { (3, 2) } else { (1, 1) };
        let stored = |x: Vec<f64>| -> Vec<f64> { x.into_iter().map(store).collect() };
        let [first, depthwise, projection] =
            self.0.each_ref().map(|layer| layer.each_ref().map(f64s));
        let net = same(case.input, c, k, s, mid, case.activation);
        let expanded = stored(net.forward(x, &first[0], &first[1]));
        let size = [net.y[1], net.y[2]];
        let mut full = vec![0.0; depthwise[0].len() * mid];
        for (i, w) in depthwise[0].iter().enumerate() {
            full[i * mid + i % mid] = *w;
        }
        let net = same(size, mid, case.kernel, case.stride, mid, case.activation);
        let filtered = stored(net.forward(&expanded, &full, &depthwise[1]));
        let net = same([net.y[1], net.y[2]], mid, 1, 1, out, Activation::None);
        let mut y = net.forward(&filtered, &projection[0], &projection[1]);
        if case.skip {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
        stored(y)
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 89 % 251) as u8).collect()
}

fn normalised(rgb: &[u8]) -> Vec<f64> {
    let value = |(i, &v): (usize, &u8)| {
        (f64::from(v) / 255.0 - f64::from(MEAN[i % 3])) / f64::from(STD[i % 3])
    };
    rgb.iter().enumerate().map(value).collect()
}

#[test]
fn forward() {
    for case in cases() {
        let weights = Weights::new(&case);
        let block = weights.packed(&case, Device::Cpu).unwrap();
        for b in [0, 1, 3] {
            let run = || {
                let mut scratch = InvertedResidualScratch::new([&block], b, Device::Cpu).unwrap();
                let mut y = poisoned(&block.output(b));
                let shape = block.input(b);
                // Twice, so that what is left in the scratch memory is met.
                for _ in 0..2 {
                    if case.stem {
                        let rgb = bytes(shape.iter().product());
                        let rgb = TensorView::from_bytes(&rgb, &shape).unwrap();
                        inverted_residual(rgb, &block, &mut scratch, &mut y).unwrap();
                    } else {
                        let x = tensor(9, &shape, 1.0);
                        inverted_residual(&x, &block, &mut scratch, &mut y).unwrap();
                    }
                }
                [y]
            };
            let n = block.input(b).iter().product();
            let x = match case.stem {
                true => normalised(&bytes(n)),
                false => f64s(&tensor(9, &[n], 1.0)),
            };
            let [y] = run();
            assert_close(
                &format!("{b} × {case:?}"),
                &f64s(&y),
                &weights.oracle(&case, &x, b, |x| x),
                2e-6,
            );
            assert_threads_do_not_matter(run);
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let good = case([6, 5], [8, 16, 8], 3, 1, Activation::Relu6);
    let weights = Weights::new(&good);
    let block = weights.packed(&good, Device::Cpu).unwrap();
    let mut scratch = InvertedResidualScratch::new([&block], 2, Device::Cpu).unwrap();
    let mut run =
        |x: &Tensor, y: &[usize]| inverted_residual(x, &block, &mut scratch, &mut poisoned(y));
    run(&tensor(1, &[2, 6, 5, 8], 1.0), &[2, 6, 5, 8]).unwrap();
    assert_refused(
        run(&tensor(1, &[2, 6, 5, 9], 1.0), &[2, 6, 5, 8]),
        "inverted_residual: `x` should have shape [2, 6, 5, 8], got [2, 6, 5, 9]",
    );
    assert!(run(&tensor(1, &[2, 6, 5, 8], 1.0), &[1, 6, 5, 8]).is_err());
    let bytes = tensor(1, &[1, 6, 5, 8], 1.0).view().copied_to(Device::Cpu, invad::DType::U8);
    assert_refused(
        run(&bytes.unwrap(), &[1, 6, 5, 8]),
        "inverted_residual: `x` should hold F32, got U8",
    );
    let refused = |change: &dyn Fn(&mut InvertedResidualLayers)| {
        let mut layers = weights.layers(&good);
        change(&mut layers);
        InvertedResidual::new(&layers, Device::Cpu).unwrap_err()
    };
    assert!(matches!(refused(&|l| l.stride = 3), Error::Argument { arg: "depthwise", .. }));
    assert!(matches!(refused(&|l| l.input = [0, 5]), Error::Argument { .. }));
    assert!(matches!(refused(&|l| l.input = [usize::MAX; 2]), Error::Shape { .. }));
    assert!(matches!(refused(&|l| l.depthwise = l.projection), Error::Shape { .. }));
    assert!(matches!(refused(&|l| l.projection.bias = l.depthwise.bias), Error::Shape { .. }));
    let skip = |l: &mut InvertedResidualLayers| (l.skip, l.stride) = (true, 2);
    assert!(matches!(refused(&skip), Error::Argument { arg: "skip", .. }));
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn forward() {
        let Some(gpu) = gpu() else { return };
        for case in cases() {
            let weights = Weights::new(&case);
            let block = weights.packed(&case, gpu).unwrap();
            let mut scratch = InvertedResidualScratch::new([&block], 3, gpu).unwrap();
            for b in [1, 3] {
                let shape = block.input(b);
                let n = shape.iter().product();
                let (x, numbers) = if case.stem {
                    let rgb = bytes(n);
                    let view = TensorView::from_bytes(&rgb, &shape).unwrap();
                    (view.copied_to(gpu, DType::U8).unwrap(), normalised(&rgb))
                } else {
                    let x = halves(9, n, 1.0);
                    (upload(&x, &shape, DType::F16, gpu), x.iter().map(|&x| x.into()).collect())
                };
                let mut y = Guarded::new(&block.output(b), DType::F16, gpu);
                inverted_residual(&x, &block, &mut scratch, y.view_mut()).unwrap();
                let want = weights.oracle(&case, &numbers, b, |x| x);
                // Weights in f16 as well, which this does not round.
                let naive = weights.oracle(&case, &numbers, b, rounded);
                let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                let off = naive.iter().zip(&want).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
                let tolerance = 4.0 * (off / largest).max(1.0 / 2048.0);
                assert_close(&format!("{b} × {case:?}"), &y.f64s(), &want, tolerance);
            }
            let shape = block.input(4);
            let dtype = if case.stem { DType::U8 } else { DType::F16 };
            let x = Tensor::zeros(&shape, dtype, gpu).unwrap();
            let mut y = Guarded::new(&block.output(4), DType::F16, gpu);
            let refused = inverted_residual(&x, &block, &mut scratch, y.view_mut()).unwrap_err();
            assert!(matches!(refused, Error::Argument { arg: "scratch", .. }), "{refused}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        let Some(gpu) = gpu() else { return };
        let odd = case([4, 4], [8, 12, 8], 3, 1, Activation::Relu6);
        let block = Weights::new(&odd).packed(&odd, gpu).unwrap();
        let mut scratch = InvertedResidualScratch::new([&block], 1, gpu).unwrap();
        let x = Tensor::zeros(&block.input(1), DType::F16, gpu).unwrap();
        let mut y = Tensor::zeros(&block.output(1), DType::F16, gpu).unwrap();
        let error = inverted_residual(&x, &block, &mut scratch, &mut y).unwrap_err();
        assert!(error.to_string().contains("multiples of 8 on a GPU"), "{error}");
        let here = Weights::new(&odd).packed(&odd, Device::Cpu).unwrap();
        let error = inverted_residual(&x, &here, &mut scratch, &mut y).unwrap_err();
        assert!(matches!(error, Error::Device { .. }), "{error}");
    }
}
