//! What networks of several kinds are made of.

mod evaluation;
mod modulation;
mod uniform;
mod weights;

pub(super) use evaluation::{Evaluated, pack};
pub(super) use modulation::{Modulation, ModulationActivations, ModulationGradients};
pub(super) use uniform::uniform;
pub(super) use weights::{Packing, Source, backward, plain_backward};

use crate::error::{Error, Result};

/// Whether sizes are in the range of what can be addressed.
pub(super) fn check_sizes(
    op: &'static str,
    sizes: &[(&'static str, usize)],
    depth: usize,
) -> Result<()> {
    for &(arg, got) in sizes {
        if !(1..=1 << 14).contains(&got) {
            return Err(Error::argument(op, arg, "in 1..=16384", got));
        }
    }
    if depth > 1024 {
        return Err(Error::argument(op, "depth", "at most 1024", depth));
    }
    Ok(())
}
