//! The GPU that tests compute on: a real one, or the emulated one of `tests/emulator`.
//!
//! `INVAD_TEST_DEVICE` picks: `cuda` a real GPU, `emulated` the emulated one, `cpu` none. Without it
//! tests use a GPU where there is one, and else the emulated one.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use invad::Device;

/// The GPU, or none if tests are to use the CPU alone.
pub fn gpu() -> Option<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    *GPU.get_or_init(|| match env::var("INVAD_TEST_DEVICE").as_deref() {
        Ok("cpu") => None,
        Ok("cuda") => Some(Device::Cuda(0)),
        Ok("emulated") => Some(emulated()),
        Ok(other) => panic!("INVAD_TEST_DEVICE should be cpu, emulated or cuda, got {other}"),
        Err(_) if Path::new("/dev/nvidia0").exists() => Some(Device::Cuda(0)),
        Err(_) => Some(emulated()),
    })
}

/// Whether the GPU is emulated.
pub fn is_emulated() -> bool {
    gpu().is_some() && LOADED.get().is_some()
}

static LOADED: OnceLock<PathBuf> = OnceLock::new();

/// The most bytes of the emulated GPU that were allocated at once since the last call.
pub fn peak_memory() -> usize {
    let library = LOADED.get().expect("the emulated GPU is in use").join("libcuda.so.1");
    // SAFETY: it has been loaded before; the function takes a place for the number.
    unsafe {
        let library = libloading::Library::new(library).expect("it has been loaded before");
        let peak: libloading::Symbol<unsafe extern "C" fn(*mut usize) -> i32> =
            library.get(b"invadEmulatorPeakMemory").expect("the emulation's own");
        let mut bytes = 0;
        assert_eq!(peak(&mut bytes), 0);
        bytes
    }
}

/// Has allocations of the emulated GPU of `ends.last()` numbers consist of parts that end there: a
/// launch that touches one which it was not given fails, or computes NaN.
pub fn parts(ends: &[usize]) {
    let library = LOADED.get().expect("the emulated GPU is in use").join("libcuda.so.1");
    // SAFETY: it has been loaded before; the function reads as many numbers as it is told.
    unsafe {
        let library = libloading::Library::new(library).expect("it has been loaded before");
        let parts: libloading::Symbol<unsafe extern "C" fn(*const usize, usize) -> i32> =
            library.get(b"invadEmulatorParts").expect("the emulation's own");
        assert_eq!(parts(ends.as_ptr(), ends.len()), 0);
    }
}

/// Builds the stand-ins for NVIDIA's libraries, if that has not been done, and has the process use
/// them.
fn emulated() -> Device {
    let folder = build();
    if env::var_os("INVAD_KERNEL_CACHE").is_none() {
        // SAFETY: this runs once, before anything that reads the environment in another language.
        unsafe { env::set_var("INVAD_KERNEL_CACHE", folder.join("kernels")) };
    }
    for library in ["libcuda.so.1", "libnvrtc.so.12", "libcublasLt.so.12"] {
        // SAFETY: the stand-ins have no requirements on their caller.
        let library = unsafe { libloading::Library::new(folder.join(library)) };
        // They stay loaded, so that later look-ups by name find them.
        std::mem::forget(library.unwrap_or_else(|e| panic!("the emulated device: {e}")));
    }
    LOADED.set(folder).ok();
    Device::Cuda(0)
}

/// The folder of the stand-ins for these sources and this compiler.
pub fn build() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
    let mut hasher = DefaultHasher::new();
    // The stand-ins know where the sources are.
    sources.hash(&mut hasher);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&sources).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files {
        fs::read(file).unwrap().hash(&mut hasher);
    }
    for variable in ["CXX", "INVAD_EMULATOR_CXXFLAGS"] {
        env::var_os(variable).hash(&mut hasher);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join(format!("emulator-{:016x}", hasher.finish()));
    let done = folder.join("done");
    if done.exists() {
        return folder;
    }
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    if !done.exists() {
        let ran = Command::new("sh")
            .arg(sources.join("build.sh"))
            .arg(&folder)
            // Sanitizers have no business in the compiler.
            .env_remove("LD_PRELOAD")
            .output();
        let ran = ran.unwrap_or_else(|e| panic!("sh cannot be run: {e}"));
        assert!(
            ran.status.success(),
            "the emulated device needs a C++ compiler (INVAD_TEST_DEVICE=cpu does without):\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        fs::write(&done, "").unwrap();
    }
    folder
}
