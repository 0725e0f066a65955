use crate::support::numbers::*;
use invad::ops;
use invad::tensor::TensorView;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn bytes(pixels: usize) -> Vec<u8> {
    (0..3 * pixels).map(|i| (i * 7 / 3) as u8).collect()
}

fn oracle(rgb: &[u8]) -> Vec<f64> {
    let value = |(i, &v): (usize, &u8)| {
        (f64::from(v) / 255.0 - f64::from(MEAN[i % 3])) / f64::from(STD[i % 3])
    };
    rgb.iter().enumerate().map(value).collect()
}

#[test]
fn every_value_of_every_channel() {
    for pixels in [1, 17, 256, 5000] {
        let rgb = bytes(pixels);
        let mut y = poisoned(&[pixels, 3]);
        let view = TensorView::from_bytes(&rgb, &[1, pixels, 3]).unwrap();
        ops::normalise(view, MEAN, STD, &mut y).unwrap();
        assert_close(&format!("{pixels} pixels"), &f64s(&y), &oracle(&rgb), 2e-7);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let rgb = [0; 6];
    let run = |shape: &[usize], y: &[usize]| {
        let view = TensorView::from_bytes(&rgb, shape).unwrap();
        ops::normalise(view, MEAN, STD, &mut poisoned(y)).map_err(|e| e.to_string())
    };
    run(&[2, 3], &[1, 2, 3]).unwrap();
    assert!(run(&[2, 3], &[3, 3]).unwrap_err().contains("`y` should have shape [6], got [9]"));
    assert!(run(&[2, 3], &[3, 2]).unwrap_err().contains("`y` should have shape (…, 3)"));
    assert!(run(&[6], &[2, 3]).unwrap_err().contains("`rgb` should have shape (…, 3)"));
    let error = ops::normalise(&poisoned(&[2, 3]), MEAN, STD, &mut poisoned(&[2, 3])).unwrap_err();
    assert_eq!(error.to_string(), "normalise: `rgb` should hold U8, got F32");
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn every_value_of_every_channel() {
        let Some(gpu) = gpu() else { return };
        for pixels in [1, 17, 256, 5000] {
            let rgb = bytes(pixels);
            let floats: Vec<f32> = rgb.iter().map(|&v| v.into()).collect();
            // A part that begins anywhere.
            let all = upload(&[&[7.0][..], &floats].concat(), &[rgb.len() + 1], DType::U8, gpu);
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 1.0 / 2048.0)] {
                let mut y = Guarded::new(&[pixels, 3], dtype, gpu);
                let view = all.view().part(1, &[pixels, 3]).unwrap();
                ops::normalise(view, MEAN, STD, y.view_mut()).unwrap();
                let case = format!("{pixels} pixels as {dtype:?}");
                assert_close(&case, &y.f64s(), &oracle(&rgb), tolerance);
            }
        }
        let rgb = upload(&[0.0; 6], &[2, 3], DType::U8, gpu);
        let mut y = upload(&[0.0; 6], &[2, 3], DType::BF16, gpu);
        assert!(ops::normalise(&rgb, MEAN, STD, &mut y).is_err());
        let x = upload(&[0.0; 6], &[2, 3], DType::F16, gpu);
        let mut y = upload(&[0.0; 6], &[2, 3], DType::F16, gpu);
        let error = ops::normalise(&x, MEAN, STD, &mut y).unwrap_err().to_string();
        assert_eq!(error, "normalise: `rgb` should hold U8, got F16");
    }
}
