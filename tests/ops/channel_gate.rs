use crate::support::numbers::*;
use invad::ops;

/// x (B, pixels, C) by gates (B, C).
fn oracle(x: &[f64], gate: &[f64], [_, h, w, c]: [usize; 4]) -> Vec<f64> {
    let factor = |i: usize| 1.0 / (1.0 + (-gate[i / (h * w * c) * c + i % c]).exp());
    (0..x.len()).map(|i| x[i] * factor(i)).collect()
}

#[test]
fn forward() {
    for shape @ [b, _, _, c] in [
        [1, 1, 1, 1],
        [2, 3, 5, 17],
        [1, 7, 9, 64],
        [3, 2, 133, 65],
        [2, 19, 19, 272],
        [0, 2, 2, 8],
    ] {
        let (start, gate) = (tensor(1, &shape, 1.7), tensor(2, &[b, c], 9.0));
        let mut x = start.clone();
        ops::channel_gate(&mut x, &gate).unwrap();
        let want = oracle(&f64s(&start), &f64s(&gate), shape);
        assert_close(&format!("{shape:?}"), &f64s(&x), &want, 3e-7);
    }
}

#[test]
fn gates_that_are_shut_and_open() {
    let mut x = from(&[2.0, 2.0, -3.0, -3.0], &[1, 1, 2, 2]);
    ops::channel_gate(&mut x, &from(&[-200.0, 200.0], &[1, 2])).unwrap();
    assert_eq!(x.to_vec_f32(), [0.0, 2.0, 0.0, -3.0]);
}

#[test]
fn threads_do_not_matter() {
    let (start, gate) = (tensor(1, &[3, 40, 41, 130], 1.0), tensor(2, &[3, 130], 3.0));
    assert_threads_do_not_matter(|| {
        let mut x = start.clone();
        ops::channel_gate(&mut x, &gate).unwrap();
        [x]
    });
}

#[test]
fn refuses_other_shapes() {
    assert_refused(
        ops::channel_gate(&mut tensor(1, &[2, 3, 3, 4], 1.0), &tensor(2, &[2, 3], 1.0)),
        "channel_gate: `gate` should have shape [2, 4], got [2, 3]",
    );
    assert_refused(
        ops::channel_gate(&mut tensor(1, &[2, 9, 4], 1.0), &tensor(2, &[2, 4], 1.0)),
        "channel_gate: `x` should have shape (B, H, W, C), got [2, 9, 4]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    fn check(shape: [usize; 4]) {
        let Some(gpu) = gpu() else { return };
        let [b, _, _, c] = shape;
        let (start, gate) = (halves(1, shape.iter().product(), 1.7), halves(2, b * c, 9.0));
        let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|&v| v.into()).collect() };
        let want = oracle(&wide(&start), &wide(&gate), shape);
        let naive: Vec<f64> = want.iter().map(|&x| rounded(x)).collect();
        let mut x = Guarded::new(&shape, DType::F16, gpu);
        x.view_mut().copy_from_slice(&start).unwrap();
        ops::channel_gate(x.view_mut(), &upload(&gate, &[b, c], DType::F16, gpu)).unwrap();
        assert_as_good(&format!("{shape:?}"), &x.f64s(), &want, &naive);
    }

    #[test]
    fn tiny() {
        for shape in [[1, 1, 1, 8], [2, 3, 11, 72], [1, 10, 10, 64]] {
            check(shape);
        }
    }

    #[test]
    fn of_a_network() {
        for shape in [[2, 19, 19, 272], [1, 48, 48, 144], [0, 3, 3, 8]] {
            check(shape);
        }
    }

    #[test]
    fn refuses_channels_it_has_no_kernel_for() {
        let Some(gpu) = gpu() else { return };
        let mut x = Guarded::new(&[1, 1, 2, 12], DType::F16, gpu);
        assert_refused(
            ops::channel_gate(x.view_mut(), &upload(&[0.0; 12], &[1, 12], DType::F16, gpu)),
            "channel_gate: `x` should have shape (B, H, W, C) with C a multiple of 8 on a GPU, got \
             [1, 1, 2, 12]",
        );
    }
}
