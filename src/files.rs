//! Files that are either complete or not there, and folders that one process writes in.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempPath;

use crate::error::{Error, Result};

/// The folder of compiled kernels and of measurements, in place of one in the user's cache folder.
pub(crate) const CACHE_VARIABLE: &str = "INVAD_KERNEL_CACHE";

/// Where compiled kernels and measurements of this machine lie, if they are kept.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    match env::var_os(CACHE_VARIABLE) {
        Some(folder) if folder.is_empty() => None,
        Some(folder) => Some(folder.into()),
        None => {
            let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
            let cache = absolute("XDG_CACHE_HOME")
                .or_else(|| absolute("LOCALAPPDATA"))
                .or_else(|| Some(env::home_dir()?.join(".cache")))?;
            Some(cache.join("invad").join("kernels"))
        }
    }
}

/// How the names of temporary files end.
const SUFFIX: &str = ".tmp";

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

/// The folder of [`cache_folder`].
///
/// # Errors
/// [`Error::Argument`] of `op` if nothing is kept.
pub(crate) fn require_cache(op: &'static str) -> Result<PathBuf> {
    cache_folder().ok_or_else(|| {
        let expected = "the folder to keep what is measured in, or unset";
        Error::argument(op, CACHE_VARIABLE, expected, "nothing")
    })
}

/// Writes what was measured on this machine to a file of [`cache_folder`], and returns where it is.
///
/// # Errors
/// As [`require_cache`]; [`Error::Io`] if it cannot be written.
pub(crate) fn keep(op: &'static str, file: &str, measured: &impl Serialize) -> Result<PathBuf> {
    let folder = require_cache(op)?;
    fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let path = folder.join(file);
    write_atomic(&path, |file| Ok(serde_json::to_writer_pretty(file, measured)?))?;
    Ok(path)
}

/// What [`keep`] has kept, if it has; a file that cannot be read is passed over, with a warning.
pub(crate) fn kept<T: DeserializeOwned>(file: &str) -> Option<T> {
    let path = cache_folder()?.join(file);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        text => text.map_err(|e| e.to_string()),
    };
    let kept = text.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
    kept.inspect_err(|e| log::warn!("{}: {e}; nothing of it is used", path.display())).ok()
}

/// A file that is written piece by piece and only appears with [`AtomicFile::commit`]; one that is
/// dropped before leaves nothing behind. See [`write_atomic`].
#[derive(Debug)]
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
            .prefix(&temporary_prefix(path))
            .suffix(SUFFIX)
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

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.writer.seek(to)
    }
}

/// How the name of a temporary file of the file at `path` begins: with the name, unless it is so
/// long that no file system would take a longer one.
fn temporary_prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    if let Some(name) = path.file_name().filter(|name| name.len() <= 200) {
        prefix.push(name);
        prefix.push(".");
    }
    prefix
}

/// The right of one process to write in a folder. It ends when this is dropped or the process ends,
/// however it ends. Others are kept out only if they ask for it too.
///
/// It is a lock of the operating system on the file `.lock` in the folder, which on Unix goes with it, unless the process
/// is killed.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    _file: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Elsewhere one that waits for the file could not tell that it is gone.
        #[cfg(unix)]
        fs::remove_file(self.folder.join(".lock")).ok();
    }
}

impl FolderLock {
    /// Takes the right to write in `folder`. Where the file system has no locks, no one is kept out.
    ///
    /// # Errors
    /// [`Error::Io`] with the folder and [`ErrorKind::ResourceBusy`] if another process has it;
    /// [`Error::Io`] if nothing can be written there.
    pub fn acquire(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join(".lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| Error::io(&path, e))?;
        match file.try_lock() {
            // Another process has ended, and removed the file, since it was opened.
            #[cfg(unix)]
            Ok(()) if !is_at(&file, &path) => return Self::acquire(folder),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason =
                    "another process is writing here; wait for it, or choose another folder";
                return Err(Error::io(folder, io::Error::new(ErrorKind::ResourceBusy, reason)));
            }
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {
                log::warn!("{}: locks are not supported here", path.display());
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(path, e)),
        }
        Ok(Self { folder: folder.into(), _file: file })
    }

    /// Removes what processes that were killed left of writing the file `name`, which no other
    /// process writes now.
    pub fn remove_leftovers(&self, name: &str) {
        remove_temporary(&self.folder, &temporary_prefix(Path::new(name)));
    }

    /// The same of all files in the folder `below` whose names begin like this.
    pub(crate) fn remove_leftovers_below(&self, below: impl AsRef<Path>, names: &str) {
        remove_temporary(&self.folder.join(below), format!(".{names}").as_ref());
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Whether an open file is the one of this name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(id) == path.metadata().ok().map(id)
}

/// Removes temporary files whose names begin like this.
fn remove_temporary(folder: &Path, prefix: &OsStr) {
    let Ok(entries) = folder.read_dir() else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let found = found.as_encoded_bytes();
        if found.starts_with(prefix.as_encoded_bytes()) && found.ends_with(SUFFIX.as_bytes()) {
            fs::remove_file(entry.path()).ok();
        }
    }
}
