//! Compiles all kernels and shows what they take up.

mod common;
#[path = "common/kernel_tables.rs"]
mod kernel_tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use common::say;
use invad::cuda::{Usage, compile, variants};
use invad::{Error, Result};

/// Compiles every kernel in all its variants and shows registers, shared memory (bytes of a block) and
/// spills (bytes of a thread) for each architecture. Needs NVRTC, but no GPU
#[derive(Parser)]
struct Options {
    /// Architectures, as in sm_89
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [80, 86, 89, 90, 120])]
    arch: Vec<u32>,
    /// Brings the tables of this file up to date, which is kernels/README.md
    #[arg(long, value_name = "FILE")]
    tables: Option<PathBuf>,
    /// Only kernels whose name contains this
    #[arg(value_name = "NAME", default_value = "")]
    filter: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| match &options.tables {
        Some(file) => tables(file),
        None => table(&options),
    })
}

fn tables(path: &Path) -> Result<ExitCode> {
    let io = |e| Error::io(path, e);
    let mut text = fs::read_to_string(path).map_err(io)?;
    let tables = [
        (kernel_tables::LAUNCHES, kernel_tables::launches()),
        (kernel_tables::REGISTERS, kernel_tables::registers()?),
    ];
    for (name, table) in tables {
        let [before, _, after] = kernel_tables::parts(&text, name);
        text = [before, &table, after].concat();
    }
    fs::write(path, text).map_err(io)?;
    Ok(ExitCode::SUCCESS)
}

fn table(options: &Options) -> Result<ExitCode> {
    let variants: Vec<_> =
        variants().into_iter().filter(|v| v.kernel.contains(&options.filter)).collect();
    let names: Vec<String> = variants.iter().map(|v| v.to_string()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut heading = format!("{:width$}", "registers / shared / spills");
    for arch in &options.arch {
        heading += &format!("  {:>16}", format!("sm_{arch}"));
    }
    say(heading);
    for (variant, name) in variants.iter().zip(names) {
        let mut line = format!("{name:width$}");
        for &arch in &options.arch {
            let cell = if variant.is_for(arch) {
                let usage = compile(variant.kernel, &variant.defines, arch)?.usage();
                let cell = |u: Usage| format!("{} / {} / {}", u.registers, u.shared, u.spills);
                usage.map_or("?".into(), cell)
            } else {
                "–".into()
            };
            line += &format!("  {cell:>16}");
        }
        say(line);
    }
    Ok(ExitCode::SUCCESS)
}
