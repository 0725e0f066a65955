//! Channels of two tensors side by side.

use super::expect_shape;
use crate::cpu;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// y = (a, b) along the last axis.
///
/// `a`: (…, P); `b`: (…, Q) of the same leading axes; `y`: (…, P + Q). On a GPU all hold f16 or all f32, P and Q
/// numbers that fill 16 bytes.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn concat<'a>(
    a: impl Into<TensorView<'a>>,
    b: impl Into<TensorView<'a>>,
    y: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "concat";
    let (a, b, y) = (a.into(), b.into(), y.into());
    let channels = check(OP, [("a", a.shape()), ("b", b.shape()), ("y", y.shape())])?;
    on_gpu!(a, crate::cuda::ops::concat(a, b, y, channels));
    cpu::concat(a.f32s(OP, "a")?, b.f32s(OP, "b")?, y.into_f32s(OP, "y")?, channels);
    Ok(())
}

/// The gradient of [`concat()`]: (da, db) = dy along the last axis.
///
/// Shapes and types as in [`concat()`]; `da` and `db` are written.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn concat_backward<'a>(
    dy: impl Into<TensorView<'a>>,
    da: impl Into<TensorViewMut<'a>>,
    db: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "concat_backward";
    let (dy, da, db) = (dy.into(), da.into(), db.into());
    let channels = check(OP, [("da", da.shape()), ("db", db.shape()), ("dy", dy.shape())])?;
    on_gpu!(dy, crate::cuda::ops::concat_backward(dy, da, db, channels));
    let (da, db) = (da.into_f32s(OP, "da")?, db.into_f32s(OP, "db")?);
    cpu::concat_backward(dy.f32s(OP, "dy")?, da, db, channels);
    Ok(())
}

/// P and Q.
fn check(
    op: &'static str,
    [(a_name, a), (b_name, b), (y_name, y)]: [(&'static str, &[usize]); 3],
) -> Result<[usize; 2]> {
    let (Some((&p, leading)), Some(&q)) = (a.split_last(), b.last()) else {
        let (arg, got) = if a.is_empty() { (a_name, a) } else { (b_name, b) };
        return Err(Error::shape(op, arg, "(…, channels)", got));
    };
    expect_shape(op, b_name, b, &[leading, &[q]].concat())?;
    expect_shape(op, y_name, y, &[leading, &[p.saturating_add(q)]].concat())?;
    Ok([p, q])
}
