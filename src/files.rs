//! Files that are either complete or not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

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
    let mut file = AtomicFile::create(path)?;
    write(&mut file.writer).map_err(|e| Error::io(&file.path, e))?;
    file.commit()
}

/// A file that is written piece by piece and only appears with [`AtomicFile::commit`]; one that is
/// dropped before leaves nothing behind. See [`write_atomic`].
pub struct AtomicFile {
    path: PathBuf,
    writer: BufWriter<File>,
    temporary: TempPath,
}

impl AtomicFile {
    /// Begins the file that is to appear at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] with `path` if there can be no such file.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return Err(Error::io(path, io::ErrorKind::IsADirectory.into()));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Opened like any new file: the process's umask decides who may read it.
        let (file, temporary) = tempfile::Builder::new()
            .prefix(".")
            .suffix(".tmp")
            .make_in(folder, |path| File::options().write(true).create_new(true).open(path))
            .map_err(|e| Error::io(path, e))?
            .into_parts();
        Ok(Self { path: path.into(), writer: BufWriter::new(file), temporary })
    }

    /// Flushes the file to the disk and renames it over its path.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; what was there before is then still there.
    pub fn commit(self) -> Result<()> {
        let Self { path, mut writer, temporary } = self;
        let written = writer.flush().and_then(|()| writer.get_ref().sync_all());
        drop(writer);
        written
            .and_then(|()| temporary.persist(&path).map_err(|e| e.error))
            .map_err(|e| Error::io(&path, e))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
