//! Embeds the CUDA sources: every `kernels/*.cu` with its includes expanded, a hash of that text, the parameters of
//! its entry point, the size of its launch, the sets of constants that operations compile it with, and the architecture
//! that it is for. Needs no CUDA.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest, Sha256};

const KERNELS: &str = "kernels";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={KERNELS}");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut sources: Vec<PathBuf> = fs::read_dir(KERNELS)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    sources.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    sources.sort();
    let mut table = String::from("&[\n");
    for path in sources {
        let name = path.file_stem().and_then(|s| s.to_str()).expect("kernels have ASCII names");
        let mut text = String::new();
        expand(&path, &mut HashSet::new(), &mut text);
        let file = format!("{name}.cu");
        fs::write(out.join(&file), &text).expect("OUT_DIR can be written");
        let digest = Sha256::digest(text.as_bytes());
        let hash = digest.iter().fold(String::new(), |hash, byte| format!("{hash}{byte:02x}"));
        let (parameters, sets) = (parameters(name, &text), sets(&path, &text));
        let (launch, arch) = (launch(name, &text), arch(name, &text));
        writeln!(
            table,
            "    Source {{ name: {name:?}, hash: {hash:?}, text: include_str!({file:?}), \
             parameters: &[{parameters}], launch: {launch:?}, sets: &[{sets}], \
             arch: {arch:?} }},"
        )
        .unwrap();
    }
    table.push_str("]\n");
    fs::write(out.join("kernels.rs"), table).expect("OUT_DIR can be written");
}

/// The parameters of a kernel as Rust has them: `("x", Address), ("n", Int)`.
fn parameters(name: &str, text: &str) -> String {
    let entry = text.find("\nKERNEL void ").map(|at| &text[at..]);
    let list = entry.and_then(|entry| {
        let (_, rest) = entry.split_once(&format!("{name}("))?;
        rest.split_once(')').map(|(list, _)| list)
    });
    let list = list.unwrap_or_else(|| panic!("{KERNELS}/{name}.cu: no `KERNEL void … {name}(…)`"));
    let parsed = list.split(',').map(|parameter| {
        let words: Vec<&str> = parameter
            .split(|c: char| c.is_whitespace() || c == '*')
            .filter(|w| !w.is_empty())
            .collect();
        let kind = match words[0] {
            _ if parameter.contains('*') => "Address",
            "int" => "Int",
            "float" => "Float",
            "double" => "Double",
            _ => panic!("{KERNELS}/{name}.cu: `{}`: neither pointer nor number", parameter.trim()),
        };
        format!("({:?}, Kind::{kind})", words[words.len() - 1])
    });
    parsed.collect::<Vec<_>>().join(", ")
}

/// Grid, block and shared memory of a launch, from the line `// Launch: grid …; block …; shared …` of the comment at
/// the head, whose last part may be missing.
fn launch<'a>(name: &str, text: &'a str) -> [&'a str; 3] {
    let line = text.lines().find_map(|line| line.strip_prefix("// Launch: "));
    let mut parts = line.unwrap_or_default().split("; ").peekable();
    let launch = ["grid ", "block ", "shared "].map(|what| {
        let part = parts.next_if(|part| part.starts_with(what)).unwrap_or_default();
        part.strip_prefix(what).unwrap_or_default()
    });
    if launch[0].is_empty() || launch[1].is_empty() || parts.next().is_some() {
        panic!("{KERNELS}/{name}.cu: no `// Launch: grid …; block …`, or `; shared …` after it");
    }
    launch
}

/// The architecture that the line `// Architecture: N` of the comment at the head names, if there is one.
fn arch(name: &str, text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("// Architecture: "))?;
    Some(line.parse().unwrap_or_else(|_| panic!("{KERNELS}/{name}.cu: `{line}`: no architecture")))
}

/// The sets of constants as Rust has them. Each line `// Sets: A 1 2, B 0 1` of the comment at the head stands for
/// every choice of a value for each constant; without one there is the empty set.
fn sets(path: &Path, text: &str) -> String {
    let mut all: Vec<Vec<String>> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("// Sets: ")) {
        let mut sets = vec![Vec::new()];
        for constant in line.split(',') {
            let mut words = constant.split_whitespace();
            let name = words.next().unwrap_or_else(|| panic!("{}: `{line}`", path.display()));
            let values: Vec<i64> = words
                .map(|v| v.parse().unwrap_or_else(|_| panic!("{}: `{line}`", path.display())))
                .collect();
            let with = |set: &Vec<String>| {
                let set = set.clone();
                values
                    .iter()
                    .map(move |v| [&set[..], &[format!("({name:?}, {v})")]].concat())
                    .collect::<Vec<_>>()
            };
            sets = sets.iter().flat_map(with).collect();
        }
        all.extend(sets);
    }
    if all.is_empty() {
        all.push(Vec::new());
    }
    all.iter().map(|set| format!("&[{}]", set.join(", "))).collect::<Vec<_>>().join(", ")
}

/// Appends the file to `text`, in place of every `#include "…"` the file named there, relative to
/// the including one, the first time it is named. Errors of compilers still name file and line.
fn expand(path: &Path, seen: &mut HashSet<PathBuf>, text: &mut String) {
    if !seen.insert(path.to_path_buf()) {
        return;
    }
    let source = fs::read_to_string(path)
        .unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()));
    let line_marker = |text: &mut String, line: usize| {
        let name = path.to_string_lossy().replace('\\', "/");
        writeln!(text, "#line {line} \"{name}\"").unwrap();
    };
    line_marker(text, 1);
    for (i, line) in source.lines().enumerate() {
        let directive = line.trim_start().strip_prefix('#').map(str::trim_start);
        match directive.and_then(|d| d.strip_prefix("include")).map(str::trim) {
            Some(file) => {
                let name = file.strip_prefix('"').and_then(|f| f.split('"').next());
                let name = name.unwrap_or_else(|| {
                    panic!("{}:{}: only #include \"…\" can be expanded", path.display(), i + 1)
                });
                let folder = path.parent().unwrap_or(Path::new(""));
                expand(&folder.join(name), seen, text);
                line_marker(text, i + 2);
            }
            None if directive.is_some_and(|d| d.starts_with("pragma once")) => text.push('\n'),
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
}
