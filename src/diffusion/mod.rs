//! The diffusion process: schedule, inversion, and the reconstruction it is compared with.

mod inversion;
mod schedule;

pub use inversion::{Inverter, Workspace};
pub use schedule::{Parameterisation, Respaced, Schedule, TIMESTEPS};
