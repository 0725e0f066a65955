//! The CUDA backend. Only this module names cudarc.

/// Why no CUDA device can be used, and what to do about it.
#[cfg(feature = "cuda")]
pub(crate) fn why_unavailable() -> String {
    // SAFETY: the probe only opens and closes the library; no symbol of it is called.
    if unsafe { cudarc::driver::sys::is_culib_present() } {
        "this version of invad computes on the CPU only; use the device `cpu`".into()
    } else {
        "no NVIDIA driver was found (libcuda.so.1); use the device `cpu`".into()
    }
}

/// Why no CUDA device can be used, and what to do about it.
#[cfg(not(feature = "cuda"))]
pub(crate) fn why_unavailable() -> String {
    "invad was built without its `cuda` feature; use the device `cpu`".into()
}
