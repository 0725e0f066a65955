//! What programs with a part of their own have in common: a detector is trained with it and tells defects.

use std::path::PathBuf;

use clap::Parser;
use invad::data::Dataset;
use invad::detect::{ScoreOptions, evaluate};
use invad::{Control, Detector, Device, FitOptions, Fitted, Result, fit};

use super::options::steps;
use super::say;

/// Trains a detector with a part of one's own, and prints how well it tells defective images from good ones
#[derive(Parser)]
pub struct Options {
    /// A data set: CATEGORY/train/good/*, CATEGORY/test/good/* and CATEGORY/test/DEFECT/*
    #[arg(long, value_name = "DIR", default_value = "examples/data")]
    pub data: PathBuf,
    /// Optimiser steps
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = steps())]
    pub steps: u64,
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    pub device: Device,
}

/// Trains a detector and says how well it tells defective images from good ones.
pub fn try_out(options: &Options, with: FitOptions) -> Result<()> {
    let fit_options = with.steps(Some(options.steps)).resources(options.device.into());
    let dataset = Dataset::open(&options.data, &[])?;
    let Fitted::Detector(detector) = fit(&dataset, &fit_options, |_| Control::Continue)? else {
        unreachable!("nobody stops it")
    };
    tell(&detector, &dataset)
}

/// Says how well a detector tells defective images from good ones.
pub fn tell(detector: &Detector, dataset: &Dataset) -> Result<()> {
    let found = evaluate(detector, dataset, &ScoreOptions::default(), |_, read| read.map(drop))?;
    for (category, metrics) in &found.calibrated.categories {
        say(match metrics.image_auroc {
            Some(percent) => format!("{category}: image AUROC {percent:.1} %"),
            None => format!("{category}: no good or no defective images to test with"),
        });
    }
    Ok(())
}
