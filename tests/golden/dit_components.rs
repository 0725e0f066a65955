//! Section `dit_components`: the parts of the denoiser.

use serde_json::Value;

use crate::golden::{
    Golden, Tensors, Trials, compare, compare_absolute, fill, sqrt3, trial, whole,
};
use crate::library;

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("dit_components")?;
    let seed = whole(section, "seed")? as u64;
    let mut trials = Vec::new();
    for (name, want) in tensors.iter() {
        let want = want.clone();
        let label = format!("dit_components/{name}");
        let tensors = tensors.clone();
        let axes: Vec<usize> = want.shape.clone();
        if name == "temb.freqs_f32" {
            trials.push(trial(label, move || {
                compare_absolute(library::timestep_frequencies(128)?, &want.data, 0.0)
            }));
        } else if name == "temb.f32" {
            trials.push(trial(label, move || {
                let t: Vec<usize> =
                    tensors.get("temb.t")?.data.iter().map(|&t| t as usize).collect();
                compare_absolute(library::timestep_embedding(&t, 256)?, &want.data, 2e-7)
            }));
        } else if name.starts_with("pos_embed.") {
            let [tokens, width] = axes[..] else { return Err(format!("{name}: {axes:?}"))? };
            trials.push(trial(label, move || {
                compare_absolute(
                    library::position_embedding(tokens.isqrt(), width)?,
                    &want.data,
                    1e-6,
                )
            }));
        } else if name == "act.gelu_tanh" || name == "act.silu" {
            let activation = if name == "act.silu" { library::silu } else { library::gelu };
            trials.push(trial(label, move || {
                compare(activation(&tensors.get("act.z")?.f32s())?, &want.data, 1e-6)
            }));
        } else if name == "ln_mod.out" {
            let [b, n, d] = axes[..] else { return Err(format!("{name}: {axes:?}"))? };
            trials.push(trial(label, move || {
                let x = fill(seed, "ln.x", b * n * d, 2.0, 0.5);
                let shift = fill(seed, "ln.shift", b * d, 0.5, 0.0);
                let scale = fill(seed, "ln.scale", b * d, 0.5, 0.0);
                compare(library::modulated_norm(&x, &shift, &scale, [b, n, d])?, &want.data, 1e-6)
            }));
        } else if let Some(case) = name.strip_suffix(".out") {
            let [h, n, d] = axes[..] else { return Err(format!("{name}: {axes:?}"))? };
            for output in ["out", "dq", "dk", "dv"] {
                let (tensors, case) = (tensors.clone(), case.to_owned());
                trials.push(trial(format!("dit_components/{case}.{output}"), move || {
                    attention(&tensors, seed, &case, output, [h, n, d])
                }));
            }
        }
    }
    Ok(trials)
}

/// What attention over H heads, N tokens and head size d gives.
pub struct Attention {
    pub out: Vec<f32>,
    pub dq: Vec<f32>,
    pub dk: Vec<f32>,
    pub dv: Vec<f32>,
}

fn attention(
    tensors: &Tensors,
    seed: u64,
    case: &str,
    output: &str,
    shape: [usize; 3],
) -> Result<(), String> {
    let input =
        |name: &str| fill(seed, &format!("{case}.{name}"), shape.iter().product(), sqrt3(), 0.0);
    let got = library::attention(&input("q"), &input("k"), &input("v"), &input("do"), shape)?;
    let got = match output {
        "out" => got.out,
        "dq" => got.dq,
        "dk" => got.dk,
        _ => got.dv,
    };
    compare(got, &tensors.get(&format!("{case}.{output}"))?.data, 5e-6)
}
