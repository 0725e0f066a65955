//! `kernels/attention.cu` and `kernels/attention_tiled.cu`.

use super::Op;
use crate::cuda::launch::{Define, Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Head sizes that there are kernels for; others use the next larger one.
const BUCKETS: [usize; 6] = [32, 64, 96, 128, 192, 256];
/// The largest head size.
pub(crate) const LARGEST_HEAD: usize = BUCKETS[BUCKETS.len() - 1];
/// The most tokens that networks may have.
pub(crate) const MOST_TOKENS: usize = 4096;
/// The most tokens whose scores fit in a block's registers.
const TOKENS: usize = 256;
/// Queries of a block.
const QUERIES: usize = 64;

pub(super) fn defines() -> Vec<Vec<Define>> {
    let of =
        |&size: &usize| [0, 1].map(|all| vec![("HEAD_SIZE", size as i64), ("TOKENS_256", all)]);
    BUCKETS.iter().flat_map(of).collect()
}

pub(super) fn defines_tiled() -> Vec<Vec<Define>> {
    BUCKETS.iter().map(|&size| vec![("HEAD_SIZE", size as i64)]).collect()
}

/// Attention in f16 from packed QKV (B, N, 3, H, d); lse is f32.
pub(crate) fn attention(
    qkv: TensorView,
    out: TensorViewMut,
    lse: Option<TensorViewMut>,
) -> Result<()> {
    const OP: &str = "attention";
    let op = Op::new(OP, "qkv", qkv.on_cuda())?;
    let &[images, tokens, _, heads, size] = qkv.shape() else {
        unreachable!("the shape has been checked")
    };
    let bucket = BUCKETS.into_iter().find(|&bucket| size <= bucket);
    let Some(bucket) = bucket.filter(|_| size.is_multiple_of(8)) else {
        let expected = "(B, N, 3, H, d) with d a multiple of 8 up to 256 on a GPU";
        return Err(Error::shape(OP, "qkv", expected, qkv.shape()));
    };
    op.int("qkv", tokens * 3 * heads * size)?;
    let qkv = op.aligned("qkv", op.read("qkv", qkv, DType::F16)?)?;
    let out = op.aligned("out", op.write("out", out, DType::F16)?)?;
    let lse = lse.map(|v| op.write("lse", v, DType::F32)).transpose()?;
    let grid = [tokens.div_ceil(QUERIES), heads, images];
    let scale = 1.0 / (size as f32).sqrt();
    let (n, h, d) = (tokens as i32, heads as i32, size as i32);
    let args = args![qkv, out, lse, n, h, d, scale];
    let head_size = ("HEAD_SIZE", bucket as i64);
    // SAFETY: qkv, out and lse have these sizes, and the kernel's constants fit them.
    unsafe {
        if tokens <= TOKENS {
            let all = ("TOKENS_256", i64::from(tokens == TOKENS && size == bucket));
            let launch = Launch { grid, block: 128, shared: 32 << 10 };
            op.launch("attention", &[head_size, all], launch, &args)
        } else {
            let keys = if bucket > 128 { 32 } else { 64 };
            let shared = (2 * bucket * (QUERIES + 2 * keys)) as u32;
            let launch = Launch { grid, block: 128, shared };
            op.launch("attention_tiled", &[head_size], launch, &args)
        }
    }
}
