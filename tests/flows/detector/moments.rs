//! What few numbers say of those to come.

use invad::detect::{Moments, drift};

use super::close;
use crate::support::numbers;

#[test]
fn moments_of_few_or_equal_numbers() {
    let of = |values: &[f64]| Moments::of(values.iter().copied());
    assert_eq!(of(&[1.0, 3.0]), Moments { mean: 2.0, std: 2f64.sqrt(), count: 2 });
    for values in [&[5.0][..], &[5.0; 4], &[0.0; 3]] {
        let moments = of(values);
        assert_eq!(moments.mean, values[0]);
        assert!(moments.std > 0.0 && moments.standardise(values[0]) == 0.0);
        assert!(moments.standardise(values[0] + 1.0) > 1e5);
    }
}

#[test]
fn what_drifts_along_the_files() {
    // Means 2, 3, 6 and 9 of 5: 30 between the parts against 1 within, (30 − 1)/3 of variance.
    let [a, b, c, d] = [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [5.0, 6.0, 7.0], [8.0, 9.0, 10.0]];
    close(drift(&[a, b, c, d].concat()), (29f64 / 3.0).sqrt());
    assert_eq!(drift(&[a, a, a, a].concat()), 0.0);
    assert_eq!(
        drift(&[&[1.0, 2.0][..], &[10.0, 11.0], &[20.0, 21.0], &[30.0, 31.0]].concat()),
        0.0,
        "few"
    );
    // By chance it is rare.
    let found = (0..1000u64).filter(|&i| {
        let all = numbers::tensor(i, &[13 + i as usize % 50], 1.0).to_vec_f32();
        drift(&all.into_iter().map(f64::from).collect::<Vec<_>>()) > 0.0
    });
    let found = found.count();
    assert!((1..=15).contains(&found), "{found} of 1000");

    let moments = Moments { mean: 3.0, std: 1.0, count: 61 };
    assert_eq!(moments.with_drift(0.0), moments);
    // (1 + 1)²/(1/60 + 1/3) = 11.4 degrees of freedom.
    let wider = Moments { std: 2f64.sqrt(), count: 12, ..moments };
    assert_eq!(moments.with_drift(1.0), wider);
    assert!(wider.bound(3.0) > moments.bound(3.0));
}

/// √(1 + 1/n) times Student's t of n − 1 degrees of freedom with as much beyond it as a Gaussian has
/// beyond 3 or 2 standard deviations, from tables.
#[test]
fn bounds_allow_for_few_numbers() {
    let bound = |count, d| Moments { mean: 5.0, std: 2.0, count }.bound(d);
    for (count, d, t) in [
        (8, 3.0, 4.5300),
        (20, 3.0, 3.4472),
        (100, 3.0, 3.0775),
        (8, 2.0, 2.4288),
        (20, 2.0, 2.1405),
    ] {
        let want = 5.0 + 2.0 * t * (1.0 + 1.0 / count as f64).sqrt();
        assert!((bound(count, d) - want).abs() < 0.01 * want, "{count} {d}: {}", bound(count, d));
    }
    assert_eq!(bound(8, 0.0), 5.0);
    close(bound(8, -3.0) - 5.0, 5.0 - bound(8, 3.0));
    assert!((bound(1_000_000, 3.0) - 11.0).abs() < 1e-3);
    assert!([0, 1, 2, 3].iter().all(|&few| bound(few, 3.0) == bound(4, 3.0)));
    assert!(bound(8, 1e9).is_finite() && bound(8, -1e9).is_finite());
}
