//! Vision Transformers.

use invad::backbones::{Resampling, Vit, VitConfig};
use invad::weights::Weights;
use invad::{Device, Error, Tensor};

use super::{Result, on, output, tensor, text, transposed};
use crate::vit_family::{Config, Network, Wanted};

/// A convention by its name in files.
pub fn resampling(name: &str) -> Result<Resampling> {
    match name {
        "hub" => Ok(Resampling::Hub),
        "size" => Ok(Resampling::Size),
        "antialias" => Ok(Resampling::Antialias),
        _ => Err(format!("`{name}` is not known here")),
    }
}

/// What the library does unless it is told otherwise.
pub fn default_resampling(config: &Config) -> Result<Resampling> {
    Ok(family(config)?.resampling)
}

fn family(c: &Config) -> Result<VitConfig> {
    let name = match (c.family.as_str(), c.registers) {
        ("vit", 0) => "vit-b16",
        ("dino", 0) => "dino-vit-b16",
        ("dinov2", 0) => "dinov2-vits14",
        ("dinov2", _) => "dinov2-vits14-reg",
        _ => return Err(format!("no network is like {c:?}")),
    };
    VitConfig::named(name).map_err(text)
}

fn config(c: &Config, wanted: &Wanted) -> Result<VitConfig> {
    let config = family(c)?.width(c.width).depth(c.depth).heads(c.heads);
    let config = config.patch(c.patch).positions(c.positions).registers(c.registers);
    let config = config.blocks(wanted.blocks.clone()).norm(wanted.norm);
    Ok(config.eps(Some(wanted.eps as f32)).resampling(wanted.resampling))
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
    let vit = Vit::new(&config(&network.config, wanted)?, weights, [h, w], device).map_err(text)?;
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
    let config = config(&network.config, wanted)?;
    match Vit::new(&config, network.weights()?, image, device) {
        Ok(_) => Err("accepted".into()),
        Err(error) => Ok(error),
    }
}
