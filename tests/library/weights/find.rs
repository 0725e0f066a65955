//! Where weights are looked for.

use std::fs;
use std::path::{Path, PathBuf};

use invad::weights::{self, Places, SOURCES, Source};

use super::*;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub fn source() -> Source {
    Source::new("net", "owner/net-b16", "model.safetensors", "MIT")
}

/// A folder of weights and one of the hub's cache, neither of which is there yet, and a hub that is nowhere.
pub fn places(root: &Path, endpoint: &str) -> Places {
    Places::new([root.join("ours"), root.join("data")], root.join("hub"), endpoint)
}

pub fn put(path: PathBuf, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn found(places: &Places, source: &Source) -> invad::Result<PathBuf> {
    places.find(source, &mut |_| panic!("nothing is fetched"))
}

#[test]
fn folders_then_the_cache_of_the_hub() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let places = places(root, "http://127.0.0.1:9").offline(true);
    let repository = root.join("hub/models--owner--net-b16");
    let cached = put(repository.join("snapshots").join(COMMIT).join("model.safetensors"), b"");
    assert!(found(&places, &source()).is_err());
    assert_eq!(found(&places, &source().at_revision(COMMIT)).unwrap(), cached);
    for other in ["../snapshots", "", "0123"] {
        put(repository.join("refs/main"), other.as_bytes());
        assert!(found(&places, &source()).is_err());
    }
    put(repository.join("refs/main"), format!("{COMMIT}\n").as_bytes());
    assert_eq!(found(&places, &source()).unwrap(), cached);
    // Each before the one above.
    for file in ["data/net.bin", "data/net.pth", "ours/net.pt", "ours/net.safetensors"] {
        let path = put(root.join(file), b"");
        assert_eq!(found(&places, &source()).unwrap(), path);
    }
}

#[test]
fn what_is_not_there() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let error = found(&places(root, "http://hub/").offline(true), &source()).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    let (text, root) = (error.to_string(), root.display());
    for part in [
        "a file with the weights of `net` is not available",
        &format!("there is no net.{{safetensors,pth,pt,bin}} in {root}/ours or {root}/data"),
        &format!("nor is it in {root}/hub/models--owner--net-b16"),
        &format!(
            "copy http://hub/owner/net-b16/resolve/main/model.safetensors to {root}/ours/net.safetensors (MIT)"
        ),
        "HF_HUB_OFFLINE",
    ] {
        assert!(text.contains(part), "`{text}` should contain `{part}`");
    }
}

#[test]
fn a_file_in_the_place_of_a_folder() {
    let folder = tempdir().unwrap();
    let file = put(folder.path().join("data"), b"");
    put(folder.path().join("ours/net.pth"), b"");
    // Even where there is another folder: what was set should not be without effect.
    let error = found(&places(folder.path(), "http://hub"), &source()).unwrap_err();
    let Error::File { path, reason } = &error else { panic!("{error}") };
    assert_eq!(*path, file);
    for part in ["this is a file", "INVAD_WEIGHTS", "a folder", "net.{safetensors,"] {
        assert!(reason.contains(part), "`{reason}` should contain `{part}`");
    }
}

#[test]
fn names_and_paths() {
    let folder = tempdir().unwrap();
    let path = put(folder.path().join("net.pth"), b"");
    assert_eq!(weights::find(path.to_str().unwrap()).unwrap(), path);
    let missing = folder.path().join("missing.pth");
    let error = weights::find(missing.to_str().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Io { path, .. } if path == missing));
    let error = weights::find("no-such-network").unwrap_err().to_string();
    assert!(error.contains("`no-such-network` is not available"), "{error}");
    for part in ["there is no no-such-network.{safetensors,", "INVAD_WEIGHTS", "docs/backbones.md"]
    {
        assert!(error.contains(part), "`{error}` should contain `{part}`");
    }
    for (i, source) in SOURCES.iter().enumerate() {
        assert!(SOURCES[..i].iter().all(|other| other.name() != source.name()));
        assert!(!source.licence().is_empty() && source.repository().split('/').count() == 2);
    }
}
