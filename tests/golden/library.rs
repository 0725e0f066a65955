//! The library, asked in the layout of the golden files: features are (B, C, G, G) there and (B, G, G, C) here.

use std::collections::{BTreeMap, HashMap};

use image::RgbImage;
use invad::data::Mask;
use invad::diffusion::{Inverter, Parameterisation, Schedule};
use invad::nn::features::{self, Backbone};
use invad::nn::{Activations, Dit, DitConfig, Gradients, PackedDit, Parameters, Recompute};
use invad::ops::{self, Activation, AdamW, Chunk, Moved, Target};
use invad::{DType, Device, Tensor, metrics, train};

use crate::diffusion::{Inversion, Reconstruction};
use crate::dit::{Case, Pass, Trained, Training};
use crate::dit_components::Attention;
use crate::parameters::Config;
use crate::preproc_lr::LearningRate;
use crate::scoring::Scores;

type Result<T> = std::result::Result<T, String>;

/// What golden files put before the names of a denoiser's parameters.
const PREFIX: &str = "net.";

fn text(error: invad::Error) -> String {
    error.to_string()
}

pub fn tensor(data: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_f32(data.to_vec(), shape, Device::Cpu).map_err(text)
}

/// A tensor that an operation is to fill.
pub fn output(shape: &[usize]) -> Result<Tensor> {
    tensor(&vec![f32::NAN; shape.iter().product()], shape)
}

/// The same numbers on a device.
fn on(device: Device, tensor: &Tensor) -> Result<Tensor> {
    tensor.view().copied_to(device, DType::F32).map_err(text)
}

/// (B, R, C) to (B, C, R).
fn transposed<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    let matrix = |m: &[T]| -> Vec<T> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| m[i]).collect()
    };
    x.chunks(rows * columns).flat_map(matrix).collect()
}

fn config(c: &Config) -> DitConfig {
    DitConfig {
        channels: c.channels,
        grid: c.grid,
        width: c.width,
        depth: c.depth,
        heads: c.heads,
        patch: c.patch,
    }
}

/// (B, C, G, G) to (B, G, G, C).
fn channels_last(c: &Config, x: &[f32]) -> Result<Tensor> {
    let images = x.len() / c.elements();
    let x = transposed(x, c.channels, c.grid * c.grid);
    tensor(&x, &[images, c.grid, c.grid, c.channels])
}

/// (B, G, G, C) to (B, C, G, G).
fn channels_first(c: &Config, x: &[f32]) -> Vec<f32> {
    transposed(x, c.grid * c.grid, c.channels)
}

/// A denoiser and the parameters that the golden rule gives it.
fn denoiser(c: &Config) -> Result<(Dit, Tensor)> {
    let dit = Dit::new(config(c)).map_err(text)?;
    let mut shapes: HashMap<String, Vec<usize>> = c.shapes().into_iter().collect();
    let values = c.parameters();
    let mut flat = vec![f32::NAN; dit.len()];
    for p in dit.parameters() {
        let name = format!("{PREFIX}{}", p.name);
        let shape = shapes.remove(&name).ok_or_else(|| format!("`{name}` is not in the files"))?;
        if shape != p.shape {
            return Err(format!("{name}: shape {:?}, {shape:?} in the files", p.shape));
        }
        flat[p.offset..][..p.len()].copy_from_slice(&values[&name]);
    }
    if let Some(name) = shapes.keys().next() {
        return Err(format!("the library has no `{name}`"));
    }
    let parameters = tensor(&flat, &[dit.len()])?;
    Ok((dit, parameters))
}

/// The parts of a flat tensor, by name.
fn named(dit: &Dit, flat: &Tensor) -> BTreeMap<String, Vec<f32>> {
    let flat = flat.to_vec_f32();
    let parts = dit.parameters().iter();
    parts.map(|p| (format!("{PREFIX}{}", p.name), flat[p.offset..][..p.len()].to_vec())).collect()
}

/// What the loss is multiplied by where its gradients are stored in f16.
fn loss_scale(device: Device) -> f32 {
    if device == Device::Cpu { 1.0 } else { 1024.0 }
}

/// A forward and a backward pass and the memory for them.
struct Passes<'a> {
    dit: &'a Dit,
    device: Device,
    acts: Activations,
    gradients: Gradients,
    eps: Tensor,
    deps: Tensor,
    dx: Tensor,
}

impl<'a> Passes<'a> {
    fn new(dit: &'a Dit, shape: &[usize], device: Device) -> Result<Self> {
        let images = shape[0];
        let output = || stored(&output(shape)?, device);
        Ok(Self {
            dit,
            device,
            acts: Activations::for_training(dit, images, Recompute::Nothing, device)
                .map_err(text)?,
            gradients: Gradients::new(dit, images, device).map_err(text)?,
            eps: output()?,
            deps: output()?,
            dx: output()?,
        })
    }

    /// Writes ε and, multiplied by the loss scale, dx and the gradients. Returns the mean squared
    /// error. The parameters are on the device.
    fn run(
        &mut self,
        parameters: Parameters,
        x: &Tensor,
        t: &[usize],
        noise: &Tensor,
    ) -> Result<f64> {
        let Self { dit, device, acts, gradients, eps, deps, dx } = self;
        let (device, n) = (*device, eps.len() as f32);
        let (x, noise, t_here) = (on(device, x)?, on(device, noise)?, on(device, &timesteps(t)?)?);
        dit.forward(parameters, &x, &t_here, acts, &mut *eps).map_err(text)?;
        let per_image = |value: f32| on(device, &tensor(&vec![value; t.len()], &[t.len()])?);
        let (zero, one) = (per_image(0.0)?, per_image(1.0)?);
        let x0 = stored(&x, device)?;
        let target = Target {
            x0: x0.view(),
            noise: noise.view(),
            signal_scale: zero.view(),
            noise_scale: one.view(),
        };
        let mut losses = per_image(f32::NAN)?;
        let (slope, d) = (per_image(2.0 * loss_scale(device) / n)?, Some(deps.view_mut()));
        ops::denoising_loss(&*eps, target, &one, &slope, &mut losses, d).map_err(text)?;
        gradients.parameters.view_mut().fill(0.0).unwrap();
        dit.backward(parameters, acts, &*deps, gradients, Some(dx.view_mut())).map_err(text)?;
        let losses = losses.to_vec_f32();
        Ok(losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64)
    }
}

/// The same numbers on a device in the type that it stores activations in.
fn stored(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let dtype = if device == Device::Cpu { DType::F32 } else { DType::F16 };
    tensor.view().copied_to(device, dtype).map_err(text)
}

/// The parameters in f16, on a GPU.
fn half(parameters: &Tensor, device: Device) -> Result<Option<Tensor>> {
    (device != Device::Cpu).then(|| stored(parameters, device)).transpose()
}

fn timesteps(t: &[usize]) -> Result<Tensor> {
    tensor(&t.iter().map(|&t| t as f32).collect::<Vec<_>>(), &[t.len()])
}

pub fn pass(case: &Case, device: Device) -> Result<Pass> {
    let (dit, parameters) = denoiser(&case.config)?;
    let (half, full) = (half(&parameters, device)?, on(device, &parameters)?);
    let parameters = Parameters { full: &full, half: half.as_ref() };
    let x = channels_last(&case.config, &case.x)?;
    let noise = channels_last(&case.config, &case.noise)?;
    let mut passes = Passes::new(&dit, x.shape(), device)?;
    let loss = passes.run(parameters, &x, &case.timesteps, &noise)?;
    let unscaled = |mut numbers: Vec<f32>| {
        numbers.iter_mut().for_each(|x| *x /= loss_scale(device));
        numbers
    };
    let gradients = named(&dit, &passes.gradients.parameters);
    Ok(Pass {
        eps: channels_first(&case.config, &passes.eps.to_vec_f32()),
        loss,
        dx: unscaled(channels_first(&case.config, &passes.dx.to_vec_f32())),
        gradients: gradients.into_iter().map(|(name, g)| (name, unscaled(g))).collect(),
    })
}

pub fn train(case: &Case, training: &Training, device: Device) -> Result<Trained> {
    let (dit, parameters) = denoiser(&case.config)?;
    let mut half = half(&parameters, device)?;
    let mut parameters = on(device, &parameters)?;
    let mut average = parameters.clone();
    let zeros = || Tensor::zeros(&[dit.len()], DType::F32, device).map_err(text);
    let (mut m, mut v) = (zeros()?, zeros()?);
    let mut norm = on(device, &output(&[2])?)?;
    let x = channels_last(&case.config, &case.x)?;
    let mut passes = Passes::new(&dit, x.shape(), device)?;
    let (mut losses, mut gradient_norms) = (Vec::new(), Vec::new());
    for (step, t) in training.timesteps.iter().enumerate() {
        let noise = channels_last(&case.config, &case.training_noise(step))?;
        let x_t = noised(&x, &noise, t)?;
        let current = Parameters { full: &parameters, half: half.as_ref() };
        losses.push(passes.run(current, &x_t, t, &noise)?);
        let gradient = &passes.gradients.parameters;
        let [beta1, beta2] = training.betas;
        let adamw = AdamW {
            learning_rate: training.learning_rate,
            beta1,
            beta2,
            eps: training.eps,
            weight_decay: training.weight_decay,
        };
        let (k, scale) = (step as u64 + 1, loss_scale(device).into());
        let numbers = adamw.numbers(k, scale, training.ema_decay).map_err(text)?;
        let numbers = on(device, &tensor(&numbers, &[AdamW::NUMBERS])?)?;
        ops::global_norm(gradient, training.clip, &numbers, &mut norm).map_err(text)?;
        gradient_norms.push(norm.to_vec_f32()[0].into());
        let moved = Moved {
            parameters: parameters.view_mut(),
            m: m.view_mut(),
            v: v.view_mut(),
            average: Some(average.view_mut()),
            rounded: half.as_mut().map(Tensor::view_mut),
        };
        ops::adamw(gradient, &numbers, &norm, 0, moved).map_err(text)?;
    }
    Ok(Trained {
        losses,
        gradient_norms,
        parameters: named(&dit, &parameters),
        ema: named(&dit, &average),
    })
}

/// (B, …) with noise of one timestep per image.
fn noised(x: &Tensor, noise: &Tensor, t: &[usize]) -> Result<Tensor> {
    let alphas = Schedule::linear().alphas_cumprod;
    let factors = |of: fn(f64) -> f64| {
        tensor(&t.iter().map(|&t| of(alphas[t]).sqrt() as f32).collect::<Vec<_>>(), &[t.len()])
    };
    let mut out = output(x.shape())?;
    ops::add_noise(x, noise, &factors(|a| a)?, &factors(|a| 1.0 - a)?, &mut out).map_err(text)?;
    Ok(out)
}

pub fn q_sample(x: &[f32], noise: &[f32], t: &[usize]) -> Result<Vec<f32>> {
    let shape = [t.len(), x.len() / t.len()];
    Ok(noised(&tensor(x, &shape)?, &tensor(noise, &shape)?, t)?.to_vec_f32())
}

/// ε of each image, by networks packed for its timestep.
pub fn eps(case: &Case, device: Device) -> Result<Vec<f32>> {
    let (dit, parameters) = denoiser(&case.config)?;
    // What networks return lies in the GPU's memory as f16.
    let dtype = if device == Device::Cpu { DType::F32 } else { DType::F16 };
    let mut all = Vec::new();
    let mut acts = Activations::for_inference(&dit, 1, device).map_err(text)?;
    let network = PackedDit::new(&dit, &parameters, &case.timesteps, device).map_err(text)?;
    for (i, x) in case.x.chunks(case.config.elements()).enumerate() {
        let x = on(device, &channels_last(&case.config, x)?)?;
        let mut eps = Tensor::zeros(x.shape(), dtype, device).map_err(text)?;
        eps.view_mut().fill(f32::NAN).map_err(text)?;
        network.forward(&x, i, &mut acts, &mut eps).map_err(text)?;
        all.extend(channels_first(&case.config, &eps.to_vec_f32()));
    }
    Ok(all)
}

fn inverter(c: &Config, steps: usize, device: Device) -> Result<Inverter> {
    let (dit, parameters) = denoiser(c)?;
    Inverter::new(&dit, &parameters, Parameterisation::Epsilon, steps, 0, device).map_err(text)
}

/// What is wrong with a network, on a device that cannot compute it.
pub fn refusal(c: &Config, device: Device) -> Result<invad::Error> {
    let inverter = inverter(c, 1, device)?;
    let mut x = on(device, &channels_last(c, &vec![0.0; c.elements()])?)?;
    let mut space = inverter.workspace(1).map_err(text)?;
    inverter.invert(&mut x, &mut space).err().ok_or_else(|| "it was not refused".into())
}

pub fn inversion(c: &Config, steps: usize, x: &[f32], device: Device) -> Result<Inversion> {
    let inverter = inverter(c, steps, device)?;
    let mut x = on(device, &channels_last(c, x)?)?;
    let mut space = inverter.workspace(x.shape()[0]).map_err(text)?;
    // The whole and its steps one by one.
    let mut latent = x.clone();
    inverter.invert(&mut latent, &mut space).map_err(text)?;
    let (mut states, mut eps) = (Vec::new(), Vec::new());
    for i in 0..inverter.timesteps().len() {
        let output = inverter.step(i, x.view_mut(), &mut space).map_err(text)?.to_vec_f32();
        eps.extend(channels_first(c, &output));
        states.extend(channels_first(c, &x.to_vec_f32()));
    }
    Ok(Inversion { latent: channels_first(c, &latent.to_vec_f32()), states, eps })
}

/// `noise`: of one image, the same for all.
pub fn reconstruction(
    c: &Config,
    steps: usize,
    k: usize,
    x: &[f32],
    noise: &[f32],
    device: Device,
) -> Result<Reconstruction> {
    let inverter = inverter(c, steps, device)?;
    let t = *inverter.timesteps().get(k).ok_or("there is no such step")?;
    let x = channels_last(c, x)?;
    let images = x.shape()[0];
    let noise = channels_last(c, &noise.repeat(images))?;
    let x_t = noised(&x, &noise, &vec![t; images])?;
    let mut rec = on(device, &x_t)?;
    let mut space = inverter.workspace(images).map_err(text)?;
    inverter.reconstruct(&mut rec, k, &mut space).map_err(text)?;
    let rec = on(Device::Cpu, &rec)?;
    let per_image = |value: f32| tensor(&vec![value; images], &[images]);
    let (zero, one, mut mse) = (per_image(0.0)?, per_image(1.0)?, output(&[images])?);
    let target = Target {
        x0: x.view(),
        noise: noise.view(),
        signal_scale: one.view(),
        noise_scale: zero.view(),
    };
    ops::denoising_loss(&rec, target, &one, &zero, &mut mse, None).map_err(text)?;
    Ok(Reconstruction {
        x_t: channels_first(c, &x_t.to_vec_f32()),
        rec: channels_first(c, &rec.to_vec_f32()),
        mse: mse.to_vec_f32(),
    })
}

/// A quantity of the schedule of all timesteps.
pub fn full_schedule(quantity: &str) -> Result<Vec<f64>> {
    let schedule = Schedule::linear();
    match quantity {
        "betas" => Ok(schedule.betas),
        "alphas_cumprod" => Ok(schedule.alphas_cumprod),
        _ => Err(format!("`{quantity}` is not known here")),
    }
}

/// A quantity of the schedule of `steps` timesteps.
pub fn schedule(steps: usize, quantity: &str) -> Result<Vec<f64>> {
    let respaced = Schedule::linear().respaced(steps).map_err(text)?;
    match quantity {
        "timesteps" => Ok(respaced.timesteps.iter().map(|&t| t as f64).collect()),
        "betas" => Ok(respaced.schedule.betas),
        "alphas_cumprod" => Ok((0..steps).map(|i| respaced.alpha(i)).collect()),
        "alphas_cumprod_prev" => Ok((0..steps).map(|i| respaced.alpha_prev(i)).collect()),
        "alphas_cumprod_next" => Ok((0..steps).map(|i| respaced.alpha_next(i)).collect()),
        _ => Err(format!("`{quantity}` is not known here")),
    }
}

/// The sines of so small a timestep are the frequencies times it, exactly.
pub fn timestep_frequencies() -> Result<Vec<f32>> {
    let tiny = (-30f32).exp2();
    let features = embedding(&[tiny])?;
    Ok(features[features.len() / 2..].iter().map(|sine| sine / tiny).collect())
}

pub fn timestep_embedding(t: &[usize]) -> Result<Vec<f32>> {
    embedding(&t.iter().map(|&t| t as f32).collect::<Vec<_>>())
}

fn embedding(t: &[f32]) -> Result<Vec<f32>> {
    let mut features = output(&[t.len(), ops::TIMESTEP_FEATURES])?;
    ops::timestep_embedding(&tensor(t, &[t.len()])?, &mut features).map_err(text)?;
    Ok(features.to_vec_f32())
}

/// Of a fresh network.
pub fn position_embedding(grid: usize, width: usize) -> Result<Vec<f32>> {
    let config = DitConfig { channels: 1, grid, width, depth: 0, heads: 1, patch: 1 };
    let dit = Dit::new(config).map_err(text)?;
    let parameters = named(&dit, &dit.init(1, Device::Cpu).map_err(text)?);
    parameters.get("net.pos_embed").cloned().ok_or_else(|| "no pos_embed".into())
}

pub fn silu(x: &[f32]) -> Result<Vec<f32>> {
    let mut y = output(&[x.len()])?;
    ops::silu(&tensor(x, &[x.len()])?, &mut y).map_err(text)?;
    Ok(y.to_vec_f32())
}

/// After a linear layer that changes nothing.
pub fn gelu(x: &[f32]) -> Result<Vec<f32>> {
    let (x, weight) = (tensor(x, &[x.len(), 1])?, tensor(&[1.0], &[1, 1])?);
    let mut y = output(x.shape())?;
    ops::linear(&x, &weight, None, Activation::Gelu, None, &mut y).map_err(text)?;
    Ok(y.to_vec_f32())
}

/// x (…, K) · weightᵀ (N, K) + bias (N).
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32]) -> Result<Vec<f32>> {
    let n = bias.len();
    let k = weight.len() / n;
    let (x, weight) = (tensor(x, &[x.len() / k, k])?, tensor(weight, &[n, k])?);
    let (bias, mut y) = (tensor(bias, &[n])?, output(&[x.shape()[0], n])?);
    ops::linear(&x, &weight, Some(bias.view()), Activation::None, None, &mut y).map_err(text)?;
    Ok(y.to_vec_f32())
}

pub fn modulated_norm(
    x: &[f32],
    shift: &[f32],
    scale: &[f32],
    [b, n, d]: [usize; 3],
) -> Result<Vec<f32>> {
    let rows = shift.chunks(d).zip(scale.chunks(d));
    let table: Vec<f32> = rows.flat_map(|(shift, scale)| [shift, scale].concat()).collect();
    let (x, table) = (tensor(x, &[b, n, d])?, tensor(&table, &[b, 2 * d])?);
    let chunk = |index| Chunk { table: table.view(), index };
    let mut y = output(x.shape())?;
    ops::adaln_zero(&x, None, chunk(0), chunk(1), None, &mut y, None).map_err(text)?;
    Ok(y.to_vec_f32())
}

/// `q`, `k`, `v`, `dout`: (H, N, d).
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    [h, n, d]: [usize; 3],
) -> Result<Attention> {
    let at = |head: usize, token: usize| (head * n + token) * d;
    let mut qkv = Vec::new();
    for token in 0..n {
        for part in [q, k, v] {
            (0..h).for_each(|head| qkv.extend_from_slice(&part[at(head, token)..][..d]));
        }
    }
    let by_token = |x: &[f32]| -> Vec<f32> {
        let heads = (0..n).flat_map(|token| (0..h).map(move |head| at(head, token)));
        heads.flat_map(|start| x[start..][..d].to_vec()).collect()
    };
    let qkv = tensor(&qkv, &[1, n, 3, h, d])?;
    let dout = tensor(&by_token(dout), &[1, n, h * d])?;
    let (mut out, mut lse, mut dqkv) =
        (output(dout.shape())?, output(&[1, h, n])?, output(qkv.shape())?);
    ops::attention(&qkv, &mut out, Some(lse.view_mut())).map_err(text)?;
    ops::attention_backward(&qkv, &out, &lse, &dout, &mut dqkv).map_err(text)?;
    // Rows of `parts`·H·d numbers per token, of which the heads of part `part` are wanted.
    let by_head = |x: &Tensor, parts: usize, part: usize| -> Vec<f32> {
        let x = x.to_vec_f32();
        let rows = (0..h).flat_map(|head| (0..n).map(move |token| (token, head)));
        rows.flat_map(|(token, head)| x[((token * parts + part) * h + head) * d..][..d].to_vec())
            .collect()
    };
    Ok(Attention {
        out: by_head(&out, 1, 0),
        dq: by_head(&dqkv, 3, 0),
        dk: by_head(&dqkv, 3, 1),
        dv: by_head(&dqkv, 3, 2),
    })
}

/// `z`: (B, C, H, W).
pub fn scores(z: &[f32], [b, c, h, w]: [usize; 4], device: Device) -> Result<Scores> {
    let latent = on(device, &tensor(&transposed(z, c, h * w), &[b, h * w, c])?)?;
    let mut map = on(device, &output(&[b, h * w])?)?;
    let mut stats = on(device, &output(&[b, ops::SCORE_STATS])?)?;
    ops::score(&latent, &mut map, &mut stats).map_err(text)?;
    let stats = stats.to_vec_f32();
    let column = |i: usize| stats.chunks(ops::SCORE_STATS).map(|row| f64::from(row[i])).collect();
    Ok(Scores { l2: map.to_vec_f32(), abs: column(2), nll: column(4) })
}

pub fn paper_scores(abs: &[f64], nll: &[f64]) -> Result<Vec<f64>> {
    metrics::paper_scores(abs, nll).map_err(text)
}

/// `x`: (channels, H, W).
pub fn resize_bilinear(
    x: &[f32],
    channels: usize,
    [h, w]: [usize; 2],
    [to_h, to_w]: [usize; 2],
    device: Device,
) -> Result<Vec<f32>> {
    let x = on(device, &tensor(&transposed(x, channels, h * w), &[1, h, w, channels])?)?;
    let mut y = on(device, &output(&[1, to_h, to_w, channels])?)?;
    ops::resize_bilinear(&x, &mut y).map_err(text)?;
    Ok(transposed(&y.to_vec_f32(), to_h * to_w, channels))
}

pub fn resize_antialias(rgb: &[u8], from: [usize; 2], to: [usize; 2]) -> Result<Vec<u8>> {
    let mut resized = vec![0; 3 * to[0] * to[1]];
    ops::resize_antialias(rgb, from, &mut resized, to).map_err(text)?;
    Ok(resized)
}

pub fn resize_mask(mask: &[bool], from: [usize; 2], to: [usize; 2]) -> Result<Vec<bool>> {
    let mask = Mask::new(from[1], from[0], mask.to_vec()).map_err(text)?;
    Ok(mask.resize(to[1], to[0]).pixels().to_vec())
}

pub fn rgb_to_luma(rgb: &[u8]) -> Result<Vec<u8>> {
    let mut luma = vec![0; rgb.len() / 3];
    ops::rgb_to_luma(rgb, &mut luma).map_err(text)?;
    Ok(luma)
}

/// With the mean and deviation of ImageNet; returns (3, pixels).
pub fn normalise(rgb: &[u8]) -> Result<Vec<f32>> {
    let mut y = output(&[rgb.len() / 3, 3])?;
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    ops::normalise(rgb, mean, std, &mut y).map_err(text)?;
    Ok(transposed(&y.to_vec_f32(), rgb.len() / 3, 3))
}

pub fn learning_rate(rate: &LearningRate, step: u64) -> f64 {
    let &LearningRate { initial, peak, last, warm, total } = rate;
    train::LearningRate { initial, peak, last, warmup: warm, total }.at(step)
}

/// (C, G, G).
pub fn lite0_features(rgb: &[u8], [h, w]: [usize; 2], device: Device) -> Result<Vec<f32>> {
    let image = RgbImage::from_raw(w as u32, h as u32, rgb.to_vec()).ok_or("not an RGB image")?;
    let backbone = Backbone::lite0().to_device(device).map_err(text)?;
    let (grid, channels) = (backbone.grid(), backbone.channels());
    let mut y = on(device, &output(&[1, grid, grid, channels])?)?;
    backbone.extract(&[image], &mut y, &mut features::Workspace::default()).map_err(text)?;
    Ok(transposed(&y.to_vec_f32(), grid * grid, channels))
}
