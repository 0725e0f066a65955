//! Imports point down: what a module uses lies in its own layer or below, as the table of ARCHITECTURE.md has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module → its layer, 0 at the bottom.
fn layers() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, table) = text.split_once("## Layers").expect("a table of layers");
    let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let mut layers = BTreeMap::new();
    for (layer, row) in rows.take_while(|line| line.starts_with('|')).enumerate() {
        let modules = row.split('|').nth(1).unwrap();
        for module in modules.split('`').skip(1).step_by(2) {
            let twice = layers.insert(module.to_string(), layer);
            assert_eq!(twice, None, "`{module}` has two rows");
        }
    }
    assert!(layers.len() > 10, "{layers:?}");
    layers
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

/// The module of a file of src/, as in `cuda::ops::linear`.
fn module(file: &Path) -> Vec<String> {
    let path = file.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap().to_string()).collect();
    parts.pop_if(|last| last == "mod" || last == "lib");
    // What stands for the CUDA backend in a build without it.
    parts.pop_if(|last| last == "absent");
    parts
}

/// The layer of a path: that of the longest name of a module that it begins with.
fn layer(layers: &BTreeMap<String, usize>, path: &[String]) -> Option<usize> {
    (1..=path.len()).rev().find_map(|n| layers.get(&path[..n].join("::")).copied())
}

/// The paths that a line of code names after `crate::` and `super::`, resolved.
fn named(line: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (start, key) in ["crate::", "super::"].iter().flat_map(|key| line.match_indices(key)) {
        let before = line[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let mut path = if key == "crate::" { Vec::new() } else { module.to_vec() };
        path.pop_if(|_| key == "super::");
        let mut rest = &line[start + key.len()..];
        while let Some(above) = rest.strip_prefix("super::") {
            path.pop();
            rest = above;
        }
        for part in rest.split("::") {
            let name: String =
                part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.is_empty() || name == "self" {
                break;
            }
            let whole = name.len() == part.len();
            path.push(name);
            if !whole {
                break;
            }
        }
        all.push(path);
    }
    all
}

#[test]
fn imports_point_down() {
    let layers = layers();
    let mut all = Vec::new();
    files(&root().join("src"), &mut all);
    let (mut names, mut upward) = (0, Vec::new());
    for file in all {
        let own = module(&file);
        if own.is_empty() {
            continue;
        }
        let of_own = layer(&layers, &own)
            .unwrap_or_else(|| panic!("`{}` is in no layer of ARCHITECTURE.md", own.join("::")));
        for (i, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap();
            assert!(
                !code.contains("use crate::{"),
                "{}:{}: a name each line",
                file.display(),
                i + 1
            );
            for path in named(code, &own) {
                names += 1;
                // A nested module's `super` may be the file itself.
                let of = layer(&layers, &path).unwrap_or(of_own);
                if of > of_own {
                    upward.push(format!("{}:{}: {}", file.display(), i + 1, path.join("::")));
                }
            }
        }
    }
    assert!(names > 500, "{names} names were found");
    assert!(upward.is_empty(), "imports that point up:\n{}", upward.join("\n"));
}

#[test]
fn names_are_read() {
    let own = ["cuda", "ops", "linear"].map(String::from);
    let read = |line: &str| -> Vec<String> {
        named(line, &own).iter().map(|path| path.join("::")).collect()
    };
    assert_eq!(read("use crate::tensor::{DType, Device};"), ["tensor"]);
    assert_eq!(read("use super::super::launch::Launch;"), ["cuda::launch::Launch"]);
    assert_eq!(
        read("let x = crate::cpu::gemm(a, super::Op::new());"),
        ["cpu::gemm", "cuda::ops::Op::new"]
    );
    assert_eq!(read("$crate::cuda::launch"), [""; 0]);
}
