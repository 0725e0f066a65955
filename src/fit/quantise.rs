//! Whether a detector may multiply coarser numbers than its device's own.

use super::learn::{Good, learn_together};
use super::{Control, Event, Observe, good_images, is_stop};
use crate::data::Dataset;
use crate::detect::{Detector, ScoreOptions};
use crate::error::Result;
use crate::types::Products;

/// How far the score of a held-out image may move, in standard deviations of such images.
const FARTHEST: f64 = 0.1;

/// Has a detector that was calibrated with the good images of `dataset`, as by [`fit`](crate::fit) or
/// [`calibrate`](crate::calibrate), multiply coarser numbers from then on ([`Detector::set_products`]), and learn and
/// calibrate anew. If the score of a held-out image moves by more than a tenth of such images' standard deviation,
/// it computes and is calibrated as before, and `observe` is told a warning; [`Detector::precision`] says which. Where
/// `observe` stopped it, [`Control::Stop`] is returned; then the detector is to be calibrated before it is done again.
///
/// # Errors
/// As [`fit`](crate::fit); [`Error::Unavailable`](crate::Error::Unavailable) if the device does not multiply them;
/// [`Error::Argument`](crate::Error::Argument) if a category was not calibrated.
pub fn quantise(
    detector: &mut Detector,
    dataset: &Dataset,
    products: Products,
    mut observe: impl FnMut(Event) -> Control,
) -> Result<Control> {
    let good = good_images(dataset, detector.config().seed, &mut |_| Ok(()))?;
    match multiply(detector, products, &good, &mut |event| observe(event).go_on()) {
        Err(e) if is_stop(&e) => Ok(Control::Stop),
        quantised => quantised.map(|()| Control::Continue),
    }
}

/// [`quantise`] with the good images of each category.
pub(super) fn multiply(
    detector: &mut Detector,
    products: Products,
    good: &[Good],
    observe: &mut Observe,
) -> Result<()> {
    let precision = detector.precision().with_products(Some(products));
    precision.require("quantise", detector.device())?;
    let before = held_out_scores(detector, good)?;
    detector.set_products(Some(products))?;
    learn_again(detector, good, observe)?;
    let after = held_out_scores(detector, good)?;
    let farthest = |(before, after): (&Vec<f64>, &Vec<f64>)| {
        before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let moved = before.iter().zip(&after).map(farthest);
    let moved = good.iter().zip(moved).max_by(|(_, a), (_, b)| a.total_cmp(b));
    let Some((Good { category, .. }, far)) = moved.filter(|(_, far)| *far > FARTHEST) else {
        return Ok(());
    };
    observe(Event::Warning(&format!(
        "in {products} the score of a held-out image of `{category}` moves by {far:.2} standard deviations, more than \
         {FARTHEST}: the detector computes without it"
    )))?;
    detector.set_products(None)?;
    learn_again(detector, good, observe)
}

fn learn_again(detector: &mut Detector, good: &[Good], observe: &mut Observe) -> Result<()> {
    let (mut done, total) = (0, good.iter().map(|of| of.samples.len()).sum());
    learn_together(detector, good, |_, _| {
        done += 1;
        observe(Event::Calibration { done, total })
    })
}

/// The scores of the held-out images of each category.
fn held_out_scores(detector: &Detector, good: &[Good]) -> Result<Vec<Vec<f64>>> {
    let of = |Good { category, .. }: &Good| {
        let images = detector.calibration().categories.get(*category);
        let options = ScoreOptions { category: Some(category.to_string()), ..Default::default() };
        Ok(detector.scores(images.map_or(&[], |images| images), &options)?.0)
    };
    good.iter().map(of).collect()
}
