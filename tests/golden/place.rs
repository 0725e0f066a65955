//! Where cases run: on the CPU, and on a GPU where `INVAD_TEST_DEVICE` does not say otherwise.

use invad::{Device, Error};
use libtest_mimic::Trial;

use crate::golden::trial;
use crate::library;
use crate::parameters::{Config, Kind};

/// A device, and how close to the reference it must come.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub device: Device,
}

/// All that cases run on.
pub fn places() -> Vec<Place> {
    #[cfg(feature = "cuda")]
    let gpu = crate::support::emulator::gpu();
    #[cfg(not(feature = "cuda"))]
    let gpu = None;
    [Device::Cpu].into_iter().chain(gpu).map(|device| Place { device }).collect()
}

impl Place {
    fn is_cpu(self) -> bool {
        self.device == Device::Cpu
    }

    /// A trial's name here.
    pub fn label(self, name: impl Into<String>) -> String {
        let name = name.into();
        if self.is_cpu() { name } else { format!("{name} on cuda") }
    }

    /// The tolerance of f32 on the CPU, and on a GPU that of weights and activations in f16.
    pub fn tolerance(self, [single, half]: [f64; 2]) -> f64 {
        if self.is_cpu() { single } else { half }
    }

    /// In place of the trials of a network that a GPU has no kernels for: that it says so.
    pub fn refusal(self, name: &str, config: &Config) -> Option<Trial> {
        let (width, head_size) = match &config.kind {
            Kind::Dit { heads, .. } => (config.width, config.width / heads),
            Kind::Mlp => (config.width, 8),
            Kind::Unet(sizes) => (config.channels, sizes.head_size),
        };
        let fits = width.is_multiple_of(8) && head_size.is_multiple_of(8);
        if self.is_cpu() || fits && head_size <= 256 && config.width <= 8192 {
            return None;
        }
        let (config, device) = (config.clone(), self.device);
        Some(trial(format!("{} is refused", self.label(name)), move || {
            match library::refusal(&config, device)? {
                Error::Argument { expected, .. } if expected.contains("a multiple of 8") => Ok(()),
                other => Err(format!("refused for another reason: {other}")),
            }
        }))
    }
}
