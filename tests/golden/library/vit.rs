//! Vision Transformers.

use invad::backbones::{Resampling, Vit, VitConfig};
use invad::weights::Weights;
use invad::{Device, Error, Tensor};

use super::{Result, on, output, tensor, text, transposed};
use crate::vit_family::{Network, Wanted};

/// A convention by its name in files.
pub fn resampling(name: &str) -> Result<Resampling> {
    match name {
        "hub" => Ok(Resampling::Hub),
        "size" => Ok(Resampling::Size),
        "antialias" => Ok(Resampling::Antialias),
        _ => Err(format!("`{name}` is not known here")),
    }
}

/// A network of a family by its name in files, as the library knows it.
pub fn vit_family(family: &str, registers: usize) -> Result<VitConfig> {
    let name = match (family, registers) {
        ("vit", 0) => "vit-b16",
        ("dino", 0) => "dino-vit-b16",
        ("dinov2", 0) => "dinov2-vits14",
        ("dinov2", _) => "dinov2-vits14-reg",
        _ => return Err(format!("no {family} has {registers} registers")),
    };
    VitConfig::named(name).map_err(text)
}

fn config(network: &Network, wanted: &Wanted) -> VitConfig {
    let config = network.config.clone().blocks(wanted.blocks.clone()).norm(wanted.norm);
    config.eps(Some(wanted.eps as f32)).resampling(wanted.resampling)
}

/// (M·M, D) to (h·w, D).
pub fn resampled_positions(
    how: Resampling,
    positions: &[f32],
    side: usize,
    width: usize,
    grid: [usize; 2],
) -> Result<Vec<f32>> {
    let positions = tensor(positions, &[side * side, width])?;
    Ok(how.apply(&positions, grid).map_err(text)?.to_vec_f32())
}

/// The tokens of the wanted blocks, (B, T, L·D).
pub fn vit_tokens(
    network: &Network,
    weights: Weights,
    wanted: &Wanted,
    device: Device,
) -> Result<Vec<f32>> {
    let [h, w] = network.grid().map(|cells| cells * network.config.patch);
    let vit = Vit::new(&config(network, wanted), weights, [h, w], device).map_err(text)?;
    let pixels = transposed(&network.image, 3, h * w);
    let images = tensor(&pixels, &[network.batch(), h, w, 3])?;
    let channels = wanted.blocks.len() * network.config.width;
    let shape = [network.batch(), network.tokens(wanted), channels];
    let mut tokens: Tensor = on(device, &output(&shape)?)?;
    vit.tokens(&images, &mut tokens).map_err(text)?;
    Ok(tokens.to_vec_f32())
}

/// The error with which a network is refused.
pub fn vit_refusal(network: &Network, wanted: &Wanted, device: Device) -> Result<Error> {
    let image = network.grid().map(|cells| cells * network.config.patch);
    match Vit::new(&config(network, wanted), network.weights(), image, device) {
        Ok(_) => Err("accepted".into()),
        Err(error) => Ok(error),
    }
}
