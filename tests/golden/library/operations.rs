//! Schedules, operations, scores and features of images.

use invad::data::Mask;
use invad::diffusion::Schedule;
use invad::ops::{self, Activation, Chunk, Quantised};
use invad::tensor::TensorView;
use invad::{DType, Device, EightBits, Tensor, metrics, train};

use super::{Result, on, output, tensor, text, transposed};
use crate::dit_components::Attention;
use crate::fp8::Product;
use crate::preproc_lr::LearningRate;
use crate::scoring::Scores;

/// A quantity of the schedule of all timesteps.
pub fn full_schedule(quantity: &str) -> Result<Vec<f64>> {
    let schedule = Schedule::linear();
    match quantity {
        "betas" => Ok(schedule.betas()),
        "alphas_cumprod" => Ok(schedule.alphas_cumprod().to_vec()),
        _ => Err(format!("`{quantity}` is not known here")),
    }
}

/// A quantity of the schedule of `steps` timesteps.
pub fn schedule(steps: usize, quantity: &str) -> Result<Vec<f64>> {
    let respaced = Schedule::linear().respaced(steps).map_err(text)?;
    match quantity {
        "timesteps" => Ok(respaced.timesteps.iter().map(|&t| t as f64).collect()),
        "betas" => Ok(respaced.schedule.betas()),
        "alphas_cumprod" => Ok((0..steps).map(|i| respaced.alpha(i)).collect()),
        "alphas_cumprod_prev" => Ok((0..steps).map(|i| respaced.alpha_prev(i)).collect()),
        "alphas_cumprod_next" => Ok((0..steps).map(|i| respaced.alpha_next(i)).collect()),
        _ => Err(format!("`{quantity}` is not known here")),
    }
}

/// The sines of so small a timestep are the frequencies times it, exactly.
pub fn timestep_frequencies(count: usize) -> Result<Vec<f32>> {
    let tiny = (-30f32).exp2();
    let features = embedding(&[tiny], 2 * count)?;
    Ok(features[count..].iter().map(|sine| sine / tiny).collect())
}

pub fn timestep_embedding(t: &[usize], features: usize) -> Result<Vec<f32>> {
    embedding(&t.iter().map(|&t| t as f32).collect::<Vec<_>>(), features)
}

fn embedding(t: &[f32], features: usize) -> Result<Vec<f32>> {
    let mut out = output(&[t.len(), features])?;
    ops::timestep_embedding(&tensor(t, &[t.len()])?, &mut out).map_err(text)?;
    Ok(out.to_vec_f32())
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
    ops::adaln_zero(&x, None, chunk(0), chunk(1), 1e-6, None, &mut y, None).map_err(text)?;
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
    let halves = stats.chunks(ops::SCORE_STATS).map(|row| row[4]);
    let nll = halves.map(|half| ops::negative_log_likelihood(half, c * h * w)).collect();
    Ok(Scores { l2: map.to_vec_f32(), abs: column(2), nll })
}

/// x · wᵀ of what both are quantised to, by one scale of each row or of all.
pub fn quantised_product(
    (x, [m, k]): (Vec<f32>, [usize; 2]),
    (w, [n, _]): (Vec<f32>, [usize; 2]),
    format: EightBits,
    by_row: bool,
) -> Result<Product> {
    let quantised = |x: &[f32], rows: usize| -> Result<_> {
        let mut codes = Tensor::zeros(&[rows, k], DType::U8, Device::Cpu).map_err(text)?;
        let mut scales = output(&[if by_row { rows } else { 1 }])?;
        ops::quantise(&tensor(x, &[rows, k])?, format, &mut codes, &mut scales).map_err(text)?;
        Ok((codes, scales))
    };
    let (x, w, mut y) = (quantised(&x, m)?, quantised(&w, n)?, output(&[m, n])?);
    let [from, weight] = [&x, &w].map(|(codes, scales)| Quantised {
        codes: codes.into(),
        scales: scales.into(),
        format,
    });
    ops::linear_quantised(from, weight, None, &mut y).map_err(text)?;
    let bytes = |codes: &Tensor| codes.to_vec_f32().iter().map(|&code| code as u8).collect();
    Ok(Product {
        codes: [&x, &w].map(|(codes, _)| bytes(codes)),
        scales: [&x, &w].map(|(_, scales)| scales.to_vec_f32()),
        y: y.to_vec_f32(),
    })
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
    let pixels = rgb.len() / 3;
    let mut y = output(&[pixels, 3])?;
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let rgb = TensorView::from_bytes(rgb, y.shape()).map_err(text)?;
    ops::normalise(rgb, mean, std, &mut y).map_err(text)?;
    Ok(transposed(&y.to_vec_f32(), pixels, 3))
}

pub fn learning_rate(rate: &LearningRate, step: u64) -> f64 {
    let &LearningRate { initial, peak, last, warm, total } = rate;
    train::LearningRate { initial, peak, last, warmup: warm, total }.at(step)
}
