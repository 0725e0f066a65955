//! Anomaly maps as pictures.

use image::{GrayImage, Luma, Rgb, RgbImage};
use invad::data::{Dataset, Mask, load_sample};
use invad::detect::overlay::{self, PREDICTED, TRUTH, colour, contour, fade, heat_map, mask_image};
use invad::detect::panel::{Row, panel};

use crate::support::photographs;

const GREY: Rgb<u8> = Rgb([128, 128, 128]);
const BLACK: Rgb<u8> = Rgb([0, 0, 0]);

/// CIE lightness L* of an sRGB colour.
fn lightness(c: Rgb<u8>) -> f64 {
    let linear = |v: u8| {
        let v = f64::from(v) / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    let y = 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
    if y > 0.008856 { 116.0 * y.cbrt() - 16.0 } else { 903.3 * y }
}

#[test]
fn colours_grow_lighter_evenly() {
    let steps: Vec<f64> = (0..=16).map(|i| lightness(colour(i as f32 / 16.0))).collect();
    assert!(steps[0] < 2.0 && steps[16] > 92.0, "{steps:?}");
    for pair in steps.windows(2) {
        let step = pair[1] - pair[0];
        // An even path from the first to the last would take 5.9 each.
        assert!((1.0..10.0).contains(&step), "{step}: {steps:?}");
    }
    let fine: Vec<f64> = (0..256).map(|i| lightness(colour(i as f32 / 255.0))).collect();
    assert!(fine.windows(2).all(|p| p[1] > p[0] - 0.3), "{fine:?}");
    assert_eq!(colour(-3.0), colour(0.0));
    assert_eq!(colour(f32::INFINITY), colour(1.0));
    assert_eq!(colour(f32::NAN), GREY);
}

#[test]
fn heat_map_spans_its_range() {
    let map = [2.0, 3.0, 4.0, 1.0, 9.0, f32::NAN];
    let picture = heat_map(&map, 3, 2, 2.0, 4.0).unwrap();
    assert_eq!(picture.dimensions(), (3, 2));
    let want = [0.0, 0.5, 1.0, 0.0, 1.0, f32::NAN].map(colour);
    assert!(picture.pixels().copied().eq(want));

    // Ranges that hold nothing, or no number.
    for (low, high) in [(2.0, 2.0), (2.0, 1.0), (2.0, f32::NAN), (2.0, f32::INFINITY)] {
        let map = [1.0, 2.0, f32::NAN, f32::NEG_INFINITY];
        let picture = heat_map(&map, 4, 1, low, high).unwrap();
        let want = [0.0, 0.0, f32::NAN, 0.0].map(colour);
        assert!(picture.pixels().copied().eq(want), "{low}..{high}: {picture:?}");
        let top = heat_map(&[f32::INFINITY], 1, 1, low, high).unwrap();
        assert_eq!(*top.get_pixel(0, 0), colour(1.0));
    }
    let error = heat_map(&map, 2, 2, 0.0, 1.0).unwrap_err().to_string();
    assert_eq!(error, "heat_map: `map` should have shape (2, 2), got [6]");
}

#[test]
fn overlay_blends_by_opacity() {
    let image = RgbImage::from_fn(4, 1, |x, _| Rgb([10, 20 * x as u8, 200]));
    let map = [0.0, 0.5, 1.0, f32::NAN];
    let none = overlay::overlay(&image, &map[..], 0.0, 1.0, |_| 0.0).unwrap();
    assert!((0..3).all(|x| none.get_pixel(x, 0) == image.get_pixel(x, 0)));
    assert_eq!(*none.get_pixel(3, 0), GREY);
    let all = overlay::overlay(&image, &map, 0.0, 1.0, |_| 7.0).unwrap();
    assert_eq!(all, heat_map(&map, 4, 1, 0.0, 1.0).unwrap());
    let half = overlay::overlay(&image, &map, 0.0, 1.0, |t| t / 2.0).unwrap();
    for x in 0..3 {
        let share = f64::from(map[x as usize]) / 2.0;
        let (under, over) = (image.get_pixel(x, 0), colour(map[x as usize]));
        for c in 0..3 {
            let want = f64::from(under[c]) * (1.0 - share) + f64::from(over[c]) * share;
            assert!((f64::from(half.get_pixel(x, 0)[c]) - want).abs() <= 0.51);
        }
    }
    assert_eq!((fade(0.0), fade(1.0)), (0.0, 0.5));
    assert!((0..100).all(|i| fade(i as f32 / 100.0) < fade((i + 1) as f32 / 100.0)));
    assert!(overlay::overlay(&image, &map[..3], 0.0, 1.0, fade).is_err());
}

/// Every pixel by its distance to the region: up to 2 in colour, up to 3 in black.
fn outlined(image: &RgbImage, region: &[bool], ink: Rgb<u8>) -> RgbImage {
    let (w, h) = image.dimensions();
    let inside: Vec<(i32, i32)> = (0..w * h)
        .filter(|&i| region[i as usize])
        .map(|i| ((i % w) as i32, (i / w) as i32))
        .collect();
    RgbImage::from_fn(w, h, |x, y| {
        let (x, y) = (x as i32, y as i32);
        let squared = inside.iter().map(|(u, v)| (x - u).pow(2) + (y - v).pow(2)).min();
        match squared {
            Some(1..=4) => ink,
            Some(5..=9) => BLACK,
            _ => *image.get_pixel(x as u32, y as u32),
        }
    })
}

#[test]
fn contours_lie_around_the_region() {
    for (w, h) in [(1, 1), (1, 9), (23, 17), (40, 40)] {
        let image = RgbImage::from_fn(w, h, |x, y| Rgb([90 + x as u8, 60 + y as u8, 77]));
        let shapes: [&dyn Fn(u32, u32) -> bool; 5] = [
            &|_, _| false,
            &|_, _| true,
            &|x, y| (x, y) == (w / 2, h / 2),
            &|x, y| x < w / 3 || (y > h / 2 && x > 2 * w / 3),
            // A ring, whose hole has an outline as well.
            &|x, y| (36..=100).contains(&((x as i32 - 18).pow(2) + (y as i32 - 9).pow(2))),
        ];
        for (shape, inside) in shapes.iter().enumerate() {
            let region: Vec<bool> = (0..w * h).map(|i| inside(i % w, i / w)).collect();
            for ink in [PREDICTED, TRUTH] {
                let got = contour(&image, &region, ink).unwrap();
                assert_eq!(got, outlined(&image, &region, ink), "{w}×{h} shape {shape}");
            }
        }
    }
    let error = contour(&RgbImage::new(2, 3), &[true], TRUTH).unwrap_err().to_string();
    assert_eq!(error, "contour: `region` should have shape (3, 2), got [1]");
}

#[test]
fn a_mask_as_a_picture() {
    let mask = Mask::new(2, 3, vec![false, false, true, false, true, false]).unwrap();
    let picture = mask_image(&mask);
    assert_eq!(picture, GrayImage::from_vec(2, 3, vec![0, 0, 255, 0, 255, 0]).unwrap());
    assert_eq!(picture.get_pixel(0, 1), &Luma([255]));
}

/// A mask of a good image.
fn empty_mask(width: usize, height: usize) -> Mask {
    Mask::new(width, height, vec![false; width * height]).unwrap()
}

#[test]
fn a_page_of_the_demo() {
    let set = Dataset::open(photographs(), &["cup".into()]).unwrap();
    let cup = &set.categories()[0];
    let defect = cup.test().iter().find(|t| t.mask.is_some()).unwrap();
    let (image, mask) = load_sample(defect).unwrap();
    let mask = mask.unwrap();
    let map: Vec<f32> = mask.pixels().iter().map(|&p| if p { 5.0 } else { 0.0 }).collect();
    let bad = Row {
        category: &cup.name,
        defect: defect.defect.as_deref(),
        score: 4.2,
        score_threshold: 3.0,
        image: &image,
        map: &map,
        range: (0.0, 5.0),
        predicted: &mask,
        truth: Some(&mask),
    };
    let quiet = vec![0.0; map.len()];
    let nothing = empty_mask(176, 176);
    let good =
        Row { defect: None, score: 0.5, map: &quiet, predicted: &nothing, truth: None, ..bad };
    let unknown =
        Row { category: "a name that is too long for its place: ☃é", truth: None, ..bad };

    let page = panel(&[bad, good, unknown]).unwrap();
    let count = |page: &RgbImage, ink| page.pixels().filter(|p| **p == ink).count();
    assert!(count(&page, PREDICTED) > 50 && count(&page, TRUTH) > 50);
    assert_eq!(page.get_pixel(0, 0).0, [255; 3]);
    let calm = panel(&[good]).unwrap();
    assert_eq!((count(&calm, PREDICTED), count(&calm, TRUTH)), (0, 0));
    assert_eq!(calm.width(), page.width());
    assert_eq!(page.height() - calm.height(), 2 * (256 + 12));

    // Extreme shapes and values are shown as well.
    for (w, h) in [(1, 1), (1, 500), (700, 2)] {
        let image = RgbImage::new(w, h);
        let map = vec![f32::NAN; (w * h) as usize];
        let predicted = &empty_mask(w as usize, h as usize);
        let row = Row { image: &image, map: &map, predicted, truth: None, score: f64::NAN, ..bad };
        panel(&[row]).unwrap();
    }

    let small = Mask::new(1, 1, vec![true]).unwrap();
    for (rows, message) in [
        (vec![], "panel: `rows` should be at least one row, got none"),
        (
            vec![Row { truth: Some(&small), ..bad }],
            "panel: `truth` should have shape (176, 176), got [1, 1]",
        ),
        (
            vec![Row { predicted: &small, ..bad }],
            "panel: `predicted` should have shape (176, 176), got [1, 1]",
        ),
        (
            vec![Row { map: &map[1..], ..bad }],
            "panel: `map` should have shape (176, 176), got [30975]",
        ),
        (
            vec![Row { image: &RgbImage::new(0, 3), ..bad }],
            "panel: `image` should be an image with pixels, got 0×3",
        ),
    ] {
        assert_eq!(panel(&rows).unwrap_err().to_string(), message);
    }
}
