use crate::support::numbers::*;
use invad::ops;

#[test]
fn every_value_of_every_channel() {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for pixels in [1, 17, 256, 5000] {
        let rgb: Vec<u8> = (0..3 * pixels).map(|i| (i * 7 / 3) as u8).collect();
        let mut y = poisoned(&[pixels, 3]);
        ops::normalise(bytes(&rgb, &[pixels, 3]), mean, std, &mut y).unwrap();
        let want: Vec<f64> = rgb
            .iter()
            .enumerate()
            .map(|(i, &v)| (f64::from(v) / 255.0 - f64::from(mean[i % 3])) / f64::from(std[i % 3]))
            .collect();
        assert_close(&format!("{pixels} pixels"), &f64s(&y), &want, 2e-7);
    }
    assert!(ops::normalise(&[0; 6], mean, std, &mut poisoned(&[3, 3])).is_err());
    assert!(ops::normalise(&[0; 6], mean, std, &mut poisoned(&[3, 2])).is_err());
}
