//! Defects that are painted into images.

use image::{Rgb, RgbImage};
use invad::data::{DefectKind, Mask, paint_defect};

/// Noise everywhere, coarse and fine.
fn textured(width: u32, height: u32) -> RgbImage {
    let at = |x: u32, y: u32| {
        let fine = x.wrapping_mul(0x9e37_79b9) ^ y.wrapping_mul(0x85eb_ca6b);
        ((fine.wrapping_mul(0xc2b2_ae35) >> 24) / 2 + 40 * ((x / 16 + y / 16) % 2) + 40) as u8
    };
    RgbImage::from_fn(width, height, |x, y| Rgb([at(x, y), at(y, x), at(x + 7, y)]))
}

/// Column and row of the anomalous pixels.
fn pixels(mask: &Mask) -> Vec<(usize, usize)> {
    let all = mask.pixels().iter().enumerate().filter(|(_, on)| **on);
    all.map(|(i, _)| (i % mask.width(), i / mask.width())).collect()
}

#[test]
fn defects_are_small_and_where_the_mask_says() {
    for (side, times) in [(256, 1.0), (512, 2.0)] {
        let image = textured(side, side);
        for (i, kind) in DefectKind::ALL.into_iter().cycle().take(36).enumerate() {
            let (painted, mask) = paint_defect(&image, kind, 5, i as u64).unwrap();
            assert_eq!((mask.width(), mask.height()), (side as usize, side as usize));
            let on = pixels(&mask);
            let [columns, rows]: [Vec<usize>; 2] =
                [on.iter().map(|p| p.0).collect(), on.iter().map(|p| p.1).collect()];
            let extent =
                |of: &[usize]| (of.iter().max().unwrap() - of.iter().min().unwrap()) as f64;
            assert!(extent(&columns).max(extent(&rows)) <= 58.0 * times, "{kind:?} {i}");
            // An ellipse of radii 4 to 13, or a stroke of 16 × 1.6 to 56 × 4; half of it outside the image.
            let area = on.len() as f64 / (times * times);
            assert!((12.0..=600.0).contains(&area), "{kind:?} {i}: {area}");
            let mut changed = 0;
            for (x, y, pixel) in painted.enumerate_pixels() {
                if *pixel != image[(x, y)] {
                    let near = on.iter().any(|&(a, b)| {
                        a.abs_diff(x as usize).max(b.abs_diff(y as usize)) as f64 <= 3.0 * times
                    });
                    assert!(near, "{kind:?} {i}: ({x}, {y}) is far from the mask");
                    changed += usize::from(mask.pixels()[(y * side + x) as usize]);
                }
            }
            assert!(changed * 10 > on.len() * 8, "{kind:?} {i}: {changed} of {}", on.len());
        }
    }
}

#[test]
fn the_same_defect_for_the_same_numbers() {
    let image = textured(96, 64);
    let all = |seed, index| -> Vec<_> {
        let painted = DefectKind::ALL.map(|kind| paint_defect(&image, kind, seed, index).unwrap());
        painted.into()
    };
    assert_eq!(all(1, 2), all(1, 2));
    for (other, what) in [(all(2, 2), "seed"), (all(1, 3), "index")] {
        let same = all(1, 2).iter().zip(&other).filter(|(a, b)| a == b).count();
        assert_eq!(same, 0, "the {what} changes nothing");
    }
    let mut one = all(1, 2);
    one.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(one.len(), 6, "kinds differ");
}

/// What each kind does, in a grey image with a dark square.
#[test]
fn kinds_are_what_they_are_called() {
    let image = RgbImage::from_fn(256, 256, |x, y| {
        let dark = (64..192).contains(&x) && (64..192).contains(&y);
        Rgb(if dark { [60, 80, 100] } else { [180; 3] })
    });
    for index in 0..20 {
        let inside = |kind| {
            let (painted, mask) = paint_defect(&image, kind, 3, index).unwrap();
            let on = pixels(&mask);
            let of = |image: &RgbImage| -> Vec<[u8; 3]> {
                on.iter().map(|&(x, y)| image[(x as u32, y as u32)].0).collect()
            };
            (of(&painted), of(&image))
        };
        let (scar, _) = inside(DefectKind::Scar);
        assert!(scar.iter().any(|p| ![[60, 80, 100], [180; 3]].contains(p)));
        let (noise, was) = inside(DefectKind::Noise);
        let mean =
            noise.iter().zip(&was).map(|(a, b)| f64::from(a[1]) - f64::from(b[1])).sum::<f64>();
        assert!(mean.abs() / (noise.len() as f64) < 12.0, "noise has no mean");
        let (missing, _) = inside(DefectKind::MissingPart);
        let middle = missing[missing.len() / 2];
        let same = missing.iter().filter(|p| p.iter().zip(middle).all(|(a, b)| a.abs_diff(b) < 2));
        assert!(same.count() * 2 > missing.len(), "what is missing is plain");
        let (colour, was) = inside(DefectKind::Colour);
        let lighter = colour.iter().zip(&was).filter(|(a, b)| a[1] > b[1]).count();
        assert!([0, colour.len()].contains(&lighter), "a tint goes one way");
    }
}

#[test]
fn defects_lie_on_the_part() {
    let texture = textured(256, 256);
    let image = RgbImage::from_fn(256, 256, |x, y| {
        let on = (f64::from(x) - 80.0).hypot(f64::from(y) - 170.0) < 40.0;
        if on { texture[(x, y)] } else { Rgb([200; 3]) }
    });
    let on = (0..60).filter(|&i| {
        let (_, mask) = paint_defect(&image, DefectKind::MissingPart, 0, i).unwrap();
        let all = pixels(&mask);
        let mean = |f: fn(&(usize, usize)) -> usize| {
            all.iter().map(|p| f(p) as f64).sum::<f64>() / all.len() as f64
        };
        (mean(|p| p.0) - 80.0).hypot(mean(|p| p.1) - 170.0) < 55.0
    });
    // A seventh of the image.
    assert!(on.count() >= 54);
}

#[test]
fn images_of_any_size() {
    for (width, height) in [(1, 1), (2, 1), (3, 200), (257, 9), (20, 20)] {
        for (i, kind) in DefectKind::ALL.into_iter().enumerate() {
            let (painted, mask) =
                paint_defect(&textured(width, height), kind, 0, i as u64).unwrap();
            assert_eq!(painted.dimensions(), (width, height));
            assert!(!pixels(&mask).is_empty(), "{width}×{height}, {kind:?}");
        }
    }
    let error = paint_defect(&RgbImage::new(0, 7), DefectKind::Blur, 0, 0).unwrap_err();
    assert_eq!(error.to_string(), "paint_defect: `image` should be one with pixels, got 0×7");
}
