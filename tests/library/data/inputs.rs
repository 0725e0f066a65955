//! Files, folders and patterns to score.

use super::*;

fn collect(folder: &TempDir, args: &[&str]) -> Vec<Result<String, String>> {
    let root = folder.path();
    let args: Vec<_> = args.iter().map(|a| root.join(a).display().to_string()).collect();
    let below = |p: PathBuf| p.strip_prefix(root).unwrap().to_str().unwrap().to_string();
    collect_inputs(&args).into_iter().map(|r| r.map(below).map_err(|e| e.to_string())).collect()
}

#[test]
fn files_folders_and_patterns() {
    let folder = TempDir::new().unwrap();
    for file in [
        "b.png",
        "a.JPG",
        "sub/c.png",
        "sub/deep/d.webp",
        "x.txt",
        ".h.png",
        "p[1].png",
        "none/x.txt",
    ] {
        put(&folder, file, "x");
    }
    let all = ["a.JPG", "b.png", "p[1].png", "sub/c.png", "sub/deep/d.webp"];
    let ok = |paths: &[&str]| paths.iter().map(|p| Ok(p.to_string())).collect::<Vec<_>>();
    assert_eq!(collect(&folder, &[""]), ok(&all));
    assert_eq!(collect(&folder, &["**/*"]), ok(&all));
    assert_eq!(collect(&folder, &["*.png"]), ok(&["b.png", "p[1].png"]));
    assert_eq!(collect(&folder, &["s*"]), ok(&all[3..]));
    assert_eq!(collect(&folder, &["sub", "b.png"]), ok(&[all[3], all[4], "b.png"]));
    // Files are taken as they are.
    assert_eq!(collect(&folder, &["p[1].png", "x.txt"]), ok(&["p[1].png", "x.txt"]));

    let got = collect(&folder, &["gone.png", "b.png", "*.gif", "none", "[.png"]);
    let errors: Vec<_> = got.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(got[1], Ok("b.png".into()));
    assert!(errors[0].contains("gone.png: No such file"), "{errors:?}");
    assert!(errors[1].contains("*.gif: no images"), "{errors:?}");
    assert!(errors[2].contains("none: no images"), "{errors:?}");
    assert!(errors[3].contains("[.png: not a valid pattern"), "{errors:?}");
}
