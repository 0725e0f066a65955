//! Shows the devices of this machine, and what is missing for a GPU.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::say;
use invad::{Device, Result};

/// Shows what was found for computing on a GPU, what is missing, where it was looked for, and how to
/// install it
#[derive(Parser)]
struct Options {}

fn main() -> ExitCode {
    Options::parse();
    common::run(|| {
        show();
        say(format!("\ndevice `best`: {}", Device::best()));
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(feature = "cuda")]
fn show() {
    use invad::cuda::{Library, probe};
    let probe = probe();
    let line = |library: &Library| {
        let version = library.version.map_or(String::new(), |(a, b)| format!(" {a}.{b}"));
        let found = match (&library.path, library.version) {
            (Some(path), _) => format!("found: {}", path.display()),
            (None, Some(_)) => "found".into(),
            (None, None) => "missing".into(),
        };
        say(format!("{:22}{found}", format!("{}{version}", library.name)));
        if let Some(problem) = &library.problem {
            say(format!("{:22}{} {problem}; to install it: {}", "", library.name, library.install));
        }
    };
    line(&probe.driver);
    line(&probe.nvrtc);
    line(&probe.cublaslt);
    for gpu in &probe.gpus {
        let (major, minor) = gpu.capability;
        let memory =
            gpu.memory.map_or(String::new(), |b| format!(", {:.1} GB of memory", b as f64 / 1e9));
        let name = format!("cuda:{}", gpu.ordinal);
        say(format!("{name:22}{}, compute capability {major}.{minor}{memory}", gpu.name));
        if let Err(e) = usable(Device::Cuda(gpu.ordinal)) {
            say(format!("{:22}{e}", ""));
        }
    }
    if probe.gpus.is_empty() {
        say(format!("{:22}none", "GPUs"));
    }
    say("\nlooked for in");
    for (place, folders) in &probe.places {
        say(format!("  {place}"));
        for folder in folders {
            say(format!("    {}", folder.display()));
        }
    }
}

#[cfg(feature = "cuda")]
fn usable(device: Device) -> Result<()> {
    device.require()
}

#[cfg(not(feature = "cuda"))]
fn show() {
    let why: Result<()> = Device::Cuda(0).require();
    if let Err(e) = why {
        say(e);
    }
}
