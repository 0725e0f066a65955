//! `kernels/concat.cu`, in both directions.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorView, TensorViewMut};

/// y = (a, b), all in f32 or all in f16.
pub(crate) fn concat(
    a: TensorView,
    b: TensorView,
    y: TensorViewMut,
    channels: [usize; 2],
) -> Result<()> {
    let op = Op::new("concat", "a", a.on_cuda())?;
    let (dtype, count) = (op.float("a", a.dtype())?, y.len());
    let parts = [op.read("a", a, dtype)?, op.read("b", b, dtype)?];
    let y = op.write("y", y, dtype)?;
    launch(&op, [("a", parts[0]), ("b", parts[1]), ("y", y)], dtype, channels, count, false)
}

/// (da, db) = dy, all in f32 or all in f16.
pub(crate) fn concat_backward(
    dy: TensorView,
    da: TensorViewMut,
    db: TensorViewMut,
    channels: [usize; 2],
) -> Result<()> {
    let op = Op::new("concat_backward", "dy", dy.on_cuda())?;
    let (dtype, count) = (op.float("dy", dy.dtype())?, dy.len());
    let parts = [op.write("da", da, dtype)?, op.write("db", db, dtype)?];
    let dy = op.read("dy", dy, dtype)?;
    launch(&op, [("da", parts[0]), ("db", parts[1]), ("dy", dy)], dtype, channels, count, true)
}

/// Between a, b and y of `count` numbers.
fn launch(
    op: &Op,
    [a, b, y]: [(&'static str, u64); 3],
    dtype: DType,
    channels: [usize; 2],
    count: usize,
    split: bool,
) -> Result<()> {
    let vector = 16 / dtype.size();
    for ((arg, _), channels) in [a, b].into_iter().zip(channels) {
        if !channels.is_multiple_of(vector) {
            let expected = format!("channels in a multiple of {vector}, on a GPU");
            return Err(Error::argument(op.name, arg, expected, channels));
        }
    }
    let [p, q] = channels.map(|channels| channels / vector);
    let (p, q, n) = (op.int(a.0, p)?, op.int(b.0, q)?, count / vector);
    let [a, b] = [a, b].map(|(arg, address)| op.aligned(arg, address));
    let (y, of_n) = (op.aligned(y.0, y.1)?, op.int(y.0, n)?);
    let launch = Launch { grid: [n.div_ceil(256), 1, 1], block: 256, shared: 0 };
    let args = args![a?, b?, y, p, q, of_n, i32::from(split)];
    // SAFETY: a and b have p and q vectors for each row of p + q vectors of y, which has n in all.
    unsafe { op.launch("concat", &[], launch, &args) }
}
