//! From a kernel's source to machine code for one architecture.

use std::ffi::{CStr, CString, c_char};

use cudarc::nvrtc::result::{NvrtcError, create_program, destroy_program, get_program_log};
use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};

use super::probe::probe;
use super::{Source, find};
use crate::error::{Error, Result};

/// Options of every kernel. Line numbers are for profilers and compute-sanitizer; to NVRTC 12 a lambda whose types
/// are open is the host's unless all is the device's.
pub(super) const OPTIONS: [&str; 4] =
    ["--std=c++17", "-default-device", "--generate-line-info", "--ptxas-options=-v"];

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code for the architecture.
    pub cubin: Vec<u8>,
    /// The assembly it was made from, where the compiler tells.
    pub ptx: String,
    /// What the compiler said, warnings and [`Usage`] among it.
    pub log: String,
}

/// What a thread or a block of a kernel takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Threads of a block.
    pub threads: u32,
    /// Blocks that a multiprocessor's registers are to hold, as the kernel's launch bounds promise.
    pub blocks: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a block, without those given at the launch.
    pub shared: u32,
    /// Bytes of a thread's registers written to and read from memory for want of registers.
    pub spills: u32,
}

/// Compiles a kernel for the architecture of compute capability `arch` / 10, each define as `-DNAME=VALUE`. Needs
/// NVRTC, but neither a GPU nor a driver.
///
/// # Errors
/// [`Error::Unavailable`] without NVRTC; [`Error::Argument`] if there is no such kernel, or none for this
/// architecture; [`Error::Compile`] if it does not compile.
pub fn compile(kernel: &str, defines: &[(&str, i64)], arch: u32) -> Result<Compiled> {
    let Some(source) = find(kernel) else {
        return Err(Error::argument("compile", "kernel", "one of invad's kernels", kernel));
    };
    if let Some(only) = source.arch.filter(|&only| only != arch) {
        return Err(Error::argument("compile", "arch", format!("{only}, for {kernel}"), arch));
    }
    compile_source(source, defines, arch)
}

/// The compiler's name of an architecture, with all the instructions that it has: machine code is for the GPU at
/// hand, which need not have any of its successors' run it.
pub(super) fn target(arch: u32) -> String {
    // Those of 9.0 that no later GPU has.
    let suffix = if arch == 90 { "a" } else { "" };
    format!("sm_{arch}{suffix}")
}

pub(super) fn compile_source(
    source: &Source,
    defines: &[(&str, i64)],
    arch: u32,
) -> Result<Compiled> {
    let nvrtc = &probe().nvrtc;
    if let Some(problem) = &nvrtc.problem {
        let why = nvrtc.complaint(problem);
        return Err(Error::Unavailable { what: "compiling kernels".into(), why });
    }
    let error = |log: String| Error::Compile {
        kernel: source.name.into(),
        arch,
        compiler: nvrtc.name_and_version(),
        log,
    };
    let mut options: Vec<String> = OPTIONS.map(String::from).into();
    options.push(format!("--gpu-architecture={}", target(arch)));
    options.extend(defines.iter().map(|(name, value)| format!("-D{name}={value}")));
    let program = Program::new(source).map_err(|e| error(e.to_string()))?;
    match program.compile(&options) {
        Ok(()) => {}
        Err(NvrtcError(nvrtcResult::NVRTC_ERROR_COMPILATION)) => return Err(error(program.log())),
        Err(NvrtcError(nvrtcResult::NVRTC_ERROR_INVALID_OPTION)) => {
            let install = nvrtc.install;
            let log = format!("{}; a newer NVRTC may know it: {install} --upgrade", program.log());
            return Err(error(log));
        }
        Err(e) => return Err(error(format!("{e}: {}", program.log()))),
    }
    let cubin = program.cubin().map_err(|e| error(e.to_string()))?;
    Ok(Compiled { cubin, ptx: program.ptx(), log: program.log() })
}

impl Compiled {
    /// What the kernel takes up, if the compiler says so.
    pub fn usage(&self) -> Option<Usage> {
        let bound = |directive: &str| -> Option<u32> {
            let (_, rest) = self.ptx.split_once(directive)?;
            rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let before = |unit: &str| -> Option<u32> {
            let words = self.log[..self.log.find(unit)?].trim_end();
            words.rsplit([' ', '\n', ',']).next()?.parse().ok()
        };
        Some(Usage {
            threads: bound(".maxntid ")?,
            blocks: bound(".minnctapersm ")?,
            registers: before(" registers")?,
            shared: before(" bytes smem").unwrap_or(0),
            spills: before(" bytes spill stores")? + before(" bytes spill loads")?,
        })
    }
}

/// A program of NVRTC.
struct Program {
    handle: nvrtcProgram,
    // NVRTC may refer to the texts as long as the program lives.
    _texts: [CString; 2],
}

impl Program {
    fn new(source: &Source) -> Result<Self, NvrtcError> {
        let invalid = |_| NvrtcError(nvrtcResult::NVRTC_ERROR_INVALID_INPUT);
        let text = CString::new(source.text).map_err(invalid)?;
        let name = CString::new(format!("{}.cu", source.name)).map_err(invalid)?;
        Ok(Self { handle: create_program(&text, Some(&name))?, _texts: [text, name] })
    }

    fn compile(&self, options: &[String]) -> Result<(), NvrtcError> {
        // SAFETY: the program is alive.
        unsafe { cudarc::nvrtc::result::compile_program(self.handle, options) }
    }

    fn log(&self) -> String {
        // SAFETY: the program is alive.
        text(unsafe { get_program_log(self.handle) }.unwrap_or_default())
    }

    fn cubin(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut size = 0;
        // SAFETY: the program is alive and compiled; it writes as many bytes as it said.
        unsafe {
            sys::nvrtcGetCUBINSize(self.handle, &mut size).result()?;
            let mut cubin = vec![0u8; size];
            sys::nvrtcGetCUBIN(self.handle, cubin.as_mut_ptr().cast()).result()?;
            Ok(cubin)
        }
    }

    fn ptx(&self) -> String {
        // SAFETY: the program is alive and compiled.
        text(unsafe { cudarc::nvrtc::result::get_ptx(self.handle) }.unwrap_or_default())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nobody has its handle after this.
        unsafe { destroy_program(self.handle) }.ok();
    }
}

/// A text of C, up to its NUL.
fn text(characters: Vec<c_char>) -> String {
    let bytes: Vec<u8> = characters.into_iter().map(|c| c as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy);
    text.map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |text| text.trim().into())
}
