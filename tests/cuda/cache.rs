//! Each test is a process of its own: the cache is chosen by the environment.

use std::fs;
use std::path::{Path, PathBuf};

use invad::{DType, Tensor, ops};
use tempfile::TempDir;

use crate::alone::passes_alone;
use crate::support::emulator::gpu;

/// Runs [`a_kernel`] in another process with the cache in this folder.
fn run(cache: &Path) {
    passes_alone("cache::a_kernel", &[("INVAD_KERNEL_CACHE", cache.to_str().unwrap())]);
}

#[test]
#[ignore = "run by the other tests"]
fn a_kernel() {
    let Some(gpu) = gpu() else { return };
    let mut x = Tensor::from_f32(vec![2.0; 9], &[9], gpu).unwrap();
    let output = Tensor::zeros(&[9], DType::F16, gpu).unwrap();
    ops::inversion_step(&mut x, &output, 0.5, 1.0).unwrap();
    assert_eq!(x.to_vec_f32(), [1.0; 9]);
}

/// The only file of a folder.
fn only(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn kernels_are_kept_where_told_and_used_again() {
    let Some(_) = gpu() else { return };
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("not/there/yet");
    run(&cache);
    let file = only(&cache);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("inversion_step-sm_"), "{name}");
    let (bytes, written) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().modified());
    run(&cache);
    assert_eq!(fs::metadata(only(&cache)).unwrap().modified().unwrap(), written.unwrap());
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[test]
fn damaged_kernels_are_made_anew() {
    let Some(_) = gpu() else { return };
    let folder = TempDir::new().unwrap();
    run(folder.path());
    let file = only(folder.path());
    let bytes = fs::read(&file).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    for damaged in [&flipped[..], &bytes[..bytes.len() - 1], &bytes[..10], &[]] {
        fs::write(&file, damaged).unwrap();
        run(folder.path());
        let again = fs::read(&file).unwrap();
        assert!(again != damaged && again.len() + 64 > bytes.len(), "{} bytes", damaged.len());
    }
}

#[test]
fn an_empty_name_keeps_nothing() {
    let Some(_) = gpu() else { return };
    let folder = TempDir::new().unwrap();
    let before = std::env::current_dir().unwrap();
    run(Path::new(""));
    assert_eq!(std::env::current_dir().unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn folders_that_cannot_be_written_do_not_stop_the_work() {
    let Some(_) = gpu() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    run(file.path());
}
