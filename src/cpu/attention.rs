//! Attention on the host.

use std::cell::Cell;

use multiversion::multiversion;
use rayon::prelude::*;

use super::gemm::{Epilogue, Mat, Threads, gemm};
use super::math::{dot, exp, sum};

/// Queries whose scores one task holds.
const QUERIES: usize = 256;

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

    /// Rows of one head of a tensor (N, H·d).
    fn rows(self, x: &[f32], head: usize, rows: usize) -> Mat<'_> {
        Mat::strided(&x[head * self.size..], rows, self.size, self.width())
    }
}

thread_local! {
    static SCRATCH: Cell<[Vec<f32>; 3]> = const { Cell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Calls `f` with buffers of `len` numbers of any value, kept by the thread.
fn with_scratch(len: usize, f: impl FnOnce([&mut [f32]; 3])) {
    let mut buffers = SCRATCH.take();
    for b in &mut buffers {
        if b.len() < len {
            b.resize(len, 0.0);
        }
    }
    f(buffers.each_mut().map(|b| &mut b[..len]));
    SCRATCH.set(buffers);
}

pub(crate) fn attention(qkv: &[f32], out: &mut [f32], lse: Option<&mut [f32]>, h: Heads) {
    let (tokens, width) = (h.tokens, h.width());
    let images = out.len() / (tokens * width);
    if images == 0 {
        return;
    }
    // A single image's queries are shared out between threads. Groups are never so small that the
    // product takes another path, so that rows do not depend on how they are grouped.
    let share = if images == 1 && tokens >= 128 { 2 } else { 1 };
    let queries = tokens.div_ceil(tokens.div_ceil(QUERIES).max(share));
    let groups = tokens.div_ceil(queries);
    let scale = 1.0 / (h.size as f32).sqrt();
    let task = |group: usize, out: &mut [f32], mut lse: Option<Vec<&mut [f32]>>| {
        let (image, from) = (group / groups, group % groups * queries);
        let rows = out.len() / width;
        let qkv = &qkv[image * tokens * 3 * width..][..tokens * 3 * width];
        with_scratch(rows * tokens, |[scores, ..]| {
            for head in 0..h.heads {
                let (q, k) = (h.part(qkv, 0, head, from, rows), h.part(qkv, 1, head, 0, tokens));
                gemm(q, k.t(), scores, tokens, Epilogue::default(), Threads::One);
                for (i, row) in scores.chunks_exact_mut(tokens).enumerate() {
                    let l = softmax(row, scale);
                    if let Some(lse) = &mut lse {
                        lse[head][i] = l;
                    }
                }
                let v = h.part(qkv, 2, head, 0, tokens);
                let out = &mut out[head * h.size..];
                let scores = Mat::new(scores, rows, tokens);
                gemm(scores, v, out, width, Epilogue::default(), Threads::One);
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
        with_scratch(tokens * tokens, |[p, ds, _]| {
            for head in 0..h.heads {
                let part = |i| h.part(qkv, i, head, 0, tokens);
                let (q, k, v) = (part(0), part(1), part(2));
                let d_o = h.rows(dout, head, tokens);
                gemm(q, k.t(), p, tokens, Epilogue::default(), Threads::One);
                gemm(d_o, v.t(), ds, tokens, Epilogue::default(), Threads::One);
                let lse = &lse[(image * h.heads + head) * tokens..][..tokens];
                for (i, &lse) in lse.iter().enumerate() {
                    let at = i * width + head * h.size;
                    let delta = dot(&out[at..][..h.size], &dout[at..][..h.size]);
                    let rows = i * tokens..(i + 1) * tokens;
                    let (p, ds) = (&mut p[rows.clone()], &mut ds[rows]);
                    softmax_backward(p, ds, lse, delta, scale);
                }
                let (p, ds) = (Mat::new(p, tokens, tokens), Mat::new(ds, tokens, tokens));
                for (part, a, b) in [(0, ds, k), (1, ds.t(), q), (2, p.t(), d_o)] {
                    let out = &mut dqkv[part * width + head * h.size..];
                    gemm(a, b, out, 3 * width, Epilogue::default(), Threads::One);
                }
            }
        });
    });
}

/// row = softmax(scale·row); returns the log-sum-exp of scale·row.
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn softmax(row: &mut [f32], scale: f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in row.chunks(16) {
        for (l, &x) in lanes.iter_mut().zip(chunk) {
            *l = if x > *l { x } else { *l };
        }
    }
    let max = scale * lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = exp(scale * *x - max);
    }
    let total = sum(row);
    let inverse = 1.0 / total;
    for x in row.iter_mut() {
        *x *= inverse;
    }
    max + total.ln()
}

/// p: scores → probabilities; ds: dP → dS = scale·P∘(dP − delta).
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn softmax_backward(p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32) {
    for (p, ds) in p.iter_mut().zip(ds) {
        *p = exp(scale * *p - lse);
        *ds = scale * *p * (*ds - delta);
    }
}
