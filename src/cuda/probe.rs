//! What this machine has of CUDA, and what to install.
//!
//! cudarc panics where it finds no library, so that nothing of it may be called before [`probe`] has
//! opened the library. Libraries outside the loader's path are opened by their own path and stay
//! open: the loader then finds them by name, and so does cudarc.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

use glob::{Pattern, glob};

use crate::error::{Error, Result};

/// The oldest version of everything.
const OLDEST: Version = (12, 0);
/// The oldest compute capability.
const OLDEST_GPU: (i32, i32) = (8, 0);

type Version = (u32, u32);

/// The functions that the backend calls: cudarc looks each up at its first call, and panics without.
const DRIVER: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD16Async",
    "cuMemsetD32Async",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];
const NVRTC: &[&str] = &[
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetPTX",
    "nvrtcGetPTXSize",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
];
const CUBLASLT: &[&str] = &[
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// What was found of CUDA.
#[derive(Clone, Debug)]
pub struct Probe {
    /// NVIDIA's driver, and the CUDA version it is for.
    pub driver: Library,
    /// The compiler of kernels.
    pub nvrtc: Library,
    /// Matrix products.
    pub cublaslt: Library,
    /// The GPUs that the driver shows.
    pub gpus: Vec<Gpu>,
    /// The places that were searched, in order: what each is, and its folders.
    pub places: Vec<(String, Vec<PathBuf>)>,
}

/// A library that the backend needs.
#[derive(Clone, Debug)]
pub struct Library {
    /// What it is called.
    pub name: &'static str,
    /// Its version, if it was found and has the functions of the library.
    pub version: Option<(u32, u32)>,
    /// The file, if it was found and is known.
    pub path: Option<PathBuf>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// The command or page that installs it.
    pub install: &'static str,
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Its number, N of `cuda:N`.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability; kernels are compiled for sm_`major``minor`.
    pub capability: (i32, i32),
    /// Bytes of memory, if the driver tells.
    pub memory: Option<usize>,
}

impl Probe {
    /// Whether the GPU `ordinal` can be used.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with the reason and what to install.
    pub fn require(&self, ordinal: usize) -> Result<()> {
        let refuse = |what: String, why: String| Err(Error::Unavailable { what, why });
        let device = format!("cuda:{ordinal}");
        for library in [&self.driver, &self.nvrtc, &self.cublaslt] {
            if let Some(problem) = &library.problem {
                let why = library.complaint(problem);
                return refuse(device, why);
            }
        }
        match self.gpus.get(ordinal) {
            None if self.gpus.is_empty() => refuse(device, "the driver shows no GPU".into()),
            None => {
                let last = self.gpus.len() - 1;
                refuse(device, format!("the GPUs here are cuda:0 to cuda:{last}"))
            }
            Some(gpu) if gpu.capability < OLDEST_GPU => {
                let (major, minor) = gpu.capability;
                let why = format!(
                    "{} has compute capability {major}.{minor}, and the kernels need 8.0 \
                     (Ampere) or newer; use the device `cpu`",
                    gpu.name
                );
                refuse(device, why)
            }
            Some(_) => Ok(()),
        }
    }
}

/// Looks for CUDA, once in a process. Never fails and never panics: what is missing is part of the
/// answer.
pub fn probe() -> &'static Probe {
    static PROBE: OnceLock<Probe> = OnceLock::new();
    PROBE.get_or_init(search)
}

/// A version in words.
fn words((major, minor): Version) -> String {
    format!("{major}.{minor}")
}

fn search() -> Probe {
    let places = places();
    let folders: Vec<&Path> = places.iter().flat_map(|(_, f)| f).map(PathBuf::as_path).collect();

    let mut driver = Library::new("NVIDIA's driver", INSTALL_DRIVER);
    let mut gpus = Vec::new();
    if let Some(open) = open(&["cuda", "nvcuda"], &[], &[], cuda_is_present) {
        driver.version = driver_version(open);
        driver.examine(open, "libcuda.so", DRIVER, None);
        if driver.problem.is_none() {
            match list_gpus(open) {
                Ok(list) => gpus = list,
                Err(why) => driver.problem = Some(why),
            }
        }
    }
    // Libraries of a newer major version than the driver's make kernels that it cannot load.
    let majors: &[u32] = match driver.version {
        Some((12, _)) => &[12],
        _ => &[13, 12],
    };
    let install = |of_12, of_13| if majors == [12] { of_12 } else { of_13 };

    let mut nvrtc = Library::new(
        "NVRTC",
        install("pip install nvidia-cuda-nvrtc-cu12", "pip install nvidia-cuda-nvrtc"),
    );
    if let Some(open) = open(&["nvrtc"], &folders, majors, nvrtc_is_present) {
        nvrtc.version = nvrtc_version(open);
        nvrtc.examine(open, "libnvrtc.so", NVRTC, driver.version);
    }
    let mut cublaslt = Library::new(
        "cuBLASLt",
        install("pip install nvidia-cublas-cu12", "pip install nvidia-cublas"),
    );
    if let Some(open) = open(&["cublasLt"], &folders, majors, cublaslt_is_present) {
        cublaslt.version = cublaslt_version(open);
        cublaslt.examine(open, "libcublasLt.so", CUBLASLT, driver.version);
    }
    Probe { driver, nvrtc, cublaslt, gpus, places }
}

const INSTALL_DRIVER: &str =
    "https://www.nvidia.com/drivers, or on Ubuntu: sudo ubuntu-drivers install";

impl Library {
    fn new(name: &'static str, install: &'static str) -> Self {
        Self { name, version: None, path: None, problem: Some("was not found".into()), install }
    }

    /// The problem, and what to do about it.
    pub(super) fn complaint(&self, problem: &str) -> String {
        format!("{} {problem}; to install it: {}", self.name, self.install)
    }

    /// The library's name and version.
    pub(super) fn name_and_version(&self) -> String {
        match self.version {
            Some(version) => format!("{} {}", self.name, words(version)),
            None => self.name.into(),
        }
    }

    /// Notes where the opened library is and whether its version can be used.
    fn examine(
        &mut self,
        library: &libloading::Library,
        file: &str,
        functions: &[&str],
        driver: Option<Version>,
    ) {
        self.path = mapped(file);
        // SAFETY: the functions are looked up and not called.
        let has = |name: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(**name) }.is_ok();
        let lacking = functions.iter().find(|name| !has(name));
        self.problem = match (self.version, driver) {
            (None, _) => Some("does not have the functions expected of it".into()),
            (Some(v), _) if v < OLDEST => {
                Some(format!("is of version {}; {} or newer is needed", words(v), words(OLDEST)))
            }
            (Some(v), Some(driver)) if v.0 > driver.0 => Some(format!(
                "is of version {}, too new for the driver's CUDA {}",
                words(v),
                words(driver)
            )),
            _ => lacking.map(|function| format!("lacks the function {function}")),
        };
    }
}

/// Opens a library: by the names that cudarc tries, then by its files in `folders`. It stays open.
fn open(
    names: &[&str],
    folders: &[&Path],
    majors: &[u32],
    is_present: fn() -> bool,
) -> Option<&'static libloading::Library> {
    let by_name = names.iter().flat_map(|name| cudarc::get_lib_name_candidates(name));
    let in_folders = folders.iter().flat_map(|folder| {
        names.iter().flat_map(move |name| {
            majors.iter().map(move |major| folder.join(format!("lib{name}.so.{major}")))
        })
    });
    let paths = by_name.map(PathBuf::from).chain(in_folders.filter(|path| path.exists()));
    for path in paths {
        // SAFETY: the initialisers of NVIDIA's libraries have no requirements on their caller.
        if let Ok(library) = unsafe { libloading::Library::new(&path) } {
            let library = Box::leak(Box::new(library));
            if is_present() {
                return Some(library);
            }
        }
    }
    None
}

fn cuda_is_present() -> bool {
    // SAFETY: the library is opened and closed; no symbol of it is called.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

fn nvrtc_is_present() -> bool {
    // SAFETY: as above.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

fn cublaslt_is_present() -> bool {
    // SAFETY: as above.
    unsafe { cudarc::cublaslt::sys::is_culib_present() }
}

/// Folders besides the loader's path, in the order in which they are searched.
fn places() -> Vec<(String, Vec<PathBuf>)> {
    let loader = match env::var("LD_LIBRARY_PATH") {
        Ok(path) if !path.is_empty() => format!("the loader's path and LD_LIBRARY_PATH={path}"),
        _ => "the loader's path".into(),
    };
    let mut places = vec![(loader, Vec::new())];
    let toolkit = |root: &Path| -> Vec<PathBuf> {
        ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"]
            .iter()
            .map(|folder| root.join(folder))
            .filter(|folder| folder.is_dir())
            .collect()
    };
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match set("CUDA_PATH") {
        Some(root) => places.push((format!("CUDA_PATH={}", root.display()), toolkit(&root))),
        None => places.push(("CUDA_PATH (not set)".into(), Vec::new())),
    }
    places.push(("/usr/local/cuda".into(), toolkit(Path::new("/usr/local/cuda"))));
    match set("VIRTUAL_ENV") {
        Some(root) => places.push((format!("VIRTUAL_ENV={}", root.display()), wheels(&[root]))),
        None => places.push(("VIRTUAL_ENV (not set)".into(), Vec::new())),
    }
    match on_path("python3") {
        Some(python) => {
            let name = format!("the packages of {}", python.display());
            places.push((name, wheels(&prefixes(&python))));
        }
        None => places.push(("python3 (not on the PATH)".into(), Vec::new())),
    }
    places
}

/// Folders of libraries that pip installed below the prefixes.
fn wheels(prefixes: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders = BTreeSet::new();
    for prefix in prefixes {
        let prefix = Pattern::escape(&prefix.to_string_lossy());
        // The second is that of a prefix of pyenv's.
        for packages in ["lib/python3*/*-packages", "versions/*/lib/python3*/*-packages"] {
            let found = glob(&format!("{prefix}/{packages}/nvidia/*/lib"));
            folders.extend(found.into_iter().flatten().flatten());
        }
    }
    folders.into_iter().collect()
}

/// Where the packages of an interpreter can be: its own prefix, and those of the system's and the
/// user's additions.
fn prefixes(python: &Path) -> Vec<PathBuf> {
    let mut prefixes = BTreeSet::new();
    for program in [Some(python.to_path_buf()), python.canonicalize().ok()].into_iter().flatten() {
        if let Some(prefix) = program.parent().and_then(Path::parent) {
            prefixes.insert(prefix.to_path_buf());
            if prefix == Path::new("/usr") {
                prefixes.insert("/usr/local".into());
            }
        }
    }
    prefixes.extend(env::home_dir().map(|home| home.join(".local")));
    prefixes.into_iter().collect()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The file behind a library of this process.
fn mapped(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path =
        maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|path| {
            Path::new(path).file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
        })?;
    Some(path.into())
}

/// Calls the function `name` of a library, of the type that `$call` gives it.
macro_rules! symbol {
    ($library:expr, $name:ident: fn($($arg:ty),*) -> $out:ty) => {
        // SAFETY: the type is that of the function in NVIDIA's headers, in every version from 11 on.
        unsafe {
            $library.get::<unsafe extern "C" fn($($arg),*) -> $out>(stringify!($name)).ok()
        }
    };
}

fn driver_version(library: &libloading::Library) -> Option<Version> {
    let get = symbol!(library, cuDriverGetVersion: fn(*mut c_int) -> c_int)?;
    let mut version = 0;
    // SAFETY: the driver writes one number, and may be asked before it is initialised.
    let status = unsafe { get(&mut version) };
    (status == 0).then_some((version as u32 / 1000, version as u32 % 1000 / 10))
}

fn nvrtc_version(library: &libloading::Library) -> Option<Version> {
    let get = symbol!(library, nvrtcVersion: fn(*mut c_int, *mut c_int) -> c_int)?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the compiler writes two numbers.
    let status = unsafe { get(&mut major, &mut minor) };
    (status == 0).then_some((major as u32, minor as u32))
}

fn cublaslt_version(library: &libloading::Library) -> Option<Version> {
    let get = symbol!(library, cublasLtGetVersion: fn() -> usize)?;
    // SAFETY: the function has no arguments and no requirements.
    let version = unsafe { get() } as u32;
    Some((version / 10_000, version % 10_000 / 100))
}

/// The driver's GPUs, or why it shows none.
fn list_gpus(library: &libloading::Library) -> Result<Vec<Gpu>, String> {
    const CAPABILITY_MAJOR: c_int = 75;
    const CAPABILITY_MINOR: c_int = 76;
    let missing = || "does not have the functions expected of it".to_string();
    let init = symbol!(library, cuInit: fn(u32) -> c_int).ok_or_else(missing)?;
    let count = symbol!(library, cuDeviceGetCount: fn(*mut c_int) -> c_int).ok_or_else(missing)?;
    let get = symbol!(library, cuDeviceGet: fn(*mut c_int, c_int) -> c_int).ok_or_else(missing)?;
    let name = symbol!(library, cuDeviceGetName: fn(*mut c_char, c_int, c_int) -> c_int)
        .ok_or_else(missing)?;
    let attribute = symbol!(library, cuDeviceGetAttribute: fn(*mut c_int, c_int, c_int) -> c_int)
        .ok_or_else(missing)?;
    let error = symbol!(library, cuGetErrorName: fn(c_int, *mut *const c_char) -> c_int);
    let memory = symbol!(library, cuDeviceTotalMem_v2: fn(*mut usize, c_int) -> c_int);
    // SAFETY: the calls initialise the driver and then ask it for numbers and a text, each written
    // to a variable of its type and size.
    unsafe {
        match init(0) {
            0 => {}
            100 => return Ok(Vec::new()),
            code => {
                let mut name = std::ptr::null();
                let known = error.is_some_and(|get| get(code, &mut name) == 0 && !name.is_null());
                return Err(match known {
                    true => {
                        format!("cannot be started: {}", CStr::from_ptr(name).to_string_lossy())
                    }
                    false => format!("cannot be started: error {code}"),
                });
            }
        }
        let mut gpus = Vec::new();
        let mut n = 0;
        if count(&mut n) != 0 {
            return Ok(gpus);
        }
        for ordinal in 0..n {
            let (mut device, mut text) = (0, [0 as c_char; 256]);
            let (mut major, mut minor, mut bytes) = (0, 0, 0);
            if get(&mut device, ordinal) != 0
                || name(text.as_mut_ptr(), text.len() as c_int - 1, device) != 0
                || attribute(&mut major, CAPABILITY_MAJOR, device) != 0
                || attribute(&mut minor, CAPABILITY_MINOR, device) != 0
            {
                return Err(format!("does not describe GPU {ordinal}"));
            }
            let known = memory.as_ref().is_some_and(|get| get(&mut bytes, device) == 0);
            gpus.push(Gpu {
                ordinal: ordinal as usize,
                name: CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned(),
                capability: (major, minor),
                memory: known.then_some(bytes),
            });
        }
        Ok(gpus)
    }
}
