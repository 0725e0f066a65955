//! Names of output files that follow those of the inputs.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// A name for the outputs of each input: its path below the folder that all inputs share, without
/// extension. Names stay inside the folder they are joined to, whatever the inputs, and no two
/// outputs meet even where case does not count: of inputs that differ in nothing else, later ones
/// keep their extension or get a number.
pub fn output_names<P: AsRef<Path>>(inputs: &[P]) -> Vec<PathBuf> {
    let folders: Vec<&Path> =
        inputs.iter().map(|p| p.as_ref().parent().unwrap_or(Path::new(""))).collect();
    let shared = shared_components(&folders);
    let mut taken = Taken::default();
    inputs
        .iter()
        .map(|input| {
            let below: PathBuf =
                input.as_ref().components().skip(shared).filter_map(plain).collect();
            let folder = below.parent().unwrap_or(Path::new(""));
            let stem = below.file_stem().unwrap_or("image".as_ref());
            let full = below.file_name().unwrap_or("image".as_ref());
            let numbered = (2..).map(|n| {
                let mut name = stem.to_os_string();
                name.push(format!("-{n}"));
                name
            });
            [stem.to_os_string(), full.to_os_string()]
                .into_iter()
                .chain(numbered)
                .map(|name| folder.join(name))
                .find(|name| taken.insert(name))
                .expect("numbers go on")
        })
        .collect()
}

/// The path with the extension added to its name.
pub fn with_suffix(path: &Path, extension: &str) -> PathBuf {
    let mut path = path.as_os_str().to_os_string();
    path.push(".");
    path.push(extension);
    path.into()
}

/// How many components all of the paths begin with.
fn shared_components(paths: &[&Path]) -> usize {
    let Some((first, rest)) = paths.split_first() else { return 0 };
    let same = |other: &&Path| {
        first.components().zip(other.components()).take_while(|(a, b)| a == b).count()
    };
    rest.iter().map(same).min().unwrap_or(first.components().count())
}

/// A component as the name of a file or folder.
fn plain(component: Component) -> Option<OsString> {
    match component {
        Component::Normal(name) => Some(name.into()),
        Component::ParentDir => Some("up".into()),
        Component::Prefix(prefix) => {
            let letters = prefix.as_os_str().to_string_lossy();
            Some(letters.chars().filter(|c| c.is_alphanumeric()).collect::<String>().into())
        }
        Component::CurDir | Component::RootDir => None,
    }
}

/// Names in use, in lower case.
#[derive(Default)]
struct Taken {
    files: HashSet<PathBuf>,
    folders: HashSet<PathBuf>,
}

impl Taken {
    /// Takes the names of the outputs called `name`, if all of them are free.
    fn insert(&mut self, name: &Path) -> bool {
        let lower = PathBuf::from(name.to_string_lossy().to_lowercase());
        let files = ["png", "tiff"].map(|extension| with_suffix(&lower, extension));
        let above: Vec<&Path> = lower.ancestors().skip(1).collect();
        let free = files.iter().all(|f| !self.files.contains(f) && !self.folders.contains(f))
            && above.iter().all(|f| !self.files.contains(*f));
        if free {
            self.folders.extend(above.into_iter().map(Path::to_path_buf));
            self.files.extend(files);
        }
        free
    }
}
