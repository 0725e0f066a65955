//! A detector file of any bytes is refused, or is a detector that is written as it was read.
#![no_main]

use invad::checkpoint::Checkpoint;
use invad::denoisers;
use invad::diffusion::Inverter;
use invad::{Detector, Device};
use libfuzzer_sys::fuzz_target;

mod file;

fuzz_target!(|bytes: &[u8]| {
    let path = file::holding(bytes);
    let Ok(checkpoint) = Checkpoint::load(&path) else { return };
    let recipe = &checkpoint.config.recipe;
    let network = denoisers::read(&checkpoint.config.denoiser).expect("it was checked");
    let (parameterisation, steps) = (recipe.parameterisation, recipe.inversion_steps);
    let at = recipe.single_timestep;
    Inverter::new(&*network, &checkpoint.ema, parameterisation, steps, at, Device::Cpu).ok();
    let copy = path.with_extension("copy");
    checkpoint.save(&copy).expect("what was read can be written");
    let again = Checkpoint::load(&copy).expect("what was written can be read");
    assert!(again.config == checkpoint.config && again.calibration == checkpoint.calibration);
    Detector::new(checkpoint).ok();
});
