//! The two flows and the files between them, on data small enough for a few seconds.

mod baselines;
mod checkpoint;
mod damaged;
mod denoisers;
mod detector;
mod evaluate;
mod features;
mod fit;
mod inversion;
mod quantise;
mod resources;
mod schedules;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
mod trainer;
mod unet;
