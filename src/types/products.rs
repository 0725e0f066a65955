//! What linear layers multiply.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::EightBits;

/// What linear layers multiply in place of the device's own numbers; sums have at least the precision of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Products {
    /// [`EightBits::Int8`], by a scale of each row of x and of the weight.
    Int8,
    /// [`EightBits::E4m3`], in the same way.
    Fp8,
    /// Numbers rounded to bf16.
    Bf16,
}

impl Products {
    /// All of them, by their names.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Fp8, Self::Bf16];

    /// Its name: what the file of a detector and `train --precision` call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
            Self::Bf16 => "bf16",
        }
    }

    /// The format of codes, where it is one of them.
    pub fn eight_bits(self) -> Option<EightBits> {
        match self {
            Self::Int8 => Some(EightBits::Int8),
            Self::Fp8 => Some(EightBits::E4m3),
            Self::Bf16 => None,
        }
    }
}

impl fmt::Display for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
