//! The denoiser: its passes, its training and the inversion by it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use invad::denoisers::{
    self, Denoiser, Dit, DitConfig, Mlp, MlpConfig, Parameters, Recompute, Trainable, Unet,
    UnetConfig, Use,
};
use invad::diffusion::{
    Inverter, Parameterisation, Reconstructor, Schedule, reconstruction_errors,
};
use invad::metrics;
use invad::ops::{self, AdamW, Moved, Target};
use invad::{DType, Device, Precision, Tensor};

use super::{Result, on, output, tensor, text, transposed};
use crate::denoiser::{Case, Pass, Trained, Training};
use crate::diffusion::Inversion;
use crate::parameters::{Config, Kind};
use crate::recon::Reconstruction;

/// What golden files put before the names of a denoiser's parameters.
const PREFIX: &str = "net.";

fn network(c: &Config) -> Result<Arc<dyn Denoiser>> {
    let &Config { channels, depth, grid, width, .. } = c;
    match &c.kind {
        &Kind::Dit { heads, patch } => {
            let config = DitConfig { channels, grid, width, depth, heads, patch };
            Ok(Arc::new(Dit::new(config).map_err(text)?))
        }
        Kind::Mlp => {
            let config = MlpConfig { channels, grid, width, depth };
            Ok(Arc::new(Mlp::new(config).map_err(text)?))
        }
        Kind::Unet(sizes) => {
            let config = UnetConfig {
                channels,
                grid,
                width,
                channel_mult: sizes.channel_mult.clone(),
                res_blocks: depth,
                attention_downsample: sizes.attention_downsample.clone(),
                head_size: sizes.head_size,
            };
            Ok(Arc::new(Unet::new(config).map_err(text)?))
        }
    }
}

pub fn parameter_count(c: &Config) -> Result<usize> {
    Ok(network(c)?.len())
}

/// (B, C, G, G) to (B, G, G, C).
pub fn channels_last(c: &Config, x: &[f32]) -> Result<Tensor> {
    let images = x.len() / c.elements();
    let x = transposed(x, c.channels, c.grid * c.grid);
    tensor(&x, &[images, c.grid, c.grid, c.channels])
}

/// (B, G, G, C) to (B, C, G, G).
fn channels_first(c: &Config, x: &[f32]) -> Vec<f32> {
    transposed(x, c.grid * c.grid, c.channels)
}

/// A denoiser and the parameters that the golden rule gives it.
pub fn denoiser(c: &Config) -> Result<(Arc<dyn Denoiser>, Tensor)> {
    let network = network(c)?;
    let mut shapes: HashMap<String, Vec<usize>> = c.shapes().into_iter().collect();
    let values = c.parameters();
    let mut flat = vec![f32::NAN; network.len()];
    for p in network.parameters() {
        let name = format!("{PREFIX}{}", p.name);
        let shape = shapes.remove(&name).ok_or_else(|| format!("`{name}` is not in the files"))?;
        if shape != p.reference_shape() {
            return Err(format!("{name}: shape {:?}, {shape:?} in the files", p.reference_shape()));
        }
        p.from_reference(&values[&name], &mut flat[p.offset..][..p.len()]);
    }
    if let Some(name) = shapes.keys().next() {
        return Err(format!("the library has no `{name}`"));
    }
    let parameters = tensor(&flat, &[network.len()])?;
    Ok((network, parameters))
}

/// The parts of a flat tensor, by name.
fn named(network: &dyn Denoiser, flat: &Tensor) -> BTreeMap<String, Vec<f32>> {
    let flat = flat.to_vec_f32();
    let parts = network.parameters().iter().map(|p| {
        let mut part = vec![f32::NAN; p.len()];
        p.to_reference(&flat[p.offset..][..p.len()], &mut part);
        (format!("{PREFIX}{}", p.name), part)
    });
    parts.collect()
}

/// What the loss is multiplied by where its gradients are stored in f16.
fn loss_scale(device: Device) -> f32 {
    if device == Device::Cpu { 1.0 } else { 1024.0 }
}

/// A forward and a backward pass and the memory for them.
struct Passes {
    device: Device,
    network: Box<dyn Trainable>,
    gradients: Tensor,
    eps: Tensor,
    deps: Tensor,
    dx: Tensor,
}

impl Passes {
    fn new(denoiser: &dyn Denoiser, shape: &[usize], device: Device) -> Result<Self> {
        let output = || stored(&output(shape)?, device);
        let how =
            denoisers::Training { precision: Precision::of(device), recompute: Recompute::Nothing };
        Ok(Self {
            device,
            network: denoiser.trainable(shape[0], how, &mut { device }).map_err(text)?,
            gradients: Tensor::zeros(&[denoiser.len()], DType::F32, device).map_err(text)?,
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
        let Self { device, network, gradients, eps, deps, dx } = self;
        let (device, n) = (*device, eps.len() as f32);
        let (x, noise, t_here) = (on(device, x)?, on(device, noise)?, on(device, &timesteps(t)?)?);
        network.forward(parameters, x.view(), t_here.view(), eps.view_mut()).map_err(text)?;
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
        gradients.view_mut().fill(0.0).unwrap();
        let dx = Some(dx.view_mut());
        network.backward(parameters, deps.view(), gradients, dx).map_err(text)?;
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
    let (network, parameters) = denoiser(&case.config)?;
    let (half, full) = (half(&parameters, device)?, on(device, &parameters)?);
    let parameters = Parameters { full: &full, half: half.as_ref() };
    let x = channels_last(&case.config, &case.x)?;
    let noise = channels_last(&case.config, &case.noise)?;
    let mut passes = Passes::new(&*network, x.shape(), device)?;
    let loss = passes.run(parameters, &x, &case.timesteps, &noise)?;
    let unscaled = |mut numbers: Vec<f32>| {
        numbers.iter_mut().for_each(|x| *x /= loss_scale(device));
        numbers
    };
    let gradients = named(&*network, &passes.gradients);
    Ok(Pass {
        eps: channels_first(&case.config, &passes.eps.to_vec_f32()),
        loss,
        dx: unscaled(channels_first(&case.config, &passes.dx.to_vec_f32())),
        gradients: gradients.into_iter().map(|(name, g)| (name, unscaled(g))).collect(),
    })
}

pub fn train(case: &Case, training: &Training, device: Device) -> Result<Trained> {
    let (network, parameters) = denoiser(&case.config)?;
    let mut half = half(&parameters, device)?;
    let mut parameters = on(device, &parameters)?;
    let mut average = parameters.clone();
    let zeros = || Tensor::zeros(&[network.len()], DType::F32, device).map_err(text);
    let (mut m, mut v) = (zeros()?, zeros()?);
    let mut norm = on(device, &output(&[2])?)?;
    let x = channels_last(&case.config, &case.x)?;
    let mut passes = Passes::new(&*network, x.shape(), device)?;
    let (mut losses, mut gradient_norms) = (Vec::new(), Vec::new());
    for (step, t) in training.timesteps.iter().enumerate() {
        let noise = channels_last(&case.config, &case.training_noise(step))?;
        let x_t = noised(&x, &noise, t)?;
        let current = Parameters { full: &parameters, half: half.as_ref() };
        losses.push(passes.run(current, &x_t, t, &noise)?);
        let gradient = &passes.gradients;
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
        parameters: named(&*network, &parameters),
        ema: named(&*network, &average),
    })
}

/// (B, …) with noise of one timestep per image.
fn noised(x: &Tensor, noise: &Tensor, t: &[usize]) -> Result<Tensor> {
    let schedule = Schedule::linear();
    let factors = |of: fn(f64) -> f64| {
        tensor(
            &t.iter().map(|&t| of(schedule.alphas_cumprod()[t]).sqrt() as f32).collect::<Vec<_>>(),
            &[t.len()],
        )
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
    let (network, parameters) = denoiser(&case.config)?;
    // What networks return lies in the GPU's memory as f16.
    let dtype = if device == Device::Cpu { DType::F32 } else { DType::F16 };
    let mut all = Vec::new();
    let packed = network.pack(&parameters, &case.timesteps, device, Precision::of(device));
    let mut evaluator = packed.map_err(text)?.evaluator(1, &mut { device }).map_err(text)?;
    for (i, x) in case.x.chunks(case.config.elements()).enumerate() {
        let x = on(device, &channels_last(&case.config, x)?)?;
        let mut eps = Tensor::zeros(x.shape(), dtype, device).map_err(text)?;
        eps.view_mut().fill(f32::NAN).map_err(text)?;
        evaluator.evaluate(i, x.view(), eps.view_mut()).map_err(text)?;
        all.extend(channels_first(&case.config, &eps.to_vec_f32()));
    }
    Ok(all)
}

fn inverter(c: &Config, steps: usize, device: Device) -> Result<Inverter> {
    let (network, parameters) = denoiser(c)?;
    inverter_by(&*network, &parameters, steps, device)
}

fn inverter_by(
    network: &dyn Denoiser,
    parameters: &Tensor,
    steps: usize,
    device: Device,
) -> Result<Inverter> {
    Inverter::new(network, parameters, Parameterisation::Epsilon, steps, 0, device).map_err(text)
}

/// What is wrong with a network, on a device that cannot compute it.
pub fn refusal(c: &Config, device: Device) -> Result<invad::Error> {
    let refused = network(c)?.require(device, Use::Inference, Precision::of(device));
    refused.err().ok_or_else(|| "it was not refused".into())
}

pub fn inversion(c: &Config, steps: usize, x: &[f32], device: Device) -> Result<Inversion> {
    let (network, parameters) = denoiser(c)?;
    inversion_by(&*network, &parameters, c, steps, x, device)
}

/// By a network with these parameters.
pub fn inversion_by(
    network: &dyn Denoiser,
    parameters: &Tensor,
    c: &Config,
    steps: usize,
    x: &[f32],
    device: Device,
) -> Result<Inversion> {
    let inverter = inverter_by(network, parameters, steps, device)?;
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
    let method = Reconstructor::new(inverter(c, steps, device)?, k).map_err(text)?;
    let x = channels_last(c, x)?;
    let x_t = method.noised(&x, &channels_last(c, noise)?).map_err(text)?;
    let mut rec = on(device, &x_t)?;
    let mut space = method.workspace(x.shape()[0]).map_err(text)?;
    // The whole and its steps one by one.
    let mut whole = rec.clone();
    method.reconstruct(&mut whole, &mut space).map_err(text)?;
    let mut states = Vec::new();
    for i in (0..k).rev() {
        method.step(i, rec.view_mut(), &mut space).map_err(text)?;
        states.extend(channels_first(c, &rec.to_vec_f32()));
    }
    if rec.to_vec_f32() != whole.to_vec_f32() {
        return Err("the steps one by one give another reconstruction than the whole".into());
    }
    let errors = reconstruction_errors(&x, &on(Device::Cpu, &rec)?).map_err(text)?;
    let zeros = vec![0.0; errors.means.len()];
    Ok(Reconstruction {
        timesteps: method.timesteps().map(|t| t as f64).collect(),
        x_t: channels_first(c, &x_t.to_vec_f32()),
        rec: channels_first(c, &rec.to_vec_f32()),
        states,
        map: errors.maps.concat(),
        score: metrics::paper_scores(&errors.means, &zeros).map_err(text)?,
        mse: errors.means,
    })
}

/// Of a fresh network.
pub fn position_embedding(grid: usize, width: usize) -> Result<Vec<f32>> {
    let config = DitConfig { channels: 1, grid, width, depth: 0, heads: 1, patch: 1 };
    let dit = Dit::new(config).map_err(text)?;
    let parameters = named(&dit, &dit.init(1, Device::Cpu).map_err(text)?);
    parameters.get("net.pos_embed").cloned().ok_or_else(|| "no pos_embed".into())
}
