//! A training state of any bytes is refused, or is one that is written as it was read.
#![no_main]

use invad::checkpoint::TrainingState;
use libfuzzer_sys::fuzz_target;

mod file;

fuzz_target!(|bytes: &[u8]| {
    let path = file::holding(bytes);
    let Ok(state) = TrainingState::load(&path) else { return };
    let copy = path.with_extension("copy");
    state.save(&copy).expect("what was read can be written");
    let again = TrainingState::load(&copy).expect("what was written can be read");
    assert!(again.config == state.config && again.step == state.step);
});
