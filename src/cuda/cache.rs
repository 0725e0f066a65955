//! Compiled kernels on disk.
//!
//! A file holds a hash and the machine code it is the hash of, under a name that is the hash of all
//! that went into the code. Files are written aside and renamed, so that other processes see them
//! whole or not at all; one that is damaged nevertheless is made anew.

use std::fs;
use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Source;
use super::compile::{OPTIONS, compile_source, target};
use super::probe::probe;
use crate::error::Result;
use crate::files::cache_folder;

/// Bytes of a SHA-256.
const HASH: usize = 32;

/// Machine code for a kernel: kept from before, or compiled and kept.
pub(super) fn cubin(source: &Source, defines: &[(&str, i64)], arch: u32) -> Result<Vec<u8>> {
    let target = target(arch);
    let path = cache_folder().map(|folder| folder.join(file_name(source, defines, &target)));
    if let Some(cubin) = path.as_deref().and_then(read) {
        return Ok(cubin);
    }
    match &path {
        Some(path) => log::info!(
            "compiling the kernel {} for {target}; it is kept as {}",
            source.name,
            path.display()
        ),
        None => log::info!("compiling the kernel {} for {target}", source.name),
    }
    let cubin = compile_source(source, defines, arch)?.cubin;
    if let Some(path) = path
        && let Err(e) = write(&path, &cubin)
    {
        log::warn!("{}: {e}; the kernel {} will be compiled again", path.display(), source.name);
    }
    Ok(cubin)
}

fn file_name(source: &Source, defines: &[(&str, i64)], target: &str) -> String {
    let key = format!(
        "{}\n{}\n{defines:?}\n{OPTIONS:?}\n{target}\n{}\n{}",
        source.name,
        source.hash,
        probe().nvrtc.name_and_version(),
        env!("CARGO_PKG_VERSION"),
    );
    let hash = Sha256::digest(key.as_bytes());
    let hash = hash[..8].iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
    format!("{}-{target}-{hash}.cubin", source.name)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut file = fs::read(path).ok()?;
    if file.len() <= HASH {
        return None;
    }
    let cubin = file.split_off(HASH);
    (Sha256::digest(&cubin)[..] == file[..]).then_some(cubin)
}

fn write(path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&Sha256::digest(cubin))?;
    file.write_all(cubin)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
