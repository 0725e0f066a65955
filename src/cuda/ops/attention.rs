//! `kernels/attention.cu`, `kernels/attention_split.cu`, `kernels/attention_tiled.cu`, `kernels/attention_wgmma.cu`, and
//! `kernels/attention_backward_*.cu`.

use super::Op;
use std::env;
use std::sync::LazyLock;

use crate::cuda::context::{Limits, Linear};
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Head sizes that some kernels are compiled for; others use the next larger one.
const BUCKETS: [usize; 6] = [32, 64, 96, 128, 192, 256];
/// The largest head size.
pub(crate) const LARGEST_HEAD: usize = BUCKETS[BUCKETS.len() - 1];
/// The most tokens that networks may have.
pub(crate) const MOST_TOKENS: usize = 4096;
/// Tokens whose scores fit in a block's registers.
const TOKENS: usize = 256;
/// Queries of a block, or keys.
const ROWS: usize = 64;
/// Queries of a block of the kernel that splits keys.
const SPLIT_ROWS: usize = 32;
/// Queries of a tile of the kernel for Hopper.
const WGMMA_ROWS: usize = 128;

/// Sizes of an attention, as kernels take them.
struct Sizes {
    images: usize,
    tokens: usize,
    heads: usize,
    size: usize,
    bucket: usize,
}

impl Sizes {
    /// Of packed QKV (B, N, 3, H, d).
    fn of(op: &Op, qkv: &TensorView) -> Result<Self> {
        let &[images, tokens, _, heads, size] = qkv.shape() else {
            unreachable!("the shape has been checked")
        };
        let bucket = BUCKETS.into_iter().find(|&bucket| size <= bucket);
        let Some(bucket) = bucket.filter(|_| size.is_multiple_of(8)) else {
            let expected = "(B, N, 3, H, d) with d a multiple of 8 up to 256 on a GPU";
            return Err(Error::shape(op.name, "qkv", expected, qkv.shape()));
        };
        op.int("qkv", tokens * 3 * heads * size)?;
        Ok(Self { images, tokens, heads, size, bucket })
    }

    /// Blocks of so many rows.
    fn grid(&self, rows: usize) -> [usize; 3] {
        [self.tokens.div_ceil(rows), self.heads, self.images]
    }

    fn ints(&self) -> [i32; 3] {
        [self.tokens, self.heads, self.size].map(|n| n as i32)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}

/// Whether the variable asks for the kernel of compute capability 9.0, which only the emulated GPU has run yet.
fn takes_wgmma() -> bool {
    static ASKED: LazyLock<bool> =
        LazyLock::new(|| env::var_os("INVAD_ATTENTION").is_some_and(|value| value == "wgmma"));
    *ASKED
}

/// Attention in f16 from packed QKV (B, N, 3, H, d); lse is f32.
pub(crate) fn attention(
    qkv: TensorView,
    out: TensorViewMut,
    lse: Option<TensorViewMut>,
) -> Result<()> {
    let op = Op::new("attention", "qkv", qkv.on_cuda())?;
    let sizes = Sizes::of(&op, &qkv)?;
    let qkv = op.aligned("qkv", op.read("qkv", qkv, DType::F16)?)?;
    let out = op.aligned("out", op.write("out", out, DType::F16)?)?;
    let lse = lse.map(|v| op.write("lse", v, DType::F32)).transpose()?;
    let ([n, h, d], scale) = (sizes.ints(), sizes.scale());
    let (grid, split) = (sizes.grid(ROWS), sizes.grid(SPLIT_ROWS));
    let &Sizes { tokens, size, bucket, .. } = &sizes;
    let Limits { arch, multiprocessors, .. } = op.context.limits;
    // Every block gets a multiprocessor. It depends on the batch, and so would bits.
    let is_small =
        split.iter().product::<usize>() <= multiprocessors && op.context.linear == Linear::CublasLt;
    let args = args![qkv, out, lse, n, h, d, scale];
    let head_size = ("HEAD_SIZE", bucket as i64);
    // SAFETY: qkv, out and lse have these sizes, and the kernel's constants fit them.
    unsafe {
        if tokens <= TOKENS && is_small {
            let launch = Launch { grid: split, block: 256, shared: 92_160 };
            op.launch("attention_split", &[head_size], launch, &args)
        } else if arch == 90 && takes_wgmma() && tokens <= TOKENS && tokens > ROWS {
            // Of fewer tokens most of a tile would be empty.
            let tiles = sizes.grid(WGMMA_ROWS).iter().product::<usize>();
            let blocks = tiles.min(multiprocessors);
            let tiles = op.int("qkv", tiles + blocks)? - blocks as i32;
            let whole = tokens == TOKENS && size.is_multiple_of(64);
            let launch = Launch { grid: [blocks, 1, 1], block: 256, shared: 197_632 };
            let args = args![qkv, out, lse, n, h, d, tiles, scale];
            op.launch("attention_wgmma", &[("TOKENS_256", i64::from(whole))], launch, &args)
        } else if tokens <= TOKENS {
            let whole = tokens == TOKENS && size.is_multiple_of(32);
            let launch = Launch { grid, block: 128, shared: 32 << 10 };
            op.launch("attention", &[("TOKENS_256", i64::from(whole))], launch, &args)
        } else {
            let keys = if bucket > 128 { 32 } else { 64 };
            let shared = (2 * bucket * (ROWS + 2 * keys)) as u32;
            let launch = Launch { grid, block: 128, shared };
            op.launch("attention_tiled", &[head_size], launch, &args)
        }
    }
}

/// The gradient of attention, all in f16 but lse.
pub(crate) fn attention_backward(
    qkv: TensorView,
    out: TensorView,
    lse: TensorView,
    dout: TensorView,
    dqkv: TensorViewMut,
) -> Result<()> {
    let op = Op::new("attention_backward", "qkv", qkv.on_cuda())?;
    let sizes = Sizes::of(&op, &qkv)?;
    op.load("attention_backward_kv", &[])?;
    let qkv = op.aligned("qkv", op.read("qkv", qkv, DType::F16)?)?;
    let out = op.aligned("out", op.read("out", out, DType::F16)?)?;
    let lse = op.read("lse", lse, DType::F32)?;
    let dout = op.aligned("dout", op.read("dout", dout, DType::F16)?)?;
    let dqkv = op.aligned("dqkv", op.write("dqkv", dqkv, DType::F16)?)?;
    let ([n, h, d], scale, grid) = (sizes.ints(), sizes.scale(), sizes.grid(ROWS));
    let Sizes { images, tokens, heads, size, .. } = sizes;
    let deltas = deltas(images, tokens, heads);
    let delta = op.context.scratch(attention_backward_scratch(images, tokens, heads, size))?;
    let sums = delta + 4 * deltas as u64;
    let for_q = args![qkv, out, lse, dout, dqkv, delta, sums, n, h, d, scale];
    let for_kv = args![qkv, lse, dout, delta, dqkv, sums, n, h, d, scale];
    let launch = |shared| Launch { grid, block: 128, shared };
    // SAFETY: the tensors have these sizes, and the scratch has room for delta and sums.
    unsafe {
        op.launch("attention_backward_q", &[], launch(41_472), &for_q)?;
        op.launch("attention_backward_kv", &[], launch(43_008), &for_kv)
    }
}

/// Scratch bytes of [`attention_backward`]: a number for each query of each head, and what blocks keep from
/// one tile to the next.
pub(crate) fn attention_backward_scratch(
    images: usize,
    tokens: usize,
    heads: usize,
    size: usize,
) -> usize {
    let kept = if tokens <= TOKENS { 0 } else { 2 * size.div_ceil(32) * ROWS * 32 };
    let blocks = images * heads * tokens.div_ceil(ROWS);
    4 * (deltas(images, tokens, heads) + kept * blocks)
}

/// Numbers of each query of each head, and a few that keep what follows aligned.
fn deltas(images: usize, tokens: usize, heads: usize) -> usize {
    (images * heads * tokens).next_multiple_of(4)
}
