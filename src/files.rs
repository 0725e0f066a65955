//! Files that are either complete or not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes the file at `path` through a temporary one beside it, so that a reader, a crash or a
/// full disk never meets half a file: `write` fills the temporary file, which is flushed to the
/// disk and renamed over `path`. On failure `path` is as before and the temporary file is gone.
///
/// # Errors
/// [`Error::Io`] with `path`, whatever step failed.
pub fn write_atomic(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    replace(path, write).map_err(|e| Error::io(path, e))
}

fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Opened like any new file: the process's umask decides who may read it.
    let (file, temporary) = tempfile::Builder::new()
        .prefix(".")
        .suffix(".tmp")
        .make_in(folder, |path| File::options().write(true).create_new(true).open(path))?
        .into_parts();
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    writer.flush()?;
    writer.get_ref().sync_all()?;
    drop(writer);
    temporary.persist(path).map_err(|e| e.error)
}
