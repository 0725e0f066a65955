use crate::linear::activated;
use crate::support::numbers::*;
use invad::Tensor;
use invad::ops::{self, Activation, Convolution, Padding};

/// Sums over every pair of an output and an input that the kernel joins.
pub struct Naive {
    pub x: [usize; 4],
    pub weight: [usize; 4],
    pub y: [usize; 4],
    pub convolution: Convolution,
}

impl Naive {
    pub fn new(x: [usize; 4], weight: [usize; 4], convolution: Convolution) -> Self {
        let Padding { top, bottom, left, right } = convolution.padding;
        let height = (x[1] + top + bottom - weight[0]) / convolution.stride + 1;
        let width = (x[2] + left + right - weight[1]) / convolution.stride + 1;
        Self { x, weight, y: [x[0], height, width, weight[3]], convolution }
    }

    /// Calls `f(x index, weight index, y index)` for each product.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([b, h, w, c], [kh, kw, _, o], [_, oh, ow, _]) = (self.x, self.weight, self.y);
        let Convolution { stride, padding, .. } = self.convolution;
        for (b, oy, ox) in cube([b, oh, ow]) {
            for (ky, kx, c_in) in cube([kh, kw, c]) {
                let (y, x) = (oy * stride + ky, ox * stride + kx);
                let inside = (padding.top..padding.top + h).contains(&y)
                    && (padding.left..padding.left + w).contains(&x);
                if inside {
                    let x_at = ((b * h + y - padding.top) * w + x - padding.left) * c + c_in;
                    for c_out in 0..o {
                        let weight_at = ((ky * kw + kx) * c + c_in) * o + c_out;
                        f(x_at, weight_at, ((b * oh + oy) * ow + ox) * o + c_out);
                    }
                }
            }
        }
    }

    pub fn forward(&self, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let outputs = self.y.iter().product::<usize>();
        let mut y: Vec<f64> = (0..outputs).map(|i| bias[i % bias.len()]).collect();
        self.each(|i, k, o| y[o] += x[i] * weight[k]);
        y.iter_mut().for_each(|v| *v = activated(self.convolution.activation, *v));
        y
    }

    /// The gradients of input and weight.
    pub fn backward(&self, [x, weight, dy]: [&[f64]; 3]) -> [Vec<f64>; 2] {
        let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        self.each(|i, k, o| {
            dx[i] += weight[k] * dy[o];
            dweight[k] += x[i] * dy[o];
        });
        [dx, dweight]
    }
}

fn cube([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
}

pub fn conv(stride: usize, padding: [usize; 4], activation: Activation) -> Convolution {
    let [top, bottom, left, right] = padding;
    Convolution { stride, padding: Padding { top, bottom, left, right }, activation }
}

/// Inputs and weights of many kinds: pointwise, with padding of all sides and none, wider than the
/// image, strides that leave out the last pixels, more rows than one block of patches holds.
fn cases() -> Vec<([usize; 4], [usize; 4], Convolution)> {
    use Activation::{Gelu, None, Relu6};
    vec![
        ([1, 1, 1, 1], [1, 1, 1, 1], conv(1, [0; 4], None)),
        ([2, 5, 7, 13], [1, 1, 13, 33], conv(1, [0; 4], Relu6)),
        ([2, 6, 5, 3], [1, 1, 3, 5], conv(2, [0; 4], None)),
        ([1, 4, 4, 2], [1, 1, 2, 3], conv(1, [1, 0, 0, 2], Gelu)),
        ([2, 9, 11, 3], [3, 3, 3, 8], conv(2, [0, 1, 0, 1], Relu6)),
        ([1, 8, 6, 5], [3, 5, 5, 7], conv(1, [2, 1, 0, 4], None)),
        ([3, 2, 3, 2], [4, 4, 2, 3], conv(3, [3, 4, 5, 2], None)),
        ([1, 64, 70, 24], [3, 3, 24, 40], conv(1, [1, 1, 1, 1], Relu6)),
    ]
}

#[test]
fn forward() {
    for (x, weight, convolution) in cases() {
        let naive = Naive::new(x, weight, convolution);
        let (x, weight) = (tensor(1, &x, 2.0), tensor(2, &weight, 1.0));
        let bias = tensor(3, &naive.y[3..], 1.0);
        let mut y = poisoned(&naive.y);
        ops::conv2d(&x, &weight, &bias, convolution, &mut y).unwrap();
        let want = naive.forward(&f64s(&x), &f64s(&weight), &f64s(&bias));
        assert_close(&format!("{:?} {convolution:?}", naive.x), &f64s(&y), &want, 2e-6);
    }
}

#[test]
fn same_padding_halves_and_leans_to_the_end() {
    let same = |size, kernel, stride| Padding::same([size, size + 1], [kernel, 3], stride);
    assert_eq!(same(256, 3, 2), Padding { top: 0, bottom: 1, left: 1, right: 1 });
    assert_eq!(same(64, 5, 2), Padding { top: 1, bottom: 2, left: 1, right: 1 });
    assert_eq!(same(16, 5, 1), Padding { top: 2, bottom: 2, left: 1, right: 1 });
    assert_eq!(same(7, 1, 2), Padding { top: 0, bottom: 0, left: 0, right: 1 });
}

#[test]
fn refuses_what_does_not_fit() {
    let run = |x: &[usize], weight: &[usize], convolution| {
        let bias = tensor(1, &weight[weight.len() - 1..], 1.0);
        let (x, weight): (Tensor, Tensor) = (tensor(1, x, 1.0), tensor(1, weight, 1.0));
        ops::conv2d(&x, &weight, &bias, convolution, &mut poisoned(&[1])).unwrap_err().to_string()
    };
    let plain = Convolution::default();
    assert!(run(&[1, 4, 4], &[3, 3, 2, 2], plain).contains("`x` should have shape (B, H, W, C)"));
    assert!(
        run(&[1, 4, 4, 2], &[3, 3, 3, 2], plain)
            .contains("`weight` should have shape [3, 3, 2, 2]")
    );
    assert!(run(&[1, 4, 4, 2], &[5, 5, 2, 2], plain).contains("a [5, 5] kernel"));
    assert!(run(&[1, 4, 4, 2], &[0, 3, 2, 2], plain).contains("a [0, 3] kernel"));
    assert!(
        run(&[1, 4, 4, 2], &[3, 3, 2, 2], conv(0, [0; 4], Activation::None)).contains("stride")
    );
    assert!(
        run(&[1, 4, 4, 2], &[3, 3, 2, 2], conv(1, [usize::MAX; 4], Activation::None))
            .contains("padding")
    );
    assert!(
        run(&[1, 4, 4, 2], &[3, 3, 2, 2], plain).contains("`y` should have shape [1, 2, 2, 2]")
    );
}
