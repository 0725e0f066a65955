//! A report of made-up results.

use std::path::Path;
use std::time::Duration;

use image::{Rgb, RgbImage};
use invad::checkpoint::ImageStats;
use invad::data::{Mask, Sample, Split};
use invad::detect::{AnomalyMap, Evaluated, Evaluation, ImageResult, Scored};
use invad::metrics::Metrics;
use invad::report::{Image, Images, Report};

/// A name that would do harm in a page that does not escape it.
pub const HOSTILE: &str = "<script>alert('1')</script><img src=x onerror=\"alert(2)\">&amp; \"é";

pub const CATEGORIES: [&str; 3] =
    ["bolt", "a category with a long name, of which there are few", HOSTILE];
/// Good and defective images of each category.
pub const EACH: u64 = 6;

const SIDE: usize = 16;

/// Noise with a square where the map is high.
pub fn picture(seed: u64, width: u32, height: u32) -> RgbImage {
    let mut state = seed;
    RgbImage::from_fn(width, height, |x, y| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = (state >> 56) as u8;
        let square =
            (width / 2..width * 3 / 4).contains(&x) && (height / 4..height / 2).contains(&y);
        if square { Rgb([240, noise / 4, 40]) } else { Rgb([noise, noise / 2 + 60, 90]) }
    })
}

/// The square of [`picture`].
pub fn mask(width: usize, height: usize) -> Mask {
    let inside = |i: usize| {
        let (x, y) = (i % width, i / width);
        (width / 2..width * 3 / 4).contains(&x) && (height / 4..height / 2).contains(&y)
    };
    Mask::new(width, height, (0..width * height).map(inside).collect()).unwrap()
}

pub fn scored(score: f64, threshold: f64) -> Scored {
    let high = |i: usize| (8..12).contains(&(i % SIDE)) && (4..8).contains(&(i / SIDE));
    let cell = |i| if high(i) { score as f32 } else { 0.1 * (i % 5) as f32 };
    let map = AnomalyMap::new(SIDE, (0..SIDE * SIDE).map(cell).collect()).unwrap();
    let block = map.block(f64::INFINITY);
    Scored {
        score,
        threshold,
        is_anomalous: score >= threshold,
        is_unfamiliar: false,
        category: None,
        stats: ImageStats { max: block, abs: block, block, top5: block, nll: block.into() },
        map,
        map_threshold: threshold as f32,
        map_range: (0.0, 3.0 * threshold as f32),
    }
}

/// An image of a report.
pub fn image(category: &str, test: &Sample, score: f64, (width, height): (u32, u32)) -> Image {
    let defective = test.defect.is_some();
    Image::new(&ImageResult {
        category,
        test,
        image: picture(score.to_bits(), width, height),
        mask: defective.then(|| mask(width as usize, height as usize)),
        scored: scored(score, 4.0),
        loading: Duration::from_micros((100.0 * score.abs()) as u64),
    })
    .unwrap()
}

/// With false alarms, missed defects, names that need escaping, warnings and a training.
pub fn report() -> Report {
    let mut images = Images::default();
    let mut categories = std::collections::BTreeMap::new();
    for (c, name) in CATEGORIES.into_iter().enumerate() {
        let (mut scores, mut labels) = (Vec::new(), Vec::new());
        for i in 0..2 * EACH {
            let defect =
                (i >= EACH).then(|| if i % 2 == 0 { "dent".into() } else { HOSTILE.to_string() });
            let score = match &defect {
                Some(_) => 2.5 + 3.0 * (i - EACH) as f64,
                None => -1.0 + 1.1 * i as f64,
            };
            scores.push(score);
            labels.push(defect.is_some());
            let file = if i == 0 { "<b>.png".into() } else { format!("{i:03}.png") };
            let test = Sample { defect, ..Sample::good(Path::new("data").join(file), Split::Test) };
            let size = [(200, 150), (900, 400), (40, 60)][c];
            images.add(image(name, &test, score, size));
        }
        let metrics = Metrics::from_images(&scores, &labels, Some(4.0)).unwrap();
        categories.insert(name.to_string(), metrics);
    }
    let evaluated = Evaluated::new(categories);
    Report {
        title: format!("Made up {HOSTILE}"),
        facts: vec![("Data".into(), HOSTILE.into()), ("Time".into(), "1 s".into())],
        warnings: vec![format!("The threshold of {HOSTILE} cannot be relied on.")],
        evaluation: Evaluation {
            calibrated: evaluated.clone(),
            paper: evaluated.clone(),
            thresholds: Default::default(),
            tied: Vec::new(),
        },
        baselines: Some(invad::baselines::Baselines {
            padim: evaluated.clone(),
            nearest_neighbour: evaluated,
        }),
        training: (1..=900).map(|i| (i, 1.0 / i as f64 + 0.01 * (i % 7) as f64)).collect(),
        images,
    }
}
