//! The detectors of a sweep, each in a folder.

use std::fs;
use std::path::Path;

use super::engine::{Event, SweepOptions};
use super::kept::{Held, Trained, TrainingKey, read_trained, sha256, write_trained};
use super::plan::Detecting;
use super::unreadable::{Unreadable, mended};
use crate::backbones::Loaded;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::fit::{self, Control, FitOptions, Fitted, fit_on};

/// The detector of a folder, trained if it is not there or of no use, and the images that its training left out.
pub(super) fn trained(
    of: &Detecting,
    backbone: &Loaded,
    options: &SweepOptions,
    training: Event,
    observe: &mut dyn FnMut(Event) -> Control,
) -> Result<(Checkpoint, Vec<Unreadable>)> {
    let [detector, state, settings] = of.files();
    match kept(&detector, &settings, &of.key, &of.dataset)? {
        Ok(Some(kept)) => {
            observe(Event::Reused(&detector)).go_on()?;
            for left_out in &kept.1 {
                observe(Event::Unreadable(&left_out.error(&of.dataset))).go_on()?;
            }
            return Ok(kept);
        }
        Ok(None) => {}
        Err(reason) => {
            observe(Event::Discarded { path: &detector, reason: &reason }).go_on()?;
            fs::remove_file(&detector).map_err(|e| Error::io(&detector, e))?;
        }
    }
    observe(training).go_on()?;
    fs::create_dir_all(&of.folder).map_err(|e| Error::io(&of.folder, e))?;
    let mut beside = Trained { key: of.key.clone(), sha256: None, unreadable: Vec::new() };
    write_trained(&settings, &beside)?;
    let fitting = FitOptions::default()
        .recipe(of.key.recipe.clone())
        .backbone(of.setting.backbone.clone())
        .denoiser(of.setting.denoiser.clone())
        .steps(options.steps)
        .seed(options.seed)
        .resources(options.resources)
        .state(Some(state.clone()))
        .compare(false);
    let mut fit = |resume: bool, observe: &mut dyn FnMut(Event) -> Control| {
        beside.unreadable.clear();
        fit_on(&of.dataset, backbone, &fitting.clone().resume(resume), |event| {
            if let fit::Event::Unreadable(error) = &event {
                beside.unreadable.push(Unreadable::of(error, &of.dataset));
            }
            observe(Event::Fit(event))
        })
    };
    let resume = state.exists();
    let fitted = match fit(resume, observe) {
        Err(error) if resume && is_of_state(&error, &state) => {
            let reason = error.to_string();
            observe(Event::Discarded { path: &state, reason: &reason }).go_on()?;
            fit(false, observe)
        }
        fitted => fitted,
    };
    let Fitted::Detector(fitted) = fitted? else {
        return Err(Control::Stop.go_on().expect_err("it is to stop"));
    };
    fitted.save(&detector)?;
    beside.sha256 = Some(sha256(&detector)?);
    write_trained(&settings, &beside)?;
    // What it could be resumed from is as large again.
    fs::remove_file(&state).map_err(|e| Error::io(&state, e))?;
    Ok((Checkpoint::load(&detector)?, beside.unreadable))
}

/// Whether an error says that a state is damaged, or of another training.
fn is_of_state(error: &Error, state: &Path) -> bool {
    match error {
        Error::File { path, .. } | Error::Io { path, .. } => path == state,
        Error::Argument { .. } => true,
        _ => false,
    }
}

/// The detector that is there, whole and of this key.
fn kept(
    detector: &Path,
    settings: &Path,
    key: &TrainingKey,
    dataset: &Dataset,
) -> Result<Held<(Checkpoint, Vec<Unreadable>)>> {
    if !detector.exists() {
        return Ok(Ok(None));
    }
    let useless = |reason: &str| Ok(Err(reason.to_string()));
    let beside = match read_trained(settings) {
        Ok(Some(beside)) => beside,
        Ok(None) => {
            return useless("the settings.json beside it, which says what it is, is missing");
        }
        Err(reason) => return Ok(Err(format!("the settings.json beside it: {reason}"))),
    };
    if beside.key != *key {
        return useless("the settings.json beside it is of another detector");
    }
    if beside.sha256 != Some(sha256(detector)?) {
        return useless("it is damaged, or was not made whole");
    }
    if let Err(reason) = mended(&beside.unreadable, dataset) {
        return Ok(Err(reason));
    }
    match Checkpoint::load(detector) {
        Err(Error::File { reason, .. }) => Ok(Err(reason)),
        loaded => loaded.map(|checkpoint| Ok(Some((checkpoint, beside.unreadable)))),
    }
}
