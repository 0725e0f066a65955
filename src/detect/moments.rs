//! How numbers of normal images vary, and what bound a further one keeps to.

/// Mean and standard deviation of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, of n − 1; at least a tiny part of the mean, so that it divides.
    pub std: f64,
    /// n, how many numbers there are.
    pub count: usize,
}

impl Moments {
    /// The moments of some numbers.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count();
        let n = count as f64;
        let mean = values.clone().sum::<f64>() / n.max(1.0);
        let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
        let std = (squares / (n - 1.0).max(1.0)).sqrt();
        Self { mean, std: std.max(1e-6 * mean.abs()).max(1e-12), count }
    }

    /// The same mean with the spread of these and of `other` numbers, each about their own mean.
    /// The others steady the spread, but do not count where it matters how much is known.
    pub fn with_spread_of(self, other: Self) -> Self {
        let freedom = |of: Self| of.count.saturating_sub(1) as f64;
        let squares = |of: Self| freedom(of) * of.std.powi(2);
        match freedom(self) + freedom(other) {
            0.0 => self,
            both => Self { std: ((squares(self) + squares(other)) / both).sqrt(), ..self },
        }
    }

    /// The same mean with a spread to which `drift`, the standard deviation between parts of a category
    /// ([`drift`]), is added. What is known of both together is what as many numbers of one Gaussian
    /// would tell (Welch and Satterthwaite).
    pub fn with_drift(self, drift: f64) -> Self {
        let freedom = self.count.saturating_sub(1).max(1) as f64;
        let [within, between] = [self.std.powi(2), drift.powi(2)];
        let known = (within + between).powi(2)
            / (within.powi(2) / freedom + between.powi(2) / (PARTS - 1) as f64);
        let count = if drift > 0.0 { 1 + known as usize } else { self.count };
        Self { std: (within + between).sqrt(), count, ..self }
    }

    /// A single number with the spread that it does not tell: `share` of itself.
    pub(crate) fn lone(self, share: f64) -> Self {
        Self { std: (share * self.mean.abs()).max(self.std), ..self }
    }

    /// [`bound`](Self::bound) of a single number: the spread is no estimate, so that only the mean's
    /// uncertainty counts.
    pub(crate) fn lone_bound(self, deviations: f64) -> f64 {
        self.mean + deviations * std::f64::consts::SQRT_2 * self.std
    }

    /// How many standard deviations `value` lies above the mean.
    pub fn standardise(self, value: f64) -> f64 {
        (value - self.mean) / self.std
    }

    /// The bound that a further number of the same Gaussian exceeds as rarely as it would exceed
    /// `deviations` standard deviations if mean and standard deviation were not estimates: Student's
    /// prediction bound. 3 become 4.8 with 8 numbers and 3.3 with 30. Fewer than 4 numbers, with
    /// which it would be beyond all use, count as 4.
    pub fn bound(self, deviations: f64) -> f64 {
        let n = self.count.max(4) as f64;
        self.mean + student(deviations, n - 1.0) * (1.0 + 1.0 / n).sqrt() * self.std
    }
}

/// Parts of a category between which it may drift.
const PARTS: usize = 4;

/// How much the means of four parts of `values`, one after the other, differ beyond what the values differ
/// within them: the standard deviation between parts, of a one-way analysis of variance. 0 of fewer than 12
/// values, and where it may be chance, about one time in a hundred.
pub fn drift(values: &[f64]) -> f64 {
    let n = values.len();
    if n < 3 * PARTS {
        return 0.0;
    }
    let parts = (0..PARTS).map(|p| &values[p * n / PARTS..(p + 1) * n / PARTS]);
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let all = mean(values);
    let (mut between, mut within) = (0.0, 0.0);
    for part in parts {
        let own = mean(part);
        between += part.len() as f64 * (own - all).powi(2);
        within += part.iter().map(|v| (v - own).powi(2)).sum::<f64>();
    }
    let freedom = (n - PARTS) as f64;
    let (between, within) = (between / (PARTS - 1) as f64, within / freedom);
    // Above the 99 % point of F with 3 and so many degrees of freedom.
    let rare = 3.78 + 30.0 / freedom;
    if between > rare * within {
        ((between - within) * PARTS as f64 / n as f64).sqrt()
    } else {
        0.0
    }
}

/// The value of Student's t with as much beyond it as a Gaussian has beyond `z`, by Wallace's
/// approximation: within 1% from 6 degrees of `freedom` on, too high for fewer.
fn student(z: f64, freedom: f64) -> f64 {
    let scaled = z * (8.0 * freedom + 3.0) / (8.0 * freedom + 1.0);
    // Finite whatever z is.
    let exponent = (scaled * scaled / freedom).min(600.0);
    z.signum() * (freedom * exponent.exp_m1()).sqrt()
}
