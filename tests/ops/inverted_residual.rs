use crate::conv2d::Naive;
use crate::support::numbers::*;
use invad::ops::{
    Activation, Convolution, Expansion, FoldedLayer, InvertedResidual, InvertedResidualLayers,
    InvertedResidualScratch, Padding, SqueezeExcite, inverted_residual,
};
use invad::tensor::TensorView;
use invad::{DType, Device, Error, Result, Tensor};

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
    first: First,
    padding: Padding,
    /// R, or no squeeze-excite.
    reduced: usize,
    skip: bool,
}

/// What comes before the depthwise convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    None,
    Pointwise,
    /// Of bytes, or of numbers.
    Stem(DType),
}

fn case(
    input: [usize; 2],
    channels: [usize; 3],
    kernel: usize,
    stride: usize,
    activation: Activation,
) -> Case {
    let padding = Padding::same(input, [kernel; 2], stride);
    let first = First::Pointwise;
    Case { input, channels, kernel, stride, activation, first, padding, reduced: 0, skip: false }
}

/// A first block, padded as TensorFlow does.
fn stem(dtype: DType, case: Case) -> Case {
    let size = case.input.map(|n| n.div_ceil(2));
    let padding = Padding::same(size, [case.kernel; 2], case.stride);
    Case { first: First::Stem(dtype), padding, ..case }
}

fn cases() -> Vec<Case> {
    use Activation::{Relu6, Silu};
    vec![
        stem(DType::U8, case([13, 10], [3, 16, 8], 3, 1, Relu6)),
        stem(DType::U8, case([1, 1], [3, 8, 24], 5, 2, Silu)),
        Case { reduced: 3, ..stem(DType::F32, case([12, 9], [3, 48, 24], 3, 1, Silu)) },
        case([9, 14], [8, 48, 16], 3, 2, Relu6),
        Case { skip: true, ..case([7, 5], [16, 32, 16], 5, 1, Relu6) },
        Case { skip: true, ..case([2, 3], [8, 24, 8], 3, 1, Silu) },
        case([11, 4], [24, 8, 40], 5, 2, Activation::None),
        Case { reduced: 6, skip: true, ..case([9, 6], [8, 104, 8], 5, 1, Silu) },
        Case { reduced: 1, padding: Padding::all(2), ..case([8, 10], [8, 24, 16], 5, 2, Silu) },
        // So many channels that a block of threads has each but once, and the next not all of them.
        Case { reduced: 40, ..case([3, 18], [8, 1048, 8], 3, 1, Silu) },
        Case { reduced: 9, ..case([5, 37], [16, 960, 8], 3, 1, Silu) },
        Case {
            first: First::None,
            reduced: 6,
            skip: true,
            ..case([7, 33], [24, 24, 24], 3, 1, Silu)
        },
        Case { first: First::None, ..case([5, 4], [16, 16, 8], 3, 2, Relu6) },
    ]
}

/// The weights and biases of expansion, depthwise convolution, projection and squeeze-excite.
struct Weights([[Tensor; 2]; 5]);

impl Weights {
    fn new(case: &Case) -> Self {
        let Case { channels: [c, mid, out], kernel, reduced, .. } = *case;
        let first = match case.first {
            First::Stem(_) => vec![3, 3, 3, mid],
            _ => vec![c, mid],
        };
        let layers = [
            (first, mid),
            (vec![kernel, kernel, mid], mid),
            (vec![mid, out], out),
            (vec![mid, reduced], reduced),
            (vec![reduced, mid], mid),
        ];
        let mut seed = 0;
        Self(layers.map(|(shape, outputs)| {
            seed += 2;
            [tensor(seed, &shape, 0.5), tensor(seed + 1, &[outputs], 1.0)]
        }))
    }

    fn layers(&self, case: &Case) -> InvertedResidualLayers<'_> {
        let [layer, depthwise, projection, reduce, expand] = self
            .0
            .each_ref()
            .map(|[weight, bias]| FoldedLayer { weight: weight.view(), bias: bias.view() });
        InvertedResidualLayers {
            input: case.input,
            expansion: match case.first {
                First::None => Expansion::None,
                First::Pointwise => Expansion::Pointwise(layer),
                First::Stem(_) => {
                    let padding = Padding::same(case.input, [3; 2], 2);
                    Expansion::Stem { layer, padding, mean: MEAN, std: STD }
                }
            },
            depthwise,
            stride: case.stride,
            padding: case.padding,
            squeeze_excite: (case.reduced > 0).then_some(SqueezeExcite { reduce, expand }),
            projection,
            activation: case.activation,
            skip: case.skip,
        }
    }

    fn packed(&self, case: &Case, device: Device) -> Result<InvertedResidual> {
        InvertedResidual::new(&self.layers(case), device)
    }

    /// The convolutions one after another, each result as `store` stores it.
    fn oracle(&self, case: &Case, x: &[f64], b: usize, store: fn(f64) -> f64) -> Vec<f64> {
        let net =
            |[h, w]: [usize; 2], c: usize, kernel: usize, stride, o: usize, padding, activation| {
                let convolution = Convolution { stride, padding, activation };
                Naive::new([b, h, w, c], [kernel, kernel, c, o], convolution)
            };
        let [c, mid, out] = case.channels;
        let stored = |x: Vec<f64>| -> Vec<f64> { x.into_iter().map(store).collect() };
        let [first, depthwise, projection, reduce, expand] =
            self.0.each_ref().map(|layer| layer.each_ref().map(f64s));
        let (expanded, size) = match case.first {
            First::None => (x.to_vec(), case.input),
            _ => {
                let (k, s) = if case.first == First::Pointwise { (1, 1) } else { (3, 2) };
                let padding = Padding::same(case.input, [k; 2], s);
                let net = net(case.input, c, k, s, mid, padding, case.activation);
                (stored(net.forward(x, &first[0], &first[1])), [net.y[1], net.y[2]])
            }
        };
        // Channel by channel, since there can be many.
        let mut filtered = vec![0.0; 0];
        let mut size_after = [0; 2];
        for channel in 0..mid {
            let one =
                |x: &[f64]| -> Vec<f64> { x.iter().skip(channel).step_by(mid).copied().collect() };
            let net = net(size, 1, case.kernel, case.stride, 1, case.padding, case.activation);
            let y = net.forward(&one(&expanded), &one(&depthwise[0]), &one(&depthwise[1]));
            size_after = [net.y[1], net.y[2]];
            filtered.resize(y.len() * mid, 0.0);
            y.iter().enumerate().for_each(|(i, y)| filtered[i * mid + channel] = *y);
        }
        if case.reduced > 0 && b > 0 {
            let pixels = size_after[0] * size_after[1];
            let means: Vec<f64> = filtered
                .chunks(pixels * mid)
                .flat_map(|x| {
                    (0..mid).map(|c| x.iter().skip(c).step_by(mid).sum::<f64>() / pixels as f64)
                })
                .collect();
            for (x, mean) in filtered.chunks_mut(pixels * mid).zip(means.chunks(mid)) {
                let layer = |x: &[f64], [weight, bias]: &[Vec<f64>; 2]| -> Vec<f64> {
                    let n = bias.len();
                    let sum =
                        |i| x.iter().enumerate().map(|(k, x)| x * weight[k * n + i]).sum::<f64>();
                    (0..n).map(|i| bias[i] + sum(i)).collect()
                };
                let hidden: Vec<f64> =
                    layer(mean, &reduce).into_iter().map(|z| z / (1.0 + (-z).exp())).collect();
                let gate = layer(&hidden, &expand);
                let gate = gate.into_iter().map(|g| 1.0 / (1.0 + (-store(g)).exp()));
                let gate: Vec<f64> = gate.collect();
                x.iter_mut().enumerate().for_each(|(i, x)| *x = store(*x) * gate[i % mid]);
            }
        }
        let filtered = stored(filtered);
        let net = net(size_after, mid, 1, 1, out, Padding::default(), Activation::None);
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
                    if case.first == First::Stem(DType::U8) {
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
            let x = match case.first {
                First::Stem(DType::U8) => normalised(&bytes(n)),
                _ => f64s(&tensor(9, &[n], 1.0)),
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
    let narrow = |l: &mut InvertedResidualLayers| {
        (l.input, l.padding) = ([2, 5], Padding::default());
    };
    assert!(matches!(refused(&narrow), Error::Argument { arg: "padding", .. }));
    let squeeze = |l: &mut InvertedResidualLayers| {
        l.squeeze_excite = Some(SqueezeExcite { reduce: l.projection, expand: l.depthwise });
    };
    assert!(matches!(refused(&squeeze), Error::Shape { .. }));
    let skip = |l: &mut InvertedResidualLayers| (l.skip, l.stride) = (true, 2);
    assert!(matches!(refused(&skip), Error::Argument { arg: "skip", .. }));
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;

    fn check(cases: &[Case]) {
        let Some(gpu) = gpu() else { return };
        for case in cases {
            let weights = Weights::new(case);
            let block = weights.packed(case, gpu).unwrap();
            let mut scratch = InvertedResidualScratch::new([&block], 3, gpu).unwrap();
            for b in [1, 3] {
                let shape = block.input(b);
                let n = shape.iter().product();
                let (x, numbers) = if case.first == First::Stem(DType::U8) {
                    let rgb = bytes(n);
                    let view = TensorView::from_bytes(&rgb, &shape).unwrap();
                    (view.copied_to(gpu, DType::U8).unwrap(), normalised(&rgb))
                } else {
                    let x = halves(9, n, 1.0);
                    let dtype =
                        if let First::Stem(dtype) = case.first { dtype } else { DType::F16 };
                    (upload(&x, &shape, dtype, gpu), x.iter().map(|&x| x.into()).collect())
                };
                let mut y = Guarded::new(&block.output(b), DType::F16, gpu);
                inverted_residual(&x, &block, &mut scratch, y.view_mut()).unwrap();
                let want = weights.oracle(case, &numbers, b, |x| x);
                // Weights in f16 as well, which this does not round.
                let naive = weights.oracle(case, &numbers, b, rounded);
                let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                let off = naive.iter().zip(&want).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
                let tolerance = 4.0 * (off / largest).max(1.0 / 2048.0);
                assert_close(&format!("{b} × {case:?}"), &y.f64s(), &want, tolerance);
            }
            let shape = block.input(4);
            let dtype = if let First::Stem(dtype) = case.first { dtype } else { DType::F16 };
            let x = Tensor::zeros(&shape, dtype, gpu).unwrap();
            let mut y = Guarded::new(&block.output(4), DType::F16, gpu);
            let refused = inverted_residual(&x, &block, &mut scratch, y.view_mut()).unwrap_err();
            assert!(matches!(refused, Error::Argument { arg: "scratch", .. }), "{refused}");
        }
    }

    #[test]
    fn forward() {
        check(&cases());
    }

    #[test]
    fn tiny() {
        check(&[Case { reduced: 6, ..case([3, 6], [8, 104, 8], 3, 1, Activation::Silu) }]);
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
