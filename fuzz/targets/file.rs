//! A file that holds the fuzzer's bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// In memory, where the system has such a folder.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
});

pub fn holding(bytes: &[u8]) -> PathBuf {
    let path: &Path = FOLDER.path();
    let path = path.join("file");
    fs::write(&path, bytes).expect("a file");
    path
}
