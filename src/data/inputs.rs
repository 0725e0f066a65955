//! Image files by folder, pattern and name.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use glob::MatchOptions;
use walkdir::WalkDir;

use crate::error::{Error, Result};

const EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp"];

/// The images that `args` name: a file is taken as it is, a folder stands for all images in it and
/// below, a pattern (`*`, `?`, `[…]`, `**`) for all images and folders it matches. Within one
/// argument the paths are sorted. Images are told by their extension (png, jpg, jpeg, bmp, tif,
/// tiff, webp in any case); hidden files and `__MACOSX` are left out.
///
/// An argument that names nothing gives one error in its place: [`Error::Io`] if it does not exist
/// or cannot be read, [`Error::Dataset`] if it is a folder or pattern without images.
pub fn collect_inputs(args: &[String]) -> Vec<Result<PathBuf>> {
    let mut inputs = Vec::new();
    for arg in args {
        match expand(arg) {
            Ok(paths) => inputs.extend(paths.into_iter().map(Ok)),
            Err(error) => inputs.push(Err(error)),
        }
    }
    inputs
}

fn expand(arg: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(arg);
    let images = if path.is_dir() {
        images_in(path, usize::MAX)?
    } else if !path.exists() && arg.contains(['*', '?', '[']) {
        matches(arg)?
    } else {
        // A name that happens to hold pattern characters is still a name.
        path.metadata().map_err(|e| Error::io(path, e))?;
        return Ok(vec![path.to_path_buf()]);
    };
    if images.is_empty() {
        return Err(Error::dataset(
            path,
            format!("no images here (files ending in {})", EXTENSIONS.join(", ")),
        ));
    }
    Ok(images)
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::default() };
    let paths = glob::glob_with(pattern, options)
        .map_err(|e| Error::dataset(pattern, format!("not a valid pattern: {e}")))?;
    let mut images = Vec::new();
    for path in paths {
        let path = path.map_err(|e| {
            let path = e.path().to_owned();
            Error::io(path, e.into())
        })?;
        if path.is_dir() {
            images.extend(images_in(&path, usize::MAX)?);
        } else if is_image(&path) {
            images.push(path);
        }
    }
    images.sort();
    // `**` matches a folder and what is in it.
    images.dedup();
    Ok(images)
}

/// The images in `folder`, at most `depth` levels down (1: directly inside), sorted. Symbolic links
/// are followed, those to a missing file too, but no folder is looked through twice.
pub(super) fn images_in(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    let mut seen = HashSet::new();
    let mut is_new = |path: &Path| path.canonicalize().map_or(true, |path| seen.insert(path));
    for entry in WalkDir::new(folder)
        .follow_links(true)
        .sort_by_file_name()
        .max_depth(depth)
        .into_iter()
        .filter_entry(|entry| {
            (entry.depth() == 0 || !is_hidden(entry.path()))
                && (!entry.file_type().is_dir() || is_new(entry.path()))
        })
    {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_image(entry.path()) => {
                images.push(entry.into_path());
            }
            Ok(_) => {}
            // A link back up.
            Err(e) if e.loop_ancestor().is_some() => {}
            // A link that leads nowhere is an image that cannot be read, which ends nothing.
            Err(e) if e.path().is_some_and(Path::is_symlink) => {
                images.extend(e.path().filter(|path| is_image(path)).map(Path::to_path_buf));
            }
            Err(e) => {
                let path = e.path().unwrap_or(folder).to_path_buf();
                return Err(Error::io(
                    path,
                    e.into_io_error().unwrap_or(io::ErrorKind::Other.into()),
                ));
            }
        }
    }
    images.sort();
    Ok(images)
}

/// The folders directly in `folder`, sorted by name.
pub(super) fn folders_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in folder.read_dir().map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_dir() && !is_hidden(&path) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        name.as_encoded_bytes().starts_with(b".") || name.eq_ignore_ascii_case("__MACOSX")
    })
}
