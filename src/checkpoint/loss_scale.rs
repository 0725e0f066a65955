//! The factor that keeps gradients within the range of f16.

use serde::{Deserialize, Serialize};

/// Good steps after which the factor is doubled.
const GROWS_AFTER: u64 = 2000;
/// What it is never above and below.
const RANGE: [f64; 2] = [1.0 / (1 << 24) as f64, (1 << 24) as f64];

/// The factor of the loss in mixed precision: a power of two that is halved where a gradient
/// overflows, and doubled after 2000 steps in which none has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// The factor.
    pub scale: f64,
    /// Good steps since it changed.
    pub good: u64,
    /// Steps skipped in a row up to now.
    pub streak: u64,
    /// Steps skipped in all.
    pub skipped: u64,
}

impl LossScale {
    /// Steps that may be skipped in a row: enough to come down from the largest factor to 1.
    pub const LONGEST_STREAK: u64 = 24;

    /// The factor at the start of a run.
    pub fn new(scale: f64) -> Self {
        Self { scale, good: 0, streak: 0, skipped: 0 }
    }

    /// After a step whose gradient was finite.
    pub fn passed(&mut self) {
        self.streak = 0;
        self.good += 1;
        if self.good == GROWS_AFTER {
            self.good = 0;
            self.scale = (2.0 * self.scale).min(RANGE[1]);
        }
    }

    /// After a step that was skipped because its gradient was not finite.
    pub fn overflowed(&mut self) {
        self.good = 0;
        self.streak += 1;
        self.skipped += 1;
        self.scale = (0.5 * self.scale).max(RANGE[0]);
    }

    /// Whether the numbers can be those of a run of so many steps.
    pub(crate) fn fits(&self, steps: u64) -> bool {
        let power = self.scale.is_finite() && self.scale.log2().fract() == 0.0;
        power
            && (RANGE[0]..=RANGE[1]).contains(&self.scale)
            && self.good < GROWS_AFTER
            && self.streak <= self.skipped
            && self.skipped + self.good <= steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_doubles() {
        let mut scale = LossScale::new(65536.0);
        (0..3).for_each(|_| scale.overflowed());
        assert_eq!(scale, LossScale { scale: 8192.0, good: 0, streak: 3, skipped: 3 });
        (0..1999).for_each(|_| scale.passed());
        assert_eq!(scale, LossScale { scale: 8192.0, good: 1999, streak: 0, skipped: 3 });
        scale.passed();
        assert_eq!(scale, LossScale { scale: 16384.0, good: 0, streak: 0, skipped: 3 });
        // An overflow starts the count again.
        (0..1999).for_each(|_| scale.passed());
        scale.overflowed();
        (0..1999).for_each(|_| scale.passed());
        assert_eq!((scale.scale, scale.good), (8192.0, 1999));
        (0..100).for_each(|_| scale.overflowed());
        assert_eq!(scale.scale, RANGE[0]);
        assert!(scale.fits(1 << 20));
    }
}
