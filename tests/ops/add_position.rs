use crate::common::*;
use invad::ops;

const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [2, 3, 5], [3, 17, 40], [1, 65, 130], [4, 196, 100]];

#[test]
fn forward() {
    for shape in SIZES {
        let (x, position) = (tensor(1, &shape, 2.0), tensor(2, &shape[1..], 1.0));
        let mut got = x.clone();
        ops::add_position(&mut got, &position).unwrap();
        let position = f64s(&position);
        let n = position.len();
        let want: Vec<f64> =
            f64s(&x).iter().enumerate().map(|(i, x)| x + position[i % n]).collect();
        assert_close(&format!("{shape:?}"), &f64s(&got), &want, 1e-7);
    }
}

#[test]
fn backward_accumulates() {
    for shape in SIZES {
        let (dx, start) = (tensor(1, &shape, 2.0), tensor(2, &shape[1..], 1.0));
        let mut got = start.clone();
        ops::add_position_backward(&dx, &mut got).unwrap();
        let mut want = f64s(&start);
        for dx in f64s(&dx).chunks_exact(want.len()) {
            want.iter_mut().zip(dx).for_each(|(w, dx)| *w += dx);
        }
        assert_close(&format!("{shape:?}"), &f64s(&got), &want, 3e-7);
    }
}

#[test]
fn threads_do_not_matter() {
    let (x, position) = (tensor(1, &[3, 256, 100], 1.0), tensor(2, &[256, 100], 1.0));
    assert_threads_do_not_matter(|| {
        let (mut y, mut dposition) = (x.clone(), position.clone());
        ops::add_position(&mut y, &position).unwrap();
        ops::add_position_backward(&x, &mut dposition).unwrap();
        [y, dposition]
    });
}

#[test]
fn refuses_other_shapes() {
    let (mut x, position) = (tensor(1, &[2, 3, 4], 1.0), tensor(1, &[4, 3], 1.0));
    assert_refused(
        ops::add_position_backward(&x, &mut position.clone()),
        "add_position_backward: `dx` should have shape (B, …) with … = [4, 3], got [2, 3, 4]",
    );
    assert_refused(
        ops::add_position(&mut x, &position),
        "add_position: `x` should have shape (B, …) with … = [4, 3], got [2, 3, 4]",
    );
}
