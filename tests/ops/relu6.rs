use crate::support::numbers::*;
use invad::ops;

#[test]
fn forward_and_backward() {
    for n in [1, 17, 1000, 40_000] {
        let (x, dy) = (tensor(1, &[n], 12.0), tensor(2, &[n], 1.0));
        let (mut y, mut dx) = (poisoned(&[n]), poisoned(&[n]));
        ops::relu6(&x, &mut y).unwrap();
        ops::relu6_backward(&y, &dy, &mut dx).unwrap();
        let want: Vec<f64> = f64s(&x).iter().map(|x| x.clamp(0.0, 6.0)).collect();
        assert_close("relu6", &f64s(&y), &want, 0.0);
        let inside = |x: f64| if 0.0 < x && x < 6.0 { 1.0 } else { 0.0 };
        let want: Vec<f64> =
            f64s(&x).iter().zip(f64s(&dy)).map(|(&x, dy)| dy * inside(x)).collect();
        assert_close("relu6_backward", &f64s(&dx), &want, 0.0);
    }
    assert!(ops::relu6(&tensor(1, &[2], 1.0), &mut poisoned(&[3])).is_err());
}
