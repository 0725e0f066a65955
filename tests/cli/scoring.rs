//! `score`: records and pictures of new images.

use super::*;
use crate::support::files::Parts;
use crate::support::png::crc;

#[test]
fn pictures_and_records_of_each_image() {
    let Shared { data, detector, .. } = shared();
    let out = TempDir::new().unwrap();
    let ran = score(detector, out.path()).arg(data.join("nut/test")).run().expect(0);
    assert!(
        ran.stderr
            .contains("as the category it is likeliest to be; --category picks one of bolt, nut")
    );
    let lines = json_lines(out.path().join("scores.jsonl"));
    assert_eq!(lines.len(), 6);
    let names: Vec<_> = ["dent/0", "dent/1", "dent/2", "good/0", "good/1", "good/2"].into();
    for (line, name) in lines.iter().zip(names) {
        assert_eq!(
            line["path"],
            data.join("nut/test").join(name).to_str().unwrap().to_owned() + ".png"
        );
        assert_eq!(line["overlay"], format!("overlays/{name}.png"));
        assert_eq!(line["mask"], format!("masks/{name}.png"));
        assert_eq!(line["map"], format!("maps/{name}.tiff"));
        assert_eq!((&line["width"], &line["height"]), (&64.into(), &48.into()));
        // Pictures of both categories look alike.
        assert!(["bolt", "nut"].contains(&line["calibration"].as_str().unwrap()));
        let number = |key: &str| line[key].as_f64().unwrap();
        assert!(number("threshold") > 3.0);
        assert_eq!(line["anomalous"], number("score") >= number("threshold"));
        assert!(number("max") >= number("top5") && number("block") > 0.0);
        assert!(number("nll").is_finite());
        let verdict = match (&line["anomalous"], &line["unfamiliar"]) {
            (Value::Bool(true), _) => "anomalous",
            (_, Value::Bool(true)) => "unfamiliar",
            _ => "normal",
        };
        let shown = ran.stdout.lines().find(|l| l.ends_with(&format!("{name}.png"))).unwrap();
        assert!(shown.starts_with(verdict), "{shown}");

        assert_eq!(
            load_image(out.path().join(line["overlay"].as_str().unwrap())).unwrap().dimensions(),
            (64, 48)
        );
        let mask = image::open(out.path().join(line["mask"].as_str().unwrap())).unwrap();
        let DynamicImage::ImageLuma8(mask) = mask else { panic!("not grey") };
        assert!(mask.pixels().all(|p| p[0] == 0 || p[0] == 255));
        let map = read_map(&out.path().join(line["map"].as_str().unwrap()));
        assert_eq!((map.0, map.1), (64, 48));
        let largest = map.2.iter().copied().fold(f32::MIN, f32::max);
        // The filter's lobes may go beyond the largest cell a little.
        assert!(0.0 < largest && f64::from(largest) <= 1.1 * number("max"), "{largest}");
    }
    let of = |kind: &str| -> Vec<f64> {
        let of = lines.iter().filter(|l| l["path"].as_str().unwrap().contains(kind));
        of.map(|l| l["score"].as_f64().unwrap()).collect()
    };
    let highest_good = of("good").into_iter().fold(f64::MIN, f64::max);
    assert!(of("dent").iter().all(|&s| s > highest_good), "{lines:?}");

    // The same in the other format.
    let mut csv = csv::Reader::from_path(out.path().join("scores.csv")).unwrap();
    let headers: Vec<String> = csv.headers().unwrap().iter().map(String::from).collect();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        for (key, cell) in headers.iter().zip(row) {
            match line.get(key).unwrap_or(&Value::Null) {
                Value::Null => assert_eq!(cell, "", "{key}"),
                Value::String(text) => assert_eq!(cell, text, "{key}"),
                Value::Number(n) => assert_eq!(cell.parse::<f64>().ok(), n.as_f64(), "{key}"),
                value => assert_eq!(cell, value.to_string(), "{key}"),
            }
        }
    }
    assert_eq!(headers.last().map(String::as_str), Some("error"));

    // Batches are a matter of speed; a GPU rounds differently.
    let again = TempDir::new().unwrap();
    let mut command = score(detector, again.path());
    command.args(["--no-pictures", "--batch", "4"]).arg(data.join("nut/test")).run().expect(0);
    let again = json_lines(again.path().join("scores.jsonl"));
    assert_eq!(again.len(), lines.len());
    for (again, line) in again.iter().zip(&lines) {
        let [again, score] = [again, line].map(|line| line["score"].as_f64().unwrap());
        assert!((again - score).abs() < 0.05, "{again} for {score}");
    }
}

fn read_map(path: &Path) -> (u32, u32, Vec<f32>) {
    let file = fs::File::open(path).unwrap();
    let mut tiff = tiff::decoder::Decoder::new(BufReader::new(file)).unwrap();
    let (width, height) = tiff.dimensions().unwrap();
    let tiff::decoder::DecodingResult::F32(map) = tiff.read_image().unwrap() else {
        panic!("not 32-bit floats")
    };
    (width, height, map)
}

#[test]
fn all_kinds_of_images() {
    let root = TempDir::new().unwrap();
    let put = |name: &str, image: DynamicImage| put(root.path().join("in").join(name), image);
    put("grey.png", GrayImage::from_fn(20, 30, |x, y| Luma([(x * y) as u8])).into());
    put("grey16.png", ImageBuffer::from_fn(9, 8, |x, y| Luma([(x * y * 900) as u16])).into());
    put("rgb16.tiff", ImageBuffer::from_fn(9, 8, |x, _| Rgb([x as u16, 9, 65535])).into());
    put("alpha.png", ImageBuffer::from_fn(8, 9, |x, y| Rgba([9, x as u8, 7, y as u8])).into());
    put("grey-alpha.png", ImageBuffer::from_fn(8, 9, |_, y| LumaA([9, y as u8])).into());
    put("one.png", RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])).into());
    put("row.bmp", RgbImage::from_pixel(300, 1, Rgb([1, 2, 3])).into());
    put("column.webp", RgbImage::from_pixel(1, 300, Rgb([1, 2, 3])).into());
    put("large.jpg", RgbImage::from_pixel(2000, 1500, Rgb([1, 2, 3])).into());
    // What cannot be scored.
    let whole = fs::read(put("whole.png", part(3).into())).unwrap();
    let folder = root.path().join("in");
    fs::write(folder.join("truncated.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(folder.join("empty.png"), b"").unwrap();
    fs::write(folder.join("text.png"), b"not a picture").unwrap();
    let mut huge = whole.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let sum = crc(&huge[12..29]).to_be_bytes();
    huge[29..33].copy_from_slice(&sum);
    fs::write(folder.join("huge.png"), huge).unwrap();

    let out = root.path().join("out");
    let missing = root.path().join("missing.png");
    let mut command = score(&shared().detector, &out);
    let ran = command.paths(&[&folder, &missing]).arg("--fail-on-anomaly").run().expect(4);
    assert!(ran.stdout.contains("5 unreadable"), "{}", ran.stdout);
    let lines = json_lines(out.join("scores.jsonl"));
    assert_eq!(lines.len(), 15);
    for (name, says) in [
        ("truncated.png", "damaged: "),
        ("empty.png", "the file is empty"),
        ("text.png", "cannot be read"),
        ("huge.png", "60000×60000 is too large"),
        ("missing.png", "No such file"),
    ] {
        let line = lines.iter().find(|l| l["path"].as_str().unwrap().ends_with(name)).unwrap();
        assert!(line["error"].as_str().unwrap().contains(says), "{line}");
        assert_eq!(line.as_object().unwrap().len(), 2, "{line}");
        let warning = ran.stderr.lines().filter(|l| l.contains(name));
        let warning: Vec<_> = warning.collect();
        assert!(warning.len() == 1 && warning[0].starts_with("warning: "), "{warning:?}");
    }
    for line in lines.iter().filter(|line| line.get("error").is_none()) {
        let image = load_image(line["path"].as_str().unwrap()).unwrap();
        let at = |key: &str| out.join(line[key].as_str().unwrap());
        assert_eq!(load_image(at("overlay")).unwrap().dimensions(), image.dimensions());
        let mask = load_mask(at("mask")).unwrap();
        assert_eq!((mask.width() as u32, mask.height() as u32), image.dimensions());
        let (width, height, map) = read_map(&at("map"));
        assert_eq!((width, height), image.dimensions());
        assert!(map.iter().all(|v| v.is_finite()), "{line}");
    }
}

#[test]
fn inputs_that_name_nothing() {
    let root = TempDir::new().unwrap();
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let (out, detector) = (root.path().join("out"), &shared().detector);
    score(detector, &out).arg(&empty).run().refused(&["empty: no images here"]);
    let pattern = root.path().join("*.png");
    score(detector, &out).arg(&pattern).run().refused(&["*.png: no images here"]);
    let none = root.path().join("none.png");
    score(detector, &out).arg(&none).run().refused(&["none.png: No such file"]);
    // Each is named, the last as the reason of the failure.
    let ran = score(detector, &out).paths(&[&none, &empty]).run().expect(1);
    assert!(ran.stderr.contains("none.png") && ran.stderr.contains("empty"), "{}", ran.stderr);
    assert!(!out.exists());
}

#[test]
fn names_never_meet() {
    let root = TempDir::new().unwrap();
    let put = |name: &str| put(root.path().join(name), part(1));
    let inside = root.path().join("work");
    for name in ["work/a/x.png", "work/b/x.png", "work/a/x.bmp", "work/a/X.png", "x.png"] {
        put(name);
    }
    put("work/a/x.png.d/x.png");
    let absolute = put("else/x.png");
    let mut command = score(&shared().detector, Path::new("out"));
    command.current_dir(&inside);
    command.args(["a", "b/x.png", "./b/x.png", "b", "../x.png", "b/../../x.png"]);
    command.arg(&absolute).run().expect(0);
    let lines = json_lines(inside.join("out/scores.jsonl"));
    // Case may not count in the file system that this runs in. One file has two paths.
    assert!((7..=8).contains(&lines.len()), "{lines:#?}");
    let mut seen = std::collections::HashSet::new();
    for line in &lines {
        for key in ["overlay", "mask", "map"] {
            let path = line[key].as_str().unwrap();
            assert!(seen.insert(path.to_lowercase()), "{path} twice");
            let file = inside.join("out").join(path).canonicalize().unwrap();
            assert!(file.starts_with(inside.join("out").canonicalize().unwrap()), "{path}");
        }
    }
    assert!(seen.contains("overlays/up/x.png"), "{seen:?}");
    // Nothing else was written, there or anywhere.
    assert_eq!(files(&inside.join("out")).len(), 3 * lines.len() + 2);
    let outside: Vec<_> =
        files(root.path()).into_iter().filter(|f| !f.starts_with("work/out")).collect();
    assert_eq!(outside.len(), lines.len() - 1, "{outside:?}");
}

#[test]
fn earlier_results_are_no_inputs() {
    let root = TempDir::new().unwrap();
    put(root.path().join("0.png"), part(0));
    put(root.path().join("1.png"), part(1));
    let run = || score(&shared().detector, &root.path().join("out")).arg(root.path()).run();
    run().expect(0);
    let first = fs::read(root.path().join("out/scores.jsonl")).unwrap();
    run().expect(0);
    assert_eq!(fs::read(root.path().join("out/scores.jsonl")).unwrap(), first);
    assert_eq!(files(&root.path().join("out")).len(), 2 + 3 * 2);
}

#[test]
fn exit_codes_and_thresholds() {
    let Shared { data, detector, .. } = shared();
    let out = TempDir::new().unwrap();
    let image = data.join("bolt/test/good/0.png");
    let run = |args: &[&str]| {
        let mut command = score(detector, out.path());
        command.arg("--no-pictures").arg(&image).args(args);
        command.run()
    };
    run(&["--threshold-score", "-1e9"]).expect(0);
    run(&["--threshold-score", "-1e9", "--fail-on-anomaly"]).expect(3);
    run(&["--threshold-score", "1e9", "--fail-on-anomaly"]).expect(0);
    run(&["--threshold", "-1e9", "--fail-on-anomaly"]).expect(3);
    run(&["--quantile", "0.5", "--category", "bolt", "--score", "both"]).expect(0);
    assert_eq!(files(out.path()), ["scores.csv", "scores.jsonl"].map(PathBuf::from), "no pictures");
    let lines = json_lines(out.path().join("scores.jsonl"));
    assert_eq!((&lines[0]["calibration"], &lines[0]["map"]), (&"bolt".into(), &Value::Null));
    let missing = out.path().join("missing.png");
    let args = ["--threshold-score", "-1e9", "--fail-on-anomaly", missing.to_str().unwrap()];
    run(&args).expect(4);

    let unknown = run(&["--category", "cog"]);
    assert!(!unknown.stderr.contains("warning"), "{}", unknown.stderr);
    unknown.refused(&["`category` should be one of bolt, nut, got cog"]);
}

#[test]
fn files_that_are_no_detector() {
    let Shared { data, trained, detector, .. } = shared();
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let refused = |file: &Path, says: &[&str]| {
        let says = [&[file.to_str().unwrap()], says].concat();
        score(file, &out).arg(data).run().refused(&says);
        evaluate(file, data, &out).run().refused(&says);
    };
    refused(&root.path().join("none"), &["No such file"]);
    let folder = root.path();
    score(folder, &out).arg(data).run().refused(&[folder.to_str().unwrap(), "is a folder"]);
    // For which it may be a folder of detectors.
    evaluate(folder, data, &out).run().refused(&["there is no detector of category `bolt`"]);
    refused(&data.join("bolt/train/good/0.png"), &["not a whole invad-detector file"]);
    let state = trained.join("training.safetensors");
    refused(&state, &["its format is invad-training; invad-detector is needed"]);

    let whole = fs::read(detector).unwrap();
    let with = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let what = "not a whole invad-detector file";
    refused(&with("empty", b""), &[what]);
    for cut in [4, 100, whole.len() / 2, whole.len() - 1] {
        refused(&with("truncated", &whole[..cut]), &[what]);
    }
    for length in [0, 1 << 20, 1 << 40, u64::MAX] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused(&with("header", &bytes), &[what]);
    }
    // As long, so that everything stays in its place.
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let version = replaced(r#"\"version\":4"#, r#"\"version\":9"#);
    refused(&with("version", &version), &["its version is 9; this invad reads versions 1 to 4"]);
    let width = replaced(r#"\"width\":128"#, r#"\"width\":256"#);
    refused(&with("changed", &width), &["its checksum is not that of what it holds"]);
    let sealed = |name: &str, bytes: &[u8]| with(name, &Parts::of(bytes).bytes());
    refused(&sealed("width", &width), &["should be ", ", got "]);
    let heads = replaced(r#"\"heads\":2"#, r#"\"heads\":3"#);
    refused(&sealed("heads", &heads), &["a divisor of the width 128, got 3"]);
    let depth = replaced(r#"\"depth\":2"#, r#"\"depth\":1"#);
    refused(&sealed("depth", &depth), &["does not belong here"]);
    let mut nan = whole.clone();
    let at = nan.len() - 4;
    nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&sealed("nan", &nan), &["holds NaN: the file is damaged"]);
    assert!(!out.join("scores.jsonl").exists());
}

#[test]
fn a_reader_may_go_away() {
    let Shared { data, detector, .. } = shared();
    let out = TempDir::new().unwrap();
    let mut command = score(detector, out.path());
    let child = command.arg(data).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    Ran::new(child.wait_with_output().unwrap()).expect(0);
    assert!(out.path().join("scores.jsonl").exists());
}

#[cfg(unix)]
#[test]
fn interrupted_it_leaves_no_half_records() {
    use std::io::BufRead;
    let root = TempDir::new().unwrap();
    for n in 0..300 {
        put(root.path().join(format!("in/{n}.png")), part(n));
    }
    let out = root.path().join("out");
    let mut command = score(&shared().detector, &out);
    let command = command.arg(root.path().join("in"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    interrupt(&child);
    let ran = Ran::new(child.wait_with_output().unwrap()).expect(130);
    assert!(ran.stderr.ends_with("interrupted\n"), "{}", ran.stderr);
    for file in files(&out) {
        assert!(file.components().count() > 1, "{}", file.display());
        assert!(file.extension().is_some_and(|e| e != "tmp"), "{}", file.display());
    }
}
