//! The CUDA backend: the kernels of `kernels/`, compiled for the GPU at hand by NVRTC, and cuBLASLt
//! for matrix products.
//!
//! Nothing of CUDA is needed to build the crate. Driver, NVRTC and cuBLASLt are looked up at run
//! time ([`probe`]), of CUDA 12 or 13. Written for and tested on Linux; on Windows the libraries
//! are found where the loader finds them, and nothing there has been tested.
//!
//! | variable | effect |
//! |---|---|
//! | `INVAD_KERNEL_CACHE` | folder of compiled kernels, and of what [`measure_products`] keeps, in place of the user's cache folder; empty: none are kept |
//! | `INVAD_LINEAR` | `own`: linear layers without cuBLASLt, and no image's bits depend on its batch |
//! | `CUDA_PATH`, `VIRTUAL_ENV` | where libraries are looked for, after the loader's own path |

use std::fmt;

mod cache;
mod compile;
mod context;
mod gemm;
mod graph;
pub mod interop;
mod launch;
mod memory;
pub(crate) mod ops;
mod probe;
mod transfer;
mod tuning;

pub use compile::{Compiled, Usage, compile};
pub use graph::Graph;
use launch::{Define, Kind};
pub use probe::{Gpu, Library, Probe, probe};
pub use tuning::{Choice, Choices, measure_products};

pub(crate) use context::{context, free_memory, reserve_scratch, workspace_bytes};
pub(crate) use memory::{Memory, Slice, SliceMut};
pub(crate) use transfer::{Download, Upload};

/// A kernel's source.
struct Source {
    name: &'static str,
    hash: &'static str,
    text: &'static str,
    /// The names and kinds of its parameters, in order.
    parameters: &'static [(&'static str, Kind)],
    /// Grid, block and shared memory of a launch, in the words of the source.
    launch: [&'static str; 3],
    /// The sets of constants that operations compile it with, of some a choice.
    sets: &'static [&'static [Define]],
    /// The one architecture that it is for, if it is not for all.
    arch: Option<u32>,
}

static SOURCES: &[Source] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The names of all kernels.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|source| source.name)
}

/// The CUDA C++ of a kernel, its includes expanded.
pub fn source(kernel: &str) -> Option<&'static str> {
    find(kernel).map(|source| source.text)
}

fn find(kernel: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.name == kernel)
}

/// How a kernel is launched, in the words of its source.
#[derive(Clone, Debug)]
pub struct Contract {
    /// The kernel.
    pub kernel: &'static str,
    /// The names of the constants it is compiled with.
    pub defines: Vec<&'static str>,
    /// Blocks along x, y and z.
    pub grid: &'static str,
    /// Threads of a block.
    pub block: &'static str,
    /// Bytes of shared memory of a block that the launch asks for; empty for none.
    pub shared: &'static str,
    /// The names of the arguments, in order, and the type of those that are numbers; the others are addresses.
    pub arguments: Vec<(&'static str, Option<&'static str>)>,
}

/// How each kernel is launched.
pub fn contracts() -> Vec<Contract> {
    let of = |source: &Source| {
        let [grid, block, shared] = source.launch;
        // All sets are of the same constants.
        let defines = source.sets[0].iter().map(|define| define.0).collect();
        let arguments = source.parameters.iter().map(|&(name, kind)| (name, kind.number()));
        let arguments = arguments.collect();
        Contract { kernel: source.name, defines, grid, block, shared, arguments }
    };
    SOURCES.iter().map(of).collect()
}

/// A kernel with one set of the constants it can be compiled with.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The kernel.
    pub kernel: &'static str,
    /// The constants and their values.
    pub defines: Vec<(&'static str, i64)>,
    /// The one architecture that the kernel is for; without one it is for all.
    arch: Option<u32>,
}

impl Variant {
    /// Whether the kernel is for an architecture, which [`compile`] takes alike.
    pub fn is_for(&self, arch: u32) -> bool {
        self.arch.is_none_or(|only| only == arch)
    }
}

/// Every kernel in the variants that operations use; of the widths of `adaln_zero` and its gradient a choice.
pub fn variants() -> Vec<Variant> {
    let of = |source: &'static Source| {
        let of = |set: &&[Define]| (source.name, set.to_vec(), source.arch);
        source.sets.iter().map(of).map(|(kernel, defines, arch)| Variant { kernel, defines, arch })
    };
    SOURCES.iter().flat_map(of).collect()
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kernel)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
