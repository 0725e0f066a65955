//! Launching kernels.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUfunction_attribute as Attribute;
use cudarc::driver::{CudaFunction, result};
use cudarc::nvrtc::Ptx;

use super::context::Context;
use super::{cache, find};
use crate::error::{Error, Result};

/// A constant that a kernel is compiled with.
pub(crate) type Define = (&'static str, i64);

/// Shared memory of a block that needs no permission.
const SHARED_BY_DEFAULT: u32 = 48 << 10;
/// The largest grid: x, y and z.
const LARGEST_GRID: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];

/// The kernels of a GPU that have been loaded.
#[derive(Default)]
pub(crate) struct Kernels(Mutex<HashMap<&'static str, Vec<Variant>>>);

/// A kernel compiled with these constants: none while it is being compiled, which the others do not wait for.
type Variant = (Box<[Define]>, Arc<Mutex<Option<Arc<Kernel>>>>);

/// A kernel, loaded on a GPU.
pub(crate) struct Kernel {
    name: &'static str,
    parameters: &'static [(&'static str, Kind)],
    function: CudaFunction,
    /// The largest block it can be launched with.
    threads: u32,
    /// Bytes of shared memory that every block has.
    static_shared: u32,
    /// Bytes that a launch may ask for on top without asking the driver first.
    dynamic_shared: Mutex<u32>,
}

/// The size of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    /// Blocks along x, y and z.
    pub grid: [usize; 3],
    /// Threads of a block along x.
    pub block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// What a kernel's parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Address,
    Int,
    Float,
    Double,
}

impl Kind {
    /// C's name of the type of a number.
    pub fn number(self) -> Option<&'static str> {
        match self {
            Self::Address => None,
            Self::Int => Some("int"),
            Self::Float => Some("float"),
            Self::Double => Some("double"),
        }
    }
}

/// An argument of a kernel, in the first bytes of a word.
#[derive(Clone, Copy)]
pub(crate) struct Arg(Kind, [u8; 8]);

impl From<u64> for Arg {
    /// An address.
    fn from(address: u64) -> Self {
        Self(Kind::Address, address.to_ne_bytes())
    }
}

impl From<Option<u64>> for Arg {
    /// An address, or null for a part that is switched off.
    fn from(address: Option<u64>) -> Self {
        address.unwrap_or(0).into()
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self(Kind::Int, word(value.to_ne_bytes()))
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self(Kind::Float, word(value.to_ne_bytes()))
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Self {
        Self(Kind::Double, value.to_ne_bytes())
    }
}

fn word([a, b, c, d]: [u8; 4]) -> [u8; 8] {
    [a, b, c, d, 0, 0, 0, 0]
}

/// `[a, b, c]` as arguments of a kernel.
macro_rules! args {
    ($($value:expr),* $(,)?) => { [$($crate::cuda::launch::Arg::from($value)),*] };
}
pub(crate) use args;

impl Kernels {
    /// A kernel compiled with `defines`, loaded at its first use.
    pub fn get(
        &self,
        context: &Context,
        name: &'static str,
        defines: &[Define],
    ) -> Result<Arc<Kernel>> {
        let variant = self.variant(name, defines);
        let mut loaded = variant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = &*loaded {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(Kernel::load(context, name, defines)?);
        Ok(loaded.insert(kernel).clone())
    }

    fn variant(&self, name: &'static str, defines: &[Define]) -> Arc<Mutex<Option<Arc<Kernel>>>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let variants = known.entry(name).or_default();
        if let Some((_, variant)) = variants.iter().find(|(d, _)| **d == *defines) {
            return variant.clone();
        }
        let variant = Arc::default();
        variants.push((defines.into(), Arc::clone(&variant)));
        variant
    }
}

impl Kernel {
    fn load(context: &Context, name: &'static str, defines: &[Define]) -> Result<Self> {
        let Some(source) = find(name) else {
            let what = format!("the kernel {name}");
            return Err(Error::Unavailable { what, why: "it is not part of this build".into() });
        };
        let cubin = cache::cubin(source, defines, context.limits.arch)?;
        let load = || {
            let stream = context.main_stream();
            stream.context().load_module(Ptx::from_binary(cubin))?.load_function(name)
        };
        let function = context.check(&format!("loading the kernel {name}"), load())?;
        let attribute = |attribute| {
            let value = function.get_attribute(attribute);
            context.check(&format!("asking about the kernel {name}"), value).map(|v| v as u32)
        };
        Ok(Self {
            threads: attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            static_shared: attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            dynamic_shared: Mutex::new(SHARED_BY_DEFAULT),
            name,
            parameters: source.parameters,
            function,
        })
    }

    /// Queues the kernel. An empty grid does nothing.
    ///
    /// # Safety
    /// What `args` and the launch's size say is true of the memory behind the addresses.
    ///
    /// # Panics
    /// If `args` are not of the number and kinds of the kernel's parameters.
    pub unsafe fn launch(&self, context: &Context, launch: Launch, args: &[Arg]) -> Result<()> {
        let Launch { grid, block, shared } = launch;
        expect_kinds(self.name, self.parameters, args);
        if grid.contains(&0) {
            return Ok(());
        }
        self.check(context, launch)?;
        context.bind()?;
        let mut pointers = [std::ptr::null_mut::<c_void>(); 32];
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.1.as_ptr().cast_mut().cast();
        }
        let [x, y, z] = grid.map(|n| n as u32);
        // SAFETY: the function is loaded; the driver copies the arguments, which the caller vouches
        // for, before it returns.
        let queued = unsafe {
            result::launch_kernel(
                self.function.cu_function(),
                (x, y, z),
                (block, 1, 1),
                shared,
                context.stream(),
                &mut pointers[..args.len()],
            )
        };
        context.check(self.name, queued)
    }

    /// Refuses what the GPU cannot launch.
    fn check(&self, context: &Context, launch: Launch) -> Result<()> {
        let Launch { grid, block, shared } = launch;
        if grid.iter().zip(LARGEST_GRID).any(|(&n, most)| n > most) {
            let expected = format!("of at most {LARGEST_GRID:?} blocks; lower the batch size");
            return Err(Error::argument(self.name, "grid", expected, format!("{grid:?}")));
        }
        if block == 0 || block > self.threads {
            let expected = format!("of 1 to {} threads", self.threads);
            return Err(Error::argument(self.name, "block", expected, block));
        }
        let most = context.limits.shared.saturating_sub(self.static_shared);
        if shared > most {
            let expected = format!("at most {most} bytes on this GPU");
            return Err(Error::argument(self.name, "shared memory", expected, shared));
        }
        let mut allowed = self.dynamic_shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared + self.static_shared > *allowed {
            context.bind()?;
            let set = self.function.set_attribute(
                Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared as i32,
            );
            context.check(self.name, set)?;
            *allowed = shared + self.static_shared;
        }
        Ok(())
    }
}

/// Holds the arguments of a launch to the parameters of the kernel's source.
fn expect_kinds(kernel: &str, parameters: &[(&str, Kind)], args: &[Arg]) {
    let kinds = args.iter().map(|arg| arg.0);
    let same = parameters.len() == args.len() && parameters.iter().map(|p| p.1).eq(kinds.clone());
    assert!(same, "{kernel}: {parameters:?} get {:?}", kinds.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_from_the_sources() {
        use Kind::{Address, Double, Float, Int};
        let of = |name| find(name).unwrap().parameters;
        let clip = [
            ("sums", Address),
            ("u", Address),
            ("norm", Address),
            ("count", Int),
            ("max_norm", Double),
        ];
        assert_eq!(of("global_norm_clip"), clip);
        let step = [("x", Address), ("output", Address), ("n", Int), ("a", Float), ("b", Float)];
        assert_eq!(of("inversion_step"), step);
        expect_kinds("inversion_step", &step, &args![1u64, 2u64, 3, 4.0f32, 5.0f32]);
    }

    #[test]
    fn other_arguments_are_refused() {
        let step = find("inversion_step").unwrap().parameters;
        for args in [
            &args![1u64, 2u64, 3, 4.0f32][..],
            &args![1u64, 2u64, 3, 4.0f32, 5.0f32, 6],
            &args![1u64, 2u64, 4.0f32, 3, 5.0f32],
            &args![1u64, 2u64, 3, 4.0f32, 5.0],
            &args![1u64, 2, 3, 4.0f32, 5.0f32],
        ] {
            let refused = std::panic::catch_unwind(|| expect_kinds("inversion_step", step, args));
            assert!(refused.is_err());
        }
    }
}
