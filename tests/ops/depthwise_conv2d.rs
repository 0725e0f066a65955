use crate::conv2d::{Naive, conv};
use crate::support::numbers::*;
use invad::Tensor;
use invad::ops::{self, Activation, Convolution, Padding};

/// As a convolution whose weight joins no two channels.
fn naive(x: [usize; 4], kernel: usize, convolution: Convolution) -> Naive {
    Naive::new(x, [kernel, kernel, x[3], x[3]], convolution)
}

fn diagonal(weight: &[f64], channels: usize) -> Vec<f64> {
    let mut full = vec![0.0; weight.len() * channels];
    for (i, w) in weight.iter().enumerate() {
        full[i * channels + i % channels] = *w;
    }
    full
}

/// Channels below, at and above whole vectors, all kernels and strides, widths below and above a
/// tile, and padding that reaches past the kernel.
fn cases() -> Vec<([usize; 4], usize, Convolution)> {
    use Activation::{Gelu, None, Relu6, Silu};
    let same = |x: [usize; 4], kernel, stride, activation| {
        let padding = Padding::same([x[1], x[2]], [kernel; 2], stride);
        (x, kernel, Convolution { stride, padding, activation })
    };
    vec![
        same([1, 1, 1, 1], 3, 1, None),
        same([2, 7, 9, 5], 3, 1, Relu6),
        same([1, 8, 17, 16], 5, 2, Relu6),
        same([2, 13, 10, 48], 5, 1, Relu6),
        same([1, 11, 34, 33], 3, 2, Gelu),
        same([1, 3, 2, 24], 5, 1, None),
        same([1, 6, 19, 21], 5, 2, Silu),
        same([2, 5, 8, 16], 3, 1, Silu),
        ([1, 9, 8, 19], 5, conv(2, [0; 4], None)),
        ([1, 4, 5, 16], 3, conv(1, [5, 0, 4, 7], None)),
        ([1, 6, 21, 7], 3, conv(2, [0, 1, 2, 0], Relu6)),
    ]
}

#[test]
fn forward() {
    for (x, kernel, convolution) in cases() {
        let naive = naive(x, kernel, convolution);
        let c = x[3];
        let (x, weight) = (tensor(1, &x, 2.0), tensor(2, &[kernel, kernel, c], 1.0));
        let bias = tensor(3, &[c], 1.0);
        let mut y = poisoned(&naive.y);
        ops::depthwise_conv2d(&x, &weight, &bias, convolution, &mut y).unwrap();
        let want = naive.forward(&f64s(&x), &diagonal(&f64s(&weight), c), &f64s(&bias));
        assert_close(&format!("{:?} {kernel} {convolution:?}", naive.x), &f64s(&y), &want, 1e-6);
    }
}

#[test]
fn nan_comes_through_relu6() {
    let x = Tensor::from_f32(vec![f32::NAN; 9 * 17], &[1, 3, 3, 17], Default::default()).unwrap();
    let (weight, bias) = (tensor(1, &[3, 3, 17], 1.0), tensor(2, &[17], 1.0));
    let convolution = conv(1, [1; 4], Activation::Relu6);
    let mut y = tensor(3, &[1, 3, 3, 17], 1.0);
    ops::depthwise_conv2d(&x, &weight, &bias, convolution, &mut y).unwrap();
    assert!(y.to_vec_f32().iter().all(|v| v.is_nan()));
}

#[test]
fn refuses_other_kernels_and_strides() {
    for (kernel, stride) in [(1, 1), (4, 1), (7, 2), (3, 3), (3, 0)] {
        let weight = tensor(1, &[kernel, kernel, 2], 1.0);
        let (x, bias) = (tensor(1, &[1, 9, 9, 2], 1.0), tensor(1, &[2], 1.0));
        let convolution = conv(stride, [0; 4], Activation::None);
        let error = ops::depthwise_conv2d(&x, &weight, &bias, convolution, &mut poisoned(&[1]))
            .unwrap_err();
        assert!(
            error.to_string().contains("a kernel of 3 or 5 with a stride of 1 or 2"),
            "{error}"
        );
    }
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn forward() {
        let Some(gpu) = gpu() else { return };
        let mut cases = cases();
        cases.retain(|(_, _, convolution)| convolution.activation != Activation::Gelu);
        for (mut x_shape, kernel, convolution) in cases {
            x_shape[3] = x_shape[3].next_multiple_of(8);
            let naive = naive(x_shape, kernel, convolution);
            let c = x_shape[3];
            let x = halves(1, x_shape.iter().product(), 2.0);
            let (weight, bias) = (uniform(2, kernel * kernel * c, 1.0), uniform(3, c, 1.0));
            let x = upload(&x, &x_shape, DType::F16, gpu);
            let weight = upload(&weight, &[kernel, kernel, c], DType::F32, gpu);
            let bias = upload(&bias, &[c], DType::F32, gpu);
            let mut y = Guarded::new(&naive.y, DType::F16, gpu);
            ops::depthwise_conv2d(&x, &weight, &bias, convolution, y.view_mut()).unwrap();
            let want = naive.forward(&f64s(&x), &diagonal(&f64s(&weight), c), &f64s(&bias));
            let stored: Vec<f64> = want.iter().map(|&y| rounded(y)).collect();
            let case = format!("{x_shape:?} {kernel} {convolution:?}");
            assert_as_good(&case, &y.f64s(), &want, &stored);
        }
    }

    #[test]
    fn refuses_what_it_has_no_kernel_for() {
        let Some(gpu) = gpu() else { return };
        let refused = |c: usize, activation| {
            let x = upload(&vec![0.0; 9 * c], &[1, 3, 3, c], DType::F16, gpu);
            let weight = upload(&vec![0.0; 9 * c], &[3, 3, c], DType::F32, gpu);
            let bias = upload(&vec![0.0; c], &[c], DType::F32, gpu);
            let mut y = Guarded::new(&[1, 1, 1, c], DType::F16, gpu);
            let convolution = conv(1, [0; 4], activation);
            let refused = ops::depthwise_conv2d(&x, &weight, &bias, convolution, y.view_mut());
            refused.unwrap_err().to_string()
        };
        assert!(refused(12, Activation::None).contains("C a multiple of 8 on a GPU"));
        assert!(refused(8, Activation::Gelu).contains("no activation, ReLU6 or SiLU on a GPU"));
    }
}
