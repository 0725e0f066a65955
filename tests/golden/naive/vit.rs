//! Vision Transformers.

use super::Stored;
use crate::library;
use crate::support::numbers::gelu_erf;
use crate::vit_family::{Network, Wanted};

type Result<T> = std::result::Result<T, String>;

/// The tokens of the wanted blocks, as [`library::vit_tokens`] gives them.
pub fn vit_tokens(network: &Network, wanted: &Wanted, stored: Stored) -> Result<Vec<f32>> {
    let images = network.image.chunks(network.image.len() / network.batch());
    Ok(images
        .map(|image| of_image(network, wanted, image, stored))
        .collect::<Result<Vec<_>>>()?
        .concat())
}

/// Of one image (3, H, W).
fn of_image(network: &Network, wanted: &Wanted, image: &[f32], stored: Stored) -> Result<Vec<f32>> {
    let (c, d) = (&network.config, network.config.width);
    let values = |name: &str| -> Result<Vec<f32>> {
        let found = network.parameters.iter().find(|(other, _, _)| other == name);
        Ok(stored.all(found.ok_or_else(|| format!("no `{name}`"))?.2.clone()))
    };
    let linear = |name: &str, x: &[f32]| -> Result<Vec<f32>> {
        let (weight, bias) = (values(&format!("{name}.weight"))?, values(&format!("{name}.bias"))?);
        Ok(stored.all(library::linear(x, &weight, &bias)?))
    };
    let norm = |name: &str, x: &[f32]| -> Result<Vec<f32>> {
        let (weight, bias) = (values(&format!("{name}.weight"))?, values(&format!("{name}.bias"))?);
        let scaled = stored.zip(&stored.norm(x, d, wanted.eps), &weight, |x, w| x * w);
        Ok(stored.zip(&scaled, &bias, |x, b| x + b))
    };
    let joined = |x: &[f32], y: &[f32], gain: &str| -> Result<Vec<f32>> {
        let gained = match c.layer_scale {
            true => stored.zip(y, &values(gain)?, |y, g| y * g),
            false => y.to_vec(),
        };
        Ok(stored.zip(x, &gained, |x, y| x + y))
    };
    let positions = values("pos_embed")?;
    let (of_class, of_patches) = positions.split_at(d);
    let mut x = stored.zip(&values("cls_token")?, of_class, |x, p| x + p);
    if c.registers > 0 {
        x.extend(values("register_tokens")?);
    }
    let how = wanted.resampling;
    let of_patches = library::resampled_positions(how, of_patches, c.positions, d, network.grid())?;
    let patches = linear("patch_embed.proj", &patches(network, &stored.all(image.to_vec())))?;
    x.extend(stored.zip(&patches, &of_patches, |x, p| x + p));
    let mut taps = Vec::new();
    let last = wanted.blocks.last().ok_or("no block is wanted")?;
    for i in 0..=*last {
        let name = |part: &str| format!("blocks.{i}.{part}");
        let qkv = linear(&name("attn.qkv"), &norm(&name("norm1"), &x)?)?;
        let y = linear(&name("attn.proj"), &stored.attention(&qkv, c.heads, d))?;
        x = joined(&x, &y, &name("ls1.gamma"))?;
        let hidden = linear(&name("mlp.fc1"), &norm(&name("norm2"), &x)?)?;
        let hidden = stored.map(&hidden, |v| gelu_erf(v.into()) as f32);
        x = joined(&x, &linear(&name("mlp.fc2"), &hidden)?, &name("ls2.gamma"))?;
        if wanted.blocks.contains(&i) {
            taps.push(if wanted.norm { norm("norm", &x)? } else { x.clone() });
        }
    }
    let skipped = if wanted.patches_only { 1 + c.registers } else { 0 };
    let rows =
        (skipped..x.len() / d).flat_map(|token| taps.iter().map(move |tap| &tap[token * d..][..d]));
    Ok(rows.collect::<Vec<_>>().concat())
}

/// (3, H, W) to (h·w, 3·p·p).
fn patches(network: &Network, image: &[f32]) -> Vec<f32> {
    let (p, [h, w]) = (network.config.patch, network.grid());
    let mut patches = Vec::with_capacity(image.len());
    for token in 0..h * w {
        for i in 0..3 * p * p {
            let (channel, row, column) = (i / (p * p), i / p % p, i % p);
            let (y, x) = (token / w * p + row, token % w * p + column);
            patches.push(image[(channel * h * p + y) * w * p + x]);
        }
    }
    patches
}
