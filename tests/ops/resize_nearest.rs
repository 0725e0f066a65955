use invad::ops;

#[test]
fn takes_the_input_under_the_centre() {
    for ([h, w], [oh, ow]) in
        [([1, 1], [3, 2]), ([37, 41], [64, 64]), ([90, 100], [32, 7]), ([5, 9], [5, 9])]
    {
        let src: Vec<u8> = (0..h * w).map(|i| (i * 37 % 251) as u8).collect();
        let mut dst = vec![0; oh * ow];
        ops::resize_nearest(&src, [h, w], &mut dst, [oh, ow]).unwrap();
        for (i, got) in dst.iter().enumerate() {
            // ⌊(o + ½)·input/output⌋ in whole numbers; on a border either neighbour is right.
            let (y, x) = ((2 * (i / ow) + 1) * h, (2 * (i % ow) + 1) * w);
            let near = |at: usize, output: usize| {
                let exact = at.is_multiple_of(2 * output);
                let at = at / (2 * output);
                if exact { vec![at, at.saturating_sub(1)] } else { vec![at] }
            };
            let found = near(y, oh)
                .iter()
                .any(|&y| near(x, ow).iter().any(|&x| y < h && x < w && src[y * w + x] == *got));
            assert!(found, "{h}×{w} to {oh}×{ow} at {i}");
        }
    }
    assert!(ops::resize_nearest(&[0; 4], [2, 2], &mut [0; 2], [1, 1]).is_err());
    assert!(ops::resize_nearest(&[], [0, 2], &mut [0; 1], [1, 1]).is_err());
}
