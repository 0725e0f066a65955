//! The kernels as the operations use them.

use std::fmt;

use super::defines;
use crate::cuda::kernels;

/// A kernel with one set of the constants it can be compiled with.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The kernel.
    pub kernel: &'static str,
    /// The constants and their values.
    pub defines: Vec<(&'static str, i64)>,
}

/// Every kernel in the variants that the operations use; of the widths of `adaln_zero` a choice.
pub fn variants() -> Vec<Variant> {
    let with = |kernel| defines(kernel).into_iter().map(move |defines| Variant { kernel, defines });
    kernels().flat_map(with).collect()
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kernel)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
