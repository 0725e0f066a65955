//! Checkpoints by the layout of the reference implementation, imported: they compute what the golden networks do.

use invad::Device;
use libtest_mimic::Trial;

use crate::golden::{Tensors, compare, compare_absolute, shared, trial};
use crate::library;
use crate::parameters::{Config, Kind, parameter};
use crate::writer::{Record, View, archive, dict, pickle, text};

/// Networks of more parameters are left out: files are made in memory.
const MOST: usize = 5_000_000;

/// What never gets a gradient and is in the files all the same: name and shape.
fn unused(c: &Config) -> Vec<(String, Vec<usize>)> {
    let (d, classes) = (c.width, 15);
    let all: Vec<(&str, Vec<usize>)> = match c.kind {
        Kind::Dit { .. } => vec![
            ("net.x_embedder_linear.weight", vec![d, c.channels]),
            ("net.x_embedder_linear.bias", vec![d]),
            ("net.y_embedder.embedding_table.weight", vec![classes, d]),
        ],
        Kind::Mlp => vec![("net.cond_embed.weight", vec![d, 9]), ("net.cond_embed.bias", vec![d])],
        Kind::Unet(_) => vec![],
    };
    let all = all.into_iter().chain([("cls_embed.weight", vec![classes, d])]);
    all.map(|(name, shape)| (name.to_string(), shape)).collect()
}

/// The file that parallel training leaves of a network whose parameters follow the golden rule.
pub fn checkpoint(c: &Config) -> Vec<u8> {
    let (mut entries, mut records) = (Vec::new(), vec![]);
    for (i, (name, shape)) in c.shapes().into_iter().chain(unused(c)).enumerate() {
        let values = parameter(c.seed, &name, &shape);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let size: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let stride = (0..size.len()).map(|axis| size[axis + 1..].iter().product());
        let view = View {
            class: "FloatStorage",
            key: &i.to_string(),
            count: values.len() as i64,
            offset: 0,
            size: &size,
            stride: &stride.collect::<Vec<_>>(),
        };
        entries.push((text(&format!("module.{name}")), view.pickled()));
        records.push(Record::new(&format!("model_ema_latest/data/{i}"), &bytes));
    }
    let object = Record::new("model_ema_latest/data.pkl", &pickle(&dict(&entries)));
    archive(&[vec![object], records].concat())
}

/// The trials of a network's inversions that there are.
pub fn trials(label: &str, config: &Config, x: &[f32], tensors: &Tensors) -> Vec<Trial> {
    let parameters: usize =
        config.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    if parameters > MOST {
        return Vec::new();
    }
    let latents = tensors.under("inv.S").filter_map(|(tensor, want)| {
        let steps = tensor.strip_suffix(".latent")?.parse::<usize>().ok()?;
        let (config, x, want) = (config.clone(), x.to_vec(), want.data.clone());
        Some(trial(format!("{label}/imported/S{steps}"), move || {
            let (network, parameters) = library::imported(&config, checkpoint(&config))?;
            let inversion =
                library::inversion_by(&*network, &parameters, &config, steps, &x, Device::Cpu)?;
            compare(inversion.latent, &want, 1e-5)
        }))
    });
    latents.collect()
}

/// What a detector says of images.
pub struct Detected {
    pub maps: Vec<f32>,
    pub abs: Vec<f64>,
    pub nll: Vec<f64>,
    pub paper: Vec<f64>,
}

/// A detector of an imported network, whose backbone gives the stored features: from a file, it scores as the reference does.
pub fn detector_trials(
    tensors: &Tensors,
    config: Config,
    steps: usize,
) -> Result<Vec<Trial>, String> {
    let features = tensors.get("features")?.f32s();
    let normal: Vec<bool> = tensors.get("y_true")?.data.iter().map(|&y| y == 0.0).collect();
    let detected =
        shared(move || library::detected(&config, checkpoint(&config), steps, &features, &normal));
    let mut trials = Vec::new();
    type Of = fn(&Detected) -> Vec<f64>;
    let figures: [(&str, Of); 4] = [
        ("latent_l2", |d| d.maps.iter().map(|&v| f64::from(v)).collect()),
        ("ats", |d| d.abs.clone()),
        ("nll", |d| d.nll.clone()),
        ("score", |d| d.paper.clone()),
    ];
    for (name, got) in figures {
        let (detected, want) = (detected.clone(), tensors.get(name)?.data.clone());
        trials.push(trial(format!("evaluate_inv/imported/{name}"), move || {
            let got = got(detected.as_ref().as_ref()?);
            match name {
                // Each of its two terms is within [0, 1], and the range of the set divides the errors up.
                "score" => compare_absolute(got, &want, 5e-5),
                _ => compare(got, &want, 1e-5),
            }
        }));
    }
    Ok(trials)
}
