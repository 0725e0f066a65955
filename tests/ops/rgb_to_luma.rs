use invad::ops;

#[test]
fn is_the_weighted_mean_rounded() {
    let rgb: Vec<u8> = (0..3 * 4096).map(|i| (i * 89 % 256) as u8).collect();
    let mut luma = vec![0; 4096];
    ops::rgb_to_luma(&rgb, &mut luma).unwrap();
    for (p, l) in rgb.chunks(3).zip(&luma) {
        let [r, g, b] = [p[0], p[1], p[2]].map(f64::from);
        assert!((0.299 * r + 0.587 * g + 0.114 * b - f64::from(*l)).abs() <= 0.502, "{p:?} {l}");
    }
    assert!(ops::rgb_to_luma(&rgb, &mut luma[1..]).is_err());
}
