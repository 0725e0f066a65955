//! What networks of AdaLN-Zero have in common, whatever their branches compute.
//!
//! Such a network is a chain of sites along a residual stream. Site k joins branch k − 1 to the stream, normalises and
//! modulates it (one AdaLN-Zero operation) and feeds branch k; the last site feeds the output layer. All modulation
//! vectors come from one linear layer: of its output, chunks 3k and 3k + 1 are site k's shift and scale, and chunk
//! 3k + 2 is the gate by which site k + 1 joins branch k.

mod chain;
mod init;
mod layers;
mod sites;

pub(super) use chain::{Backward, Chain, trainable};
pub(super) use init::fresh;
pub(super) use layers::{table_layer, time_layers};
pub(super) use sites::{Lists, slot, slot_mut};

use super::Use;
use crate::error::{Error, Result};
use crate::ops::kernels::{self, WIDEST, WIDEST_BACKWARD};
use crate::tensor::Device;
use crate::types::Precision;

/// Whether a device can be used and has kernels for sites of this width: on a GPU there are for multiples of 8 up to
/// 8192, gradients up to 4096. `more` is asked of a GPU in between.
pub(super) fn require(
    op: &'static str,
    width: usize,
    (device, purpose, precision): (Device, Use, Precision),
    more: impl FnOnce() -> Result<()>,
) -> Result<()> {
    device.require()?;
    precision.require(op, device)?;
    if device == Device::Cpu {
        return Ok(());
    }
    kernels::require(op, "width", width, 8, WIDEST)?;
    more()?;
    if purpose == Use::Training && width > WIDEST_BACKWARD {
        let expected = format!("up to {WIDEST_BACKWARD} for training on a GPU");
        return Err(Error::argument(op, "width", expected, width));
    }
    Ok(())
}
