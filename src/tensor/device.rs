//! What devices can be used, and their names.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::types::{Device, Precision, Products};

impl Device {
    /// The fastest device that this machine and this version can use; never panics. Why a GPU was
    /// passed over goes to the log. One with which only an environment variable is wrong is not: what uses it says so.
    pub fn best() -> Self {
        match Device::Cuda(0).require() {
            Ok(()) | Err(Error::Argument { .. }) => Device::Cuda(0),
            Err(why) => {
                log::info!("computing on the CPU: {why}");
                Device::Cpu
            }
        }
    }

    /// Whether the device can be used.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with the reason and what to do about it; [`Error::Cuda`] or
    /// [`Error::OutOfMemory`] if a GPU fails; [`Error::Argument`] if the environment variable
    /// `INVAD_CPU` names a unit that the processor has not, or `INVAD_LINEAR` nothing that a GPU can
    /// compute linear layers by.
    pub fn require(self) -> Result<()> {
        match self {
            Device::Cpu => crate::processor::require(),
            Device::Cuda(ordinal) => crate::cuda::context(ordinal).map(drop),
        }
    }
}

impl Precision {
    /// Whether a device has all operations for it; `op` is what needs them.
    ///
    /// # Errors
    /// [`Error::Argument`] if it has not; [`Error::Unavailable`] if it does not multiply its products' numbers.
    pub fn require(self, op: &'static str, device: Device) -> Result<()> {
        let (own, got) = (Self::of(device).dtype(), self.dtype());
        if own != got {
            let expected = format!("{own:?} on {device}");
            return Err(Error::argument(op, "precision", expected, format!("{got:?}")));
        }
        match (device, self.products()) {
            (_, None | Some(Products::Int8)) | (Device::Cpu, Some(Products::Bf16)) => Ok(()),
            (_, Some(products)) => Err(Error::Unavailable {
                what: format!("a network that multiplies {products} on {device}"),
                why: "there are those of int8 on all devices, and of bf16 on the CPU".into(),
            }),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda`, `cuda:1` or `best`.
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            "best" => Ok(Device::best()),
            _ => {
                s.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Device::Cuda).ok_or_else(
                    || Error::argument("Device", "name", "cpu, cuda, cuda:N or best", s),
                )
            }
        }
    }
}
