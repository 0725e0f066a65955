//! The units of the host's processor that matrix products are written for.

use std::env;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{keep, kept};

/// The units, from the widest on, by the names that the variable takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// Intel's tiles, of bytes and of bf16.
    Amx,
    /// 512-bit vectors.
    Avx512,
    /// What the crate `gemm` finds.
    Portable,
}

/// The unit that is used, in place of the widest that there is, or the one that was measured to be the fastest.
const VARIABLE: &str = "INVAD_CPU";
const NAMES: [(&str, Unit); 3] =
    [("amx", Unit::Amx), ("avx512", Unit::Avx512), ("portable", Unit::Portable)];

/// The file of what was measured.
const FILE: &str = "processor.json";

#[derive(Serialize, Deserialize)]
struct Measured {
    /// Which processor it was measured on.
    processor: String,
    unit: String,
}

impl Unit {
    /// The widest in use, for the whole life of the process.
    pub fn widest() -> Self {
        static WIDEST: LazyLock<Unit> = LazyLock::new(|| in_use(asked()));
        *WIDEST
    }

    /// The one in use for products in f32, for the whole life of the process.
    pub fn fastest() -> Self {
        static FASTEST: LazyLock<Unit> = LazyLock::new(|| in_use(asked().or_else(measured)));
        *FASTEST
    }

    /// Those that there are, the widest first.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.into_iter().map(|(_, unit)| unit).filter(|unit| unit.available())
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let found = NAMES.into_iter().find(|(_, unit)| *unit == self);
        found.map_or("", |(name, _)| name)
    }

    /// Keeps it as the fastest in f32 for processes to come.
    ///
    /// # Errors
    /// Those of [`keep`].
    pub fn keep(self, op: &'static str) -> Result<()> {
        keep(op, FILE, &Measured { processor: processor(), unit: self.name().into() }).map(drop)
    }

    fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => has_amx(),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512 => has_avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            Unit::Amx | Unit::Avx512 => false,
            Unit::Portable => true,
        }
    }
}

/// Whether the unit that the variable asks for can be had; [`Unit::widest`] passes over one that cannot.
///
/// # Errors
/// [`Error::Argument`] if it cannot.
pub(crate) fn require() -> Result<()> {
    choose(asked().as_deref()).map(drop)
}

fn asked() -> Option<String> {
    let set = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    set.map(|value| value.to_string_lossy().into_owned())
}

/// The one that was measured to be the fastest in f32 on this processor.
fn measured() -> Option<String> {
    let measured: Measured = kept(FILE)?;
    (measured.processor == processor()).then_some(measured.unit)
}

/// The one of a name if it can be had, or the widest.
fn in_use(name: Option<String>) -> Unit {
    choose(name.as_deref()).or_else(|_| choose(None)).unwrap_or(Unit::Portable)
}

/// The one of a name, or the widest that there is.
fn choose(name: Option<&str>) -> Result<Unit> {
    let available = || NAMES.iter().filter(|(_, unit)| unit.available());
    let found = available().find(|(of, _)| name.is_none_or(|name| name == *of));
    found.map(|(_, unit)| *unit).ok_or_else(|| {
        let names: Vec<_> = available().map(|(name, _)| *name).collect();
        let expected = format!("one that this processor has: {}", names.join(", "));
        Error::argument("Device::require", VARIABLE, expected, name.unwrap_or_default())
    })
}

/// The processor, by the name and the signature that it gives.
#[cfg(target_arch = "x86_64")]
fn processor() -> String {
    use std::arch::x86_64::__cpuid;

    // Miri has no CPUID.
    if !has_avx512() {
        return env::consts::ARCH.into();
    }
    // SAFETY: every processor with AVX-512 has CPUID and these leaves. Newer versions of Rust know that.
    #[allow(unused_unsafe)]
    let leaf = |number| unsafe { __cpuid(number) };
    let name = (0x8000_0002..=0x8000_0004).flat_map(|number| {
        let leaf = leaf(number);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes)
    });
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    format!("{}, {:x}", String::from_utf8_lossy(&name).trim(), leaf(1).eax)
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> String {
    env::consts::ARCH.into()
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq")
}

/// Whether there are instructions for the products of bytes in 512-bit vectors.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_vnni() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512vnni")
}

/// Whether there are instructions for the products of bf16 in 512-bit vectors.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bf16")
}

/// Whether this processor and operating system have AMX; asks the kernel for it once.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;

    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        // Asked first: where these are absent, CPUID need not be there either (Miri has none).
        if !(cfg!(target_os = "linux") && has_avx512()) {
            return false;
        }
        // SAFETY: every processor with AVX-512 has CPUID. Newer versions of Rust know that.
        #[allow(unused_unsafe)]
        let leaf = unsafe { __cpuid_count(7, 0) };
        // AMX-BF16, AMX-TILE and AMX-INT8.
        if [22, 24, 25].iter().any(|bit| leaf.edx & (1 << bit) == 0) {
            return false;
        }
        let granted: i64;
        // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA) only changes what state the kernel
        // saves for this process.
        unsafe {
            asm!(
                "syscall",
                inout("rax") 158i64 => granted,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
            );
        }
        granted == 0
    });
    *AVAILABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_chosen_by_name() {
        assert_eq!(choose(Some("portable")).unwrap(), Unit::Portable);
        assert!(choose(None).unwrap().available());
        for wrong in ["", "AMX", "sse"] {
            let error = choose(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains(VARIABLE) && error.contains("portable"), "{error}");
        }
    }
}
