//! Metrics against oracles that follow the definitions, threshold by threshold and pixel by pixel.

use invad::metrics::*;

use crate::support::numbers::{Numbers, uniform};

fn assert_near(case: &str, got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-12, "{case}: got {got}, want {want}");
}

fn assert_same(case: &str, got: Option<f64>, want: Option<f64>) {
    match (got, want) {
        (Some(got), Some(want)) => assert_near(case, got, want),
        _ => assert_eq!(got, want, "{case}"),
    }
}

/// The distinct scores, descending.
fn thresholds(scores: &[f64]) -> Vec<f64> {
    let mut distinct = scores.to_vec();
    distinct.sort_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    distinct
}

/// How many with `label` have a score ≥ `threshold`.
fn flagged(scores: &[f64], labels: &[bool], label: bool, threshold: f64) -> f64 {
    scores.iter().zip(labels).filter(|&(&s, &l)| l == label && s >= threshold).count() as f64
}

fn count(labels: &[bool], label: bool) -> f64 {
    labels.iter().filter(|&&l| l == label).count() as f64
}

fn auroc_oracle(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let (mut ordered, mut pairs) = (0.0, 0.0);
    for (&a, _) in scores.iter().zip(labels).filter(|p| *p.1) {
        for (&n, _) in scores.iter().zip(labels).filter(|p| !*p.1) {
            pairs += 1.0;
            ordered += if a > n {
                1.0
            } else if a == n {
                0.5
            } else {
                0.0
            };
        }
    }
    (pairs > 0.0).then(|| ordered / pairs)
}

fn ap_oracle(scores: &[f64], labels: &[bool]) -> f64 {
    let all = count(labels, true);
    let (mut ap, mut recall) = (0.0, 0.0);
    for t in thresholds(scores) {
        let (tp, fp) = (flagged(scores, labels, true, t), flagged(scores, labels, false, t));
        let next = if all > 0.0 { tp / all } else { 0.0 };
        ap += (next - recall) * tp / (tp + fp);
        recall = next;
    }
    ap
}

fn f1_oracle(scores: &[f64], labels: &[bool], threshold: f64) -> f64 {
    let (tp, fp) =
        (flagged(scores, labels, true, threshold), flagged(scores, labels, false, threshold));
    let missed = count(labels, true) - tp;
    if tp > 0.0 { 2.0 * tp / (2.0 * tp + fp + missed) } else { 0.0 }
}

fn f1_max_oracle(scores: &[f64], labels: &[bool]) -> f64 {
    thresholds(scores).iter().map(|&t| f1_oracle(scores, labels, t)).fold(0.0, f64::max)
}

/// At each threshold from the highest down; the area under the ROC curve is AUROC.
fn curves_are_those_of_the_definition(case: &str, scores: &[f64], labels: &[bool]) {
    let (normal, anomalous) = (count(labels, false), count(labels, true));
    let at = |threshold| [false, true].map(|label| flagged(scores, labels, label, threshold));
    let points = |f: &dyn Fn([f64; 2]) -> (f64, f64)| -> Vec<(f64, f64)> {
        thresholds(scores).into_iter().map(|t| f(at(t))).collect()
    };
    let roc = roc_curve(scores, labels).unwrap();
    assert_eq!(roc.is_some(), normal * anomalous > 0.0, "{case}");
    if let Some(roc) = roc {
        assert_eq!(roc[0], (0.0, 0.0), "{case}");
        assert_eq!(roc[1..], points(&|[fp, tp]| (fp / normal, tp / anomalous)), "{case}");
        assert_near(case, area_oracle(&roc, 1.0), auroc(scores, labels).unwrap().unwrap());
    }
    let pr = precision_recall_curve(scores, labels).unwrap();
    let want = points(&|[fp, tp]| (tp / anomalous, tp / (tp + fp)));
    assert_eq!(pr, (anomalous > 0.0).then_some(want), "{case}");
}

/// Labels spread from pixel to pixel until nothing changes; then numbered by first appearance.
fn components_oracle(mask: &[bool], width: usize, height: usize) -> Vec<u32> {
    let mut root: Vec<usize> = (0..mask.len()).collect();
    loop {
        let before = root.clone();
        for (a, b) in (0..mask.len()).flat_map(|a| (0..mask.len()).map(move |b| (a, b))) {
            let touch =
                (a % width).abs_diff(b % width) <= 1 && (a / width).abs_diff(b / width) <= 1;
            if touch && mask[a] && mask[b] {
                root[a] = root[a].min(root[b]);
            }
        }
        if root == before {
            break;
        }
    }
    assert_eq!(mask.len(), width * height);
    let mut first = Vec::new();
    (0..mask.len())
        .map(|p| {
            if !mask[p] {
                return 0;
            }
            if !first.contains(&root[p]) {
                first.push(root[p]);
            }
            first.iter().position(|&r| r == root[p]).unwrap() as u32 + 1
        })
        .collect()
}

struct Image {
    map: Vec<f32>,
    mask: Vec<bool>,
    width: usize,
    height: usize,
}

impl Image {
    /// Scores of `levels` values, masks with `density`/8 of the pixels set.
    fn random(
        random: &mut Numbers,
        width: usize,
        height: usize,
        levels: usize,
        density: usize,
    ) -> Self {
        let n = width * height;
        Self {
            map: (0..n).map(|_| random.below(levels) as f32 * 0.37 - 2.0).collect(),
            mask: (0..n).map(|_| random.below(8) < density).collect(),
            width,
            height,
        }
    }

    fn annotated(&self) -> AnnotatedMap<'_> {
        let Self { map, mask, width, height } = self;
        AnnotatedMap { map, mask, width: *width, height: *height }
    }
}

fn annotated(images: &[Image]) -> Vec<AnnotatedMap<'_>> {
    images.iter().map(Image::annotated).collect()
}

fn all_pixels(images: &[Image]) -> (Vec<f64>, Vec<bool>) {
    let scores = images.iter().flat_map(|i| &i.map).map(|&s| f64::from(s)).collect();
    let labels = images.iter().flat_map(|i| &i.mask).copied().collect();
    (scores, labels)
}

/// (FPR, PRO) for no threshold and for each distinct score, from the definition.
fn pro_curve_oracle(images: &[Image]) -> Option<Vec<(f64, f64)>> {
    let (scores, labels) = all_pixels(images);
    let regions: Vec<Vec<f64>> = images
        .iter()
        .flat_map(|image| {
            let numbers = components_oracle(&image.mask, image.width, image.height);
            let most = numbers.iter().copied().max().unwrap_or(0);
            (1..=most).map(move |r| {
                let pixels = numbers.iter().zip(&image.map);
                pixels.filter(|&(&n, _)| n == r).map(|(_, &s)| f64::from(s)).collect()
            })
        })
        .collect();
    if regions.is_empty() || count(&labels, false) == 0.0 {
        return None;
    }
    let mut curve = vec![(0.0, 0.0)];
    for t in thresholds(&scores) {
        let overlap: f64 = regions
            .iter()
            .map(|r| r.iter().filter(|&&s| s >= t).count() as f64 / r.len() as f64)
            .sum();
        let fpr = flagged(&scores, &labels, false, t) / count(&labels, false);
        curve.push((fpr, overlap / regions.len() as f64));
    }
    Some(curve)
}

/// The area under `curve` left of `limit`, every piece cut at the limit.
fn area_oracle(curve: &[(f64, f64)], limit: f64) -> f64 {
    let mut area = 0.0;
    for pair in curve.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let (a, b) = (x0.min(limit), x1.min(limit));
        if b > a {
            let at = |x: f64| y0 + (y1 - y0) * (x - x0) / (x1 - x0);
            area += (b - a) * (at(a) + at(b)) / 2.0;
        }
    }
    area / limit
}

#[test]
fn image_metrics_follow_the_definitions() {
    let mut random = Numbers::new(1);
    for n in [1, 2, 3, 10, 57, 200] {
        for levels in [1, 2, 7, 1000] {
            for positive in [0, 1, 4, 8] {
                let scores: Vec<f64> =
                    (0..n).map(|_| random.below(levels) as f64 * 0.1 - 0.3).collect();
                let labels: Vec<bool> = (0..n).map(|_| random.below(8) < positive).collect();
                let case = format!("n {n}, levels {levels}, positive {positive}/8");
                let got = image_metrics(&scores, &labels).unwrap();
                assert_same(&case, got.auroc, auroc_oracle(&scores, &labels));
                assert_near(&case, got.ap, ap_oracle(&scores, &labels));
                let best = f1_max_oracle(&scores, &labels);
                assert_near(&case, got.f1_max.value, best);
                assert_near(&case, f1_oracle(&scores, &labels, got.f1_max.threshold), best);
                for t in thresholds(&scores).into_iter().filter(|&t| t < got.f1_max.threshold) {
                    assert!(f1_oracle(&scores, &labels, t) < best, "{case}: lower threshold {t}");
                }
                assert_eq!(auroc(&scores, &labels).unwrap(), got.auroc);
                curves_are_those_of_the_definition(&case, &scores, &labels);
                assert_eq!(average_precision(&scores, &labels).unwrap(), got.ap);
                assert_eq!(f1_max(&scores, &labels).unwrap(), got.f1_max);
                let t = scores[n / 2];
                let share = |label| {
                    let all = count(&labels, label);
                    (all > 0.0).then(|| flagged(&scores, &labels, label, t) / all)
                };
                assert_eq!(false_alarm_rate(&scores, &labels, t).unwrap(), share(false), "{case}");
                assert_eq!(recall(&scores, &labels, t).unwrap(), share(true), "{case}");
                for limit in [0.0, 0.2, 1.0] {
                    let anomalous = scores.iter().zip(&labels).filter(|(_, label)| **label);
                    let within = anomalous.map(|(s, _)| *s).filter(|&t| {
                        flagged(&scores, &labels, false, t) <= limit * count(&labels, false)
                    });
                    let least = within.fold(f64::INFINITY, f64::min);
                    let got = threshold_within(&scores, &labels, limit).unwrap();
                    assert_eq!(got.unwrap_or(f64::INFINITY), least, "{case}, limit {limit}");
                }
            }
        }
    }
}

#[test]
fn pixel_metrics_follow_the_definitions() {
    let mut random = Numbers::new(2);
    let sizes: [&[(usize, usize)]; 5] =
        [&[(1, 1)], &[(1, 9)], &[(7, 5), (5, 7)], &[(11, 3), (2, 2), (1, 4)], &[(13, 9); 3]];
    for sizes in sizes {
        for levels in [1, 3, 20, 100_000] {
            for density in [0, 1, 3, 8] {
                let images: Vec<Image> = sizes
                    .iter()
                    .map(|&(w, h)| Image::random(&mut random, w, h, levels, density))
                    .collect();
                let (scores, labels) = all_pixels(&images);
                let curve = pro_curve_oracle(&images);
                for limit in [0.01, 0.3, 1.0] {
                    let case = format!("{sizes:?}, levels {levels}, {density}/8, limit {limit}");
                    let got = pixel_metrics(&annotated(&images), limit).unwrap();
                    assert_same(&case, got.auroc, auroc_oracle(&scores, &labels));
                    assert_near(&case, got.ap, ap_oracle(&scores, &labels));
                    assert_near(&case, got.f1_max.value, f1_max_oracle(&scores, &labels));
                    assert_same(&case, got.au_pro, curve.as_ref().map(|c| area_oracle(c, limit)));
                    assert_eq!(au_pro(&annotated(&images), limit).unwrap(), got.au_pro);
                    assert_eq!(got.anomalous as f64, count(&labels, true));
                    assert_eq!(got.normal as f64, count(&labels, false));
                }
                let got = pro_curve(&annotated(&images)).unwrap();
                assert_eq!(got.is_some(), curve.is_some());
                for (got, want) in got.iter().flatten().zip(curve.iter().flatten()) {
                    assert_near("FPR", got.0, want.0);
                    assert_near("PRO", got.1, want.1);
                }
                assert_eq!(got.map(|c| c.len()), curve.map(|c| c.len()));
            }
        }
    }
}

#[test]
fn components_are_joined_through_corners_and_numbered_in_order() {
    let mut random = Numbers::new(3);
    for (width, height) in [(1, 1), (1, 8), (8, 1), (5, 7), (17, 4), (12, 12)] {
        for density in 0..=8 {
            let image = Image::random(&mut random, width, height, 1, density);
            let got = connected_components(&image.mask, width, height).unwrap();
            let want = components_oracle(&image.mask, width, height);
            assert_eq!(got.labels, want, "{width}x{height}, {density}/8");
            for (i, &size) in got.sizes.iter().enumerate() {
                let label = i as u32 + 1;
                assert_eq!(want.iter().filter(|&&l| l == label).count(), size as usize);
            }
            assert!(!want.contains(&(got.sizes.len() as u32 + 1)));
        }
    }
    let bits = |mask: &[u8]| -> Vec<bool> { mask.iter().map(|&m| m != 0).collect() };
    // A diagonal is one region; the ends of two successive rows do not touch.
    let diagonal = connected_components(&bits(&[1, 0, 0, 0, 1, 0, 0, 0, 1]), 3, 3).unwrap();
    assert_eq!(diagonal.sizes, [3]);
    let wrapped = connected_components(&bits(&[0, 0, 0, 1, 1, 0, 0, 0]), 4, 2).unwrap();
    assert_eq!(wrapped.sizes, [1, 1]);
    assert!(connected_components(&[], 0, 0).unwrap().sizes.is_empty());
}

#[test]
fn zeros_of_either_sign_tie_and_infinities_rank() {
    let labels = [true, false, true, false];
    let scores = [-0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY];
    assert_eq!(auroc(&scores, &labels).unwrap(), Some(0.875));
    assert_near("ap", average_precision(&scores, &labels).unwrap(), 5.0 / 6.0);
    let best = f1_max(&scores, &labels).unwrap();
    assert_near("f1", best.value, 0.8);
    assert_eq!(best.threshold.to_bits(), 0.0f64.to_bits());
}

#[test]
fn many_pixels_give_the_same_bits_on_any_number_of_threads() {
    let mut random = Numbers::new(4);
    let images: Vec<Image> = [(301, 203), (64, 511), (200, 200)]
        .map(|(w, h)| Image::random(&mut random, w, h, 5000, 1))
        .into();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| pixel_metrics(&annotated(&images), FPR_LIMIT).unwrap())
    };
    let one = on(1);
    assert_eq!(on(2), one);
    assert_eq!(on(5), one);
    let (scores, labels) = all_pixels(&images);
    assert_eq!(image_metrics(&scores, &labels).unwrap().auroc, one.auroc);
    // Another order of the same images.
    let swapped = [images[2].annotated(), images[0].annotated(), images[1].annotated()];
    assert_eq!(pixel_metrics(&swapped, FPR_LIMIT).unwrap(), one);
}

#[test]
fn refuses_what_it_cannot_rank() {
    let message = |r: invad::Result<Option<f64>>| r.unwrap_err().to_string();
    let nan = [0.5, f64::NAN];
    assert_eq!(
        message(auroc(&nan, &[true, false])),
        "auroc: `scores` should be numbers, got NaN at index 1"
    );
    assert!(average_precision(&nan, &[true, false]).is_err());
    assert!(f1_max(&nan, &[true, false]).is_err());
    assert!(recall(&nan, &[true, false], 0.0).is_err());
    assert!(recall(&[0.5], &[true], f64::NAN).is_err());
    assert!(Metrics::from_images(&nan, &[true, false], None).is_err());
    assert_eq!(
        message(auroc(&[1.0, 2.0], &[true])),
        "auroc: `labels` should have shape [2], got [1]"
    );
    assert_eq!(
        message(auroc::<f64>(&[], &[])),
        "auroc: `scores` should be at least one score, got none"
    );

    let map = [0.0, 1.0, f32::NAN, 3.0, 4.0, 5.0];
    let image = |map, mask, width, height| [AnnotatedMap { map, mask, width, height }];
    assert_eq!(
        message(au_pro(&image(&map, &[false; 6], 2, 3), 0.3)),
        "au_pro: `map` should be numbers, got NaN in image 0 at x 0, y 1"
    );
    assert_eq!(
        message(au_pro(&image(&map, &[false; 5], 2, 3), 0.3)),
        "au_pro: `mask` should have shape [3, 2] (image 0), got [5]"
    );
    assert!(au_pro(&image(&map, &[false; 6], usize::MAX, usize::MAX), 0.3).is_err());
    assert!(au_pro(&[], 0.3).is_err());
    assert!(connected_components(&[false; 5], 2, 3).is_err());
    for limit in [0.0, -0.1, 1.1, f64::NAN] {
        assert!(au_pro(&image(&[0.0; 6], &[false; 6], 2, 3), limit).is_err(), "limit {limit}");
    }
}

#[test]
fn metrics_are_percent_and_absent_where_undefined() {
    let scores = [1.0, 2.0, 3.0, 4.0];
    let full = Metrics::from_images(&scores, &[false, true, false, true], Some(3.0)).unwrap();
    assert_eq!(full.image_auroc, Some(75.0));
    assert_near("ap", full.image_ap.unwrap(), 100.0 * (0.5 + 0.5 * 2.0 / 3.0));
    assert_near("f1", full.image_f1_max.unwrap(), 80.0);
    assert_eq!((full.false_alarm_rate, full.recall), (Some(50.0), Some(50.0)));
    assert_eq!((full.pixel_auroc, full.au_pro, full.mad), (None, None, None));

    let good = Metrics::from_images(&scores, &[false; 4], Some(3.5)).unwrap();
    assert_eq!(good, Metrics { false_alarm_rate: Some(25.0), ..Metrics::default() });

    let image = AnnotatedMap {
        map: &[0.0, 1.0, 2.0, 3.0],
        mask: &[false, false, false, true],
        width: 2,
        height: 2,
    };
    let pixels = pixel_metrics(&[image], FPR_LIMIT).unwrap();
    let both = full.with_pixels(&pixels, Some(0.25));
    assert_eq!(both.aupimo, Some(25.0));
    assert_eq!(
        (both.pixel_auroc, both.pixel_ap, both.pixel_f1_max),
        (Some(100.0), Some(100.0), Some(100.0))
    );
    assert_eq!(both.au_pro, Some(100.0));
    let seven = 75.0 + 100.0 * (0.5 + 1.0 / 3.0) + 80.0 + 400.0;
    assert_near("mad", both.mad.unwrap(), seven / 7.0);

    let clean = pixel_metrics(&[AnnotatedMap { mask: &[false; 4], ..image }], FPR_LIMIT).unwrap();
    assert_eq!((clean.auroc, clean.ap, clean.f1_max.value, clean.au_pro), (None, 0.0, 0.0, None));
    assert_eq!(full.with_pixels(&clean, None), full);

    let mean = Metrics::mean(&[both, good]);
    assert_eq!(mean.image_auroc, Some(75.0));
    assert_eq!(mean.false_alarm_rate, Some(37.5));
    assert_eq!(mean.mad, both.mad);
    assert_eq!(Metrics::mean(&[]), Metrics::default());
}

#[test]
fn metrics_are_stored_under_their_names() {
    let metrics = Metrics { recall: Some(12.5), ..Metrics::default() };
    let text = serde_json::to_string(&metrics).unwrap();
    assert_eq!(
        text,
        r#"{"image_auroc":null,"image_ap":null,"image_f1_max":null,"pixel_auroc":null,"pixel_ap":null,"#
            .to_owned()
            + r#""pixel_f1_max":null,"au_pro":null,"mad":null,"aupimo":null,"false_alarm_rate":null,"#
            + r#""recall":12.5}"#
    );
    assert_eq!(serde_json::from_str::<Metrics>(&text).unwrap(), metrics);
}

#[test]
fn paper_scores_add_what_min_and_max_scale() {
    let scores = paper_scores(&[2.0, 6.0, 3.0], &[-1e3, 0.0, -500.0]).unwrap();
    for (got, want) in scores.iter().zip([0.0, 2.0, 0.75]) {
        assert!((got - want).abs() < 1e-8, "{got}, expected {want}");
    }
    assert_eq!(paper_scores(&[4.0; 2], &[7.0; 2]).unwrap(), [0.0; 2]);
    assert!(paper_scores(&[], &[]).is_err());
    assert!(paper_scores(&[1.0], &[1.0, 2.0]).is_err());
    assert!(paper_scores(&[1.0, 2.0], &[1.0, f64::NAN]).is_err());
    assert!(paper_scores(&[f64::INFINITY, 2.0], &[1.0, 2.0]).is_err());
}

/// AUPIMO by its definition: every threshold against every pixel.
fn aupimo_oracle(images: &[AnnotatedMap<'_>], n: usize, [lower, upper]: [f64; 2]) -> Vec<f64> {
    let (anomalous, normal): (Vec<&AnnotatedMap<'_>>, Vec<_>) =
        images.iter().partition(|image| image.mask.contains(&true));
    let scores = || normal.iter().flat_map(|image| image.map).map(|&score| f64::from(score));
    let (least, largest) =
        (scores().fold(f64::INFINITY, f64::min), scores().fold(f64::NEG_INFINITY, f64::max));
    let at = |i: usize| least + (largest - least) * i as f64 / (n - 1) as f64;
    let part = |image: &AnnotatedMap<'_>, threshold: f64, label: bool| {
        let scores: Vec<f64> = image.map.iter().map(|&score| score.into()).collect();
        flagged(&scores, image.mask, label, threshold) / count(image.mask, label)
    };
    let fpr: Vec<f64> = (0..n)
        .map(|i| normal.iter().map(|image| part(image, at(i), false)).sum::<f64>())
        .map(|sum| sum / normal.len() as f64)
        .collect();
    let nearest = |rate: f64| {
        let apart: Vec<f64> = fpr.iter().map(|f| (f - rate).abs()).collect();
        let least = apart.iter().copied().fold(f64::INFINITY, f64::min);
        apart.iter().position(|a| *a == least).unwrap()
    };
    let (first, last) = (nearest(upper), nearest(lower));
    let area = |image: &AnnotatedMap<'_>| {
        let step = |i: usize| {
            let overlap = part(image, at(i), true) + part(image, at(i + 1), true);
            overlap / 2.0 * (fpr[i] / fpr[i + 1]).ln()
        };
        (first..last).map(step).sum::<f64>() / (upper / lower).ln()
    };
    anomalous.into_iter().map(area).collect()
}

#[test]
fn aupimo_is_the_area_of_its_definition() {
    let sizes = [(13, 17), (20, 9), (7, 7), (31, 5), (11, 12)];
    let images: Vec<(Vec<f32>, Vec<bool>, [usize; 2])> = sizes
        .iter()
        .enumerate()
        .map(|(i, &(height, width))| {
            let mask: Vec<bool> =
                (0..height * width).map(|p| i >= 3 && p % width > width / 2).collect();
            // Those of defects are larger by what their image is.
            let noise = uniform(i as u64, mask.len(), 0.5);
            let map =
                mask.iter().zip(&noise).map(|(&m, v)| v + if m { 0.2 * i as f32 } else { 0.0 });
            (map.collect(), mask, [height, width])
        })
        .collect();
    let annotated: Vec<_> = images
        .iter()
        .map(|(map, mask, [height, width])| AnnotatedMap {
            map,
            mask,
            width: *width,
            height: *height,
        })
        .collect();
    for (count, fpr) in [(200, [0.01, 0.5]), (1000, [0.05, 1.0]), (333, [0.02, 0.3])] {
        let got = aupimo(&annotated, &PimoOptions::default().thresholds(count).fpr(fpr)).unwrap();
        let want = aupimo_oracle(&annotated, count, fpr);
        assert_eq!(got.images.len(), 2);
        for (got, want) in got.images.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-9, "{count} {fpr:?}: got {got}, want {want}");
            assert!(0.01 < *got && *got < 0.99, "{got}");
        }
        assert_near("mean", got.mean, (got.images[0] + got.images[1]) / 2.0);
    }
    for (fpr, count) in
        [([0.5, 0.01], 200), ([0.0, 0.1], 200), ([0.1, f64::NAN], 200), ([0.1, 0.2], 1)]
    {
        let options = PimoOptions::default().thresholds(count).fpr(fpr);
        assert!(aupimo(&annotated, &options).is_err(), "{fpr:?} {count}");
    }
    let mut nan = images[0].0.clone();
    nan[3] = f32::NAN;
    let broken = [AnnotatedMap { map: &nan, ..annotated[0] }, annotated[4]];
    assert!(aupimo(&broken, &PimoOptions::default()).is_err());
}
