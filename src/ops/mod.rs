//! Operations: one file each, with the formula, the shapes and the checks.
//!
//! Every operation writes into outputs that the caller owns. Gradients of activations are written
//! (`=`), gradients of parameters are accumulated (`+=`).
//!
//! Axes are named B (images), N (tokens), C (feature channels), D (model width), H (heads),
//! d = D/H (head size), G (grid side, N = G²).

use crate::error::{Error, Result};

mod silu;

pub use silu::{silu, silu_backward};

/// Checks that `got` is `expected`; `axes` names the expected axes in the error.
pub(crate) fn expect_shape(
    op: &'static str,
    arg: &'static str,
    got: &[usize],
    expected: &[usize],
) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(op, arg, format!("{expected:?}"), got)) }
}
