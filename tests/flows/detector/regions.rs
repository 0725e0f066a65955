//! Where an image is anomalous.

use invad::checkpoint::ImageStats;
use invad::detect::{AnomalyMap, Scored};

/// The regions of an image whose score is `score` and whose 4 × 4 map is 1 but for `peak` in a corner.
fn region(score: f64, peak: f32) -> Vec<bool> {
    let mut values = vec![1.0; 16];
    values[0] = peak;
    let map = AnomalyMap::new(4, values).unwrap();
    let stats = ImageStats { max: peak, abs: 0.0, block: peak, top5: peak, nll: 0.0 };
    let (threshold, map_threshold, map_range, category) = (3.0, 5.0, (0.0, 10.0), None);
    let (is_anomalous, is_unfamiliar) = (score >= threshold, false);
    let scored = Scored {
        score,
        threshold,
        is_anomalous,
        is_unfamiliar,
        category,
        stats,
        map,
        map_threshold,
        map_range,
    };
    let resized = scored.map.resize(40, 24).unwrap();
    let region = scored.region(&resized, 40, 24).unwrap();
    assert_eq!((region.width(), region.height()), (40, 24));
    for (inside, value) in region.pixels().iter().zip(&resized) {
        assert!(!is_anomalous || *inside || *value <= 5.0);
    }
    assert!(scored.region(&resized, 39, 24).is_err());
    region.pixels().to_vec()
}

#[test]
fn only_anomalous_images_have_anomalous_regions_and_they_always() {
    let count = |inside: &[bool]| inside.iter().filter(|inside| **inside).count();
    for (score, peak) in [(2.9, 4.0), (2.9, 9.0), (f64::NAN, 9.0)] {
        assert_eq!(count(&region(score, peak)), 0);
    }
    // Above the map's threshold, and below it everywhere.
    for peak in [20.0, 4.0] {
        let found = region(3.0, peak);
        assert!(found[0] && !found[39] && !found[23 * 40], "{peak}");
        assert!((4..200).contains(&count(&found)), "{peak}: {}", count(&found));
    }
    assert_eq!(count(&region(3.0, 1.0)), 40 * 24, "there is no place in an even map");
}
