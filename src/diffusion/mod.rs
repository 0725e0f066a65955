//! The diffusion process: schedule, inversion, and the reconstruction it is compared with.

mod inversion;
mod reconstruction;
mod schedule;

pub use inversion::{Inverter, Workspace};
pub use reconstruction::{ReconstructionErrors, Reconstructor, reconstruction_errors};
pub use schedule::{Parameterisation, Process, Respaced, Schedule, TIMESTEPS};
