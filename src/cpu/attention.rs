//! Attention on the host.

use std::cell::Cell;

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::gemm::{Epilogue, Mat, Packed, Threads, gemm};
use super::math::{dot, exp, reduce};

/// Numbers that are summed side by side.
const LANES: usize = 16;
/// Queries of one task.
const TASK: usize = 256;
/// Queries whose scores are held at a time, in the second-level cache.
const QUERIES: usize = 64;

/// Sizes of an attention: tokens, heads, head size.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub tokens: usize,
    pub heads: usize,
    pub size: usize,
}

impl Heads {
    fn width(self) -> usize {
        self.heads * self.size
    }

    /// Rows `from..` of q (part 0), k (1) or v (2) of one head in one image's packed QKV.
    fn part(self, qkv: &[f32], part: usize, head: usize, from: usize, rows: usize) -> Mat<'_> {
        let start = from * 3 * self.width() + part * self.width() + head * self.size;
        Mat::strided(&qkv[start..], rows, self.size, 3 * self.width())
    }
}

/// Buffers of a task, kept by its thread.
struct Scratch {
    /// Two times `QUERIES` × N numbers.
    scores: [Vec<f32>; 2],
    /// Keys and values of a head, as they are used.
    packed: [Packed; 3],
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// How far apart rows of scores are: whole vectors.
fn stride(tokens: usize) -> usize {
    tokens.next_multiple_of(LANES)
}

fn with_scratch(tokens: usize, f: impl FnOnce(&mut Scratch)) {
    let mut scratch = SCRATCH.take().unwrap_or_else(|| {
        Box::new(Scratch {
            scores: [Vec::new(), Vec::new()],
            packed: [Packed::empty(), Packed::empty(), Packed::empty()],
        })
    });
    for scores in &mut scratch.scores {
        scores.resize(QUERIES * stride(tokens), 0.0);
    }
    f(&mut scratch);
    SCRATCH.set(Some(scratch));
}

pub(crate) fn attention(qkv: &[f32], out: &mut [f32], lse: Option<&mut [f32]>, h: Heads) {
    let (tokens, width) = (h.tokens, h.width());
    let images = out.len() / (tokens * width);
    if images == 0 {
        return;
    }
    // A single image's queries are shared out between threads.
    let share = if images == 1 && tokens >= 2 * QUERIES { 2 } else { 1 };
    let queries = tokens.div_ceil(tokens.div_ceil(TASK).max(share));
    let groups = tokens.div_ceil(queries);
    let scale = 1.0 / (h.size as f32).sqrt();
    let task = |group: usize, out: &mut [f32], mut lse: Option<Vec<&mut [f32]>>| {
        let (image, from) = (group / groups, group % groups * queries);
        let rows = out.len() / width;
        let qkv = &qkv[image * tokens * 3 * width..][..tokens * 3 * width];
        with_scratch(tokens, |Scratch { scores: [scores, _], packed: [k, v, _] }| {
            for head in 0..h.heads {
                k.set(h.part(qkv, 1, head, 0, tokens).t(), Threads::One);
                v.set(h.part(qkv, 2, head, 0, tokens), Threads::One);
                for start in (0..rows).step_by(QUERIES) {
                    let count = QUERIES.min(rows - start);
                    let stride = stride(tokens);
                    let scores = &mut scores[..count * stride];
                    let q = h.part(qkv, 0, head, from + start, count);
                    gemm(q, &*k, scores, stride, Epilogue::default(), Threads::One);
                    let mut totals = [0.0; QUERIES];
                    for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
                        row[tokens..].fill(f32::NEG_INFINITY);
                        let (total, max) = exponentials(row, scale);
                        totals[i] = total;
                        if let Some(lse) = &mut lse {
                            lse[head][start + i] = max + total.ln();
                        }
                    }
                    let out = &mut out[start * width + head * h.size..];
                    let scores = Mat::strided(scores, count, tokens, stride);
                    gemm(scores, &*v, out, width, Epilogue::default(), Threads::One);
                    for (row, total) in out.chunks_mut(width).zip(&totals[..count]) {
                        let inverse = 1.0 / total;
                        row[..h.size].iter_mut().for_each(|x| *x *= inverse);
                    }
                }
            }
        });
    };
    let outs: Vec<&mut [f32]> = out
        .chunks_exact_mut(tokens * width)
        .flat_map(|image| image.chunks_mut(queries * width))
        .collect();
    match lse {
        None => outs.into_par_iter().enumerate().for_each(|(g, out)| task(g, out, None)),
        Some(lse) => {
            // (B, H, N): the queries of a group of every head of its image.
            let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
            for image in lse.chunks_exact_mut(h.heads * tokens) {
                let first = parts.len();
                parts.extend((0..groups).map(|_| Vec::with_capacity(h.heads)));
                for head in image.chunks_exact_mut(tokens) {
                    for (g, part) in head.chunks_mut(queries).enumerate() {
                        parts[first + g].push(part);
                    }
                }
            }
            let groups = outs.into_par_iter().zip(parts).enumerate();
            groups.for_each(|(g, (out, lse))| task(g, out, Some(lse)));
        }
    }
}

pub(crate) fn attention_backward(
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
    h: Heads,
) {
    let (tokens, width) = (h.tokens, h.width());
    let scale = 1.0 / (h.size as f32).sqrt();
    let image_len = tokens * width;
    dqkv.par_chunks_exact_mut(3 * image_len).enumerate().for_each(|(image, dqkv)| {
        let qkv = &qkv[image * 3 * image_len..][..3 * image_len];
        let (out, dout) = (&out[image * image_len..][..image_len], &dout[image * image_len..]);
        let lse = &lse[image * h.heads * tokens..][..h.heads * tokens];
        with_scratch(tokens, |Scratch { scores: [p, ds], packed: [kt, k, vt] }| {
            for head in 0..h.heads {
                let part = |part, from, rows| h.part(qkv, part, head, from, rows);
                kt.set(part(1, 0, tokens).t(), Threads::One);
                k.set(part(1, 0, tokens), Threads::One);
                vt.set(part(2, 0, tokens).t(), Threads::One);
                for from in (0..tokens).step_by(QUERIES) {
                    let rows = QUERIES.min(tokens - from);
                    let (p, ds) = (&mut p[..rows * tokens], &mut ds[..rows * tokens]);
                    let q = part(0, from, rows);
                    let first = from * width + head * h.size;
                    let d_o = Mat::strided(&dout[first..], rows, h.size, width);
                    gemm(q, &*kt, p, tokens, Epilogue::default(), Threads::One);
                    gemm(d_o, &*vt, ds, tokens, Epilogue::default(), Threads::One);
                    let pairs = p.chunks_exact_mut(tokens).zip(ds.chunks_exact_mut(tokens));
                    for (i, (p, ds)) in pairs.enumerate() {
                        let at = first + i * width;
                        let delta = dot(&out[at..][..h.size], &dout[at..][..h.size]);
                        softmax_backward(p, ds, lse[head * tokens + from + i], delta, scale);
                    }
                    let (p, ds) = (Mat::new(p, rows, tokens), Mat::new(ds, rows, tokens));
                    let dq = &mut dqkv[from * 3 * width + head * h.size..];
                    gemm(ds, &*k, dq, 3 * width, Epilogue::default(), Threads::One);
                    for (part, a, b) in [(1, ds.t(), q), (2, p.t(), d_o)] {
                        let out = &mut dqkv[part * width + head * h.size..];
                        let epilogue = Epilogue { accumulate: from > 0, ..Default::default() };
                        gemm(a, b, out, 3 * width, epilogue, Threads::One);
                    }
                }
            }
        });
    });
}

/// row = exp(scale·row − its largest), for a row of whole vectors; returns the row's sum and the largest of scale·row.
#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn exponentials(row: &mut [f32], scale: f32) -> (f32, f32) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    let (chunks, _) = row.as_chunks_mut::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in &*chunks {
        for (l, &x) in lanes.iter_mut().zip(chunk) {
            *l = if x > *l { x } else { *l };
        }
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
    }
    let max = scale * lanes[0];
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp::<FMA>(scale * *x - max);
            *sum += *x;
        }
    }
    (reduce(sums), max)
}

/// p: scores → probabilities; ds: dP → dS = scale·P∘(dP − delta).
#[multiversion(targets("x86_64+avx512f+avx512dq+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn softmax_backward(p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    for (p, ds) in p.iter_mut().zip(ds) {
        *p = exp::<FMA>(scale * *p - lse);
        *ds = scale * *p * (*ds - delta);
    }
}
