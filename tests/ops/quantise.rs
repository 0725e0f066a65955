use crate::support::numbers::*;
use invad::{DType, Device, EightBits, Tensor, ops};

pub const FORMATS: [EightBits; 2] = [EightBits::Int8, EightBits::E4m3];

/// All numbers of a format, by value, and their codes.
fn numbers(format: EightBits) -> Vec<(f64, u8)> {
    let number = |code: u8| match (format, code & 0x7f) {
        (EightBits::Int8, _) => Some(f64::from(code as i8)).filter(|x| *x != -128.0),
        (_, 0x7f) => None,
        (_, magnitude) => {
            let (exponent, mantissa) = (i32::from(magnitude >> 3), f64::from(magnitude & 7));
            let x = match exponent {
                0 => mantissa / 8.0 * 2f64.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
            };
            Some(if code < 0x80 { x } else { -x })
        }
    };
    (0..=255).filter_map(|code| Some((number(code)?, code))).collect()
}

/// The number nearest to x, of two the one whose code is even.
fn nearest(x: f64, numbers: &[(f64, u8)]) -> f64 {
    let key = |&(number, code): &(f64, u8)| ((number - x).abs(), code & 1);
    numbers.iter().copied().min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap().0
}

pub fn quantised(x: &Tensor, format: EightBits, scales: usize) -> (Tensor, Tensor) {
    let mut codes = Tensor::zeros(x.shape(), DType::U8, Device::Cpu).unwrap();
    codes.view_mut().fill(0x55 as f32).unwrap();
    let mut scale = poisoned(&[scales]);
    ops::quantise(x, format, &mut codes, &mut scale).unwrap();
    (codes, scale)
}

#[test]
fn codes_are_of_the_nearest_number() {
    for format in FORMATS {
        let numbers = numbers(format);
        for &(x, code) in &numbers {
            assert_eq!(f64::from(format.decode(code)), x, "{format:?} {code}");
        }
        let largest = f64::from(format.largest());
        assert_eq!(numbers.iter().map(|n| n.0).fold(0.0, f64::max), largest);
        let near = uniform(1, 20_000, format.largest() * 1.2).into_iter();
        let small = uniform(2, 20_000, 0.05).into_iter();
        let halves = numbers.windows(2).map(|pair| (0.5 * (pair[0].0 + pair[1].0)) as f32);
        let beside = halves.clone().flat_map(|x| [x.next_down(), x.next_up()]);
        let ends = [0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
        for x in near.chain(small).chain(halves).chain(beside).chain(ends) {
            let want = nearest(f64::from(x).clamp(-largest, largest), &numbers);
            let got = f64::from(format.decode(format.encode(x)));
            assert!(got == want, "{format:?} {x}: {got}, not {want}");
        }
    }
    assert!(EightBits::E4m3.decode(EightBits::E4m3.encode(-f32::NAN)).is_nan());
    assert_eq!(EightBits::Int8.encode(f32::NAN), 0);
}

#[test]
fn scales_bring_the_largest_to_the_largest() {
    for format in FORMATS {
        for [rows, k] in [[1, 1], [3, 17], [5, 300], [40, 64]] {
            let mut data = uniform(3, rows * k, 3.0);
            data[(rows - 1) * k..].fill(0.0);
            let x = from(&data, &[rows, k]);
            for scales in [rows, 1] {
                let (codes, scale) = quantised(&x, format, scales);
                let (codes, scale) = (codes.to_vec_f32(), scale.to_vec_f32());
                for (i, (&x, &code)) in data.iter().zip(&codes).enumerate() {
                    let row = i / k;
                    let of = if scales == 1 { &data } else { &data[row * k..][..k] };
                    let largest = of.iter().fold(0f32, |a, b| a.max(b.abs()));
                    let want = if largest == 0.0 { 1.0 } else { largest / format.largest() };
                    let scale = scale[if scales == 1 { 0 } else { row }];
                    assert_eq!((scale, code as u8), (want, format.encode(x / want)), "{i}");
                }
            }
        }
        // No row, no number.
        assert!(quantised(&from(&[], &[0, 3]), format, 0).1.to_vec_f32().is_empty());
        assert_eq!(quantised(&from(&[], &[2, 0]), format, 2).1.to_vec_f32(), [1.0; 2]);
    }
}

#[test]
fn what_is_not_finite_has_no_scale() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for format in FORMATS {
            let mut data = uniform(4, 60, 1.0);
            data[25] = bad;
            let x = from(&data, &[3, 20]);
            let scales = quantised(&x, format, 3).1.to_vec_f32();
            assert!(scales[1].is_nan() && scales[0].is_finite() && scales[2].is_finite());
            assert!(quantised(&x, format, 1).1.to_vec_f32()[0].is_nan());
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let x = tensor(5, &[70, 33], 2.0);
    assert_threads_do_not_matter(|| {
        let (codes, scale) = quantised(&x, EightBits::E4m3, 1);
        [codes, scale]
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let codes = |shape: &[usize]| Tensor::zeros(shape, DType::U8, Device::Cpu).unwrap();
    let run = |mut codes: Tensor, mut scales: Tensor| {
        ops::quantise(&tensor(1, &[2, 3], 1.0), EightBits::Int8, &mut codes, &mut scales)
    };
    let one = || poisoned(&[1]);
    assert_refused(
        run(codes(&[3, 2]), one()),
        "quantise: `codes` should have shape [2, 3], got [3, 2]",
    );
    assert_refused(
        run(codes(&[2, 3]), poisoned(&[3])),
        "quantise: `scales` should have shape [2] or [1], got [3]",
    );
    assert_refused(run(poisoned(&[2, 3]), one()), "quantise: `codes` should hold U8, got F32");
}
