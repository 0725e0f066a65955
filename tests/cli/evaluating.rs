//! `evaluate`: metrics and pictures of a data set.

use super::*;

#[test]
fn metrics_and_images() {
    let Shared { data, detector, .. } = shared();
    let out = TempDir::new().unwrap();
    let ran =
        evaluate(detector, data, out.path()).args(["--overlays", "--baselines"]).run().expect(0);
    let tables = ["calibrated scores, %", "paper protocol, %", "PaDiM, %", "nearest neighbour, %"];
    for row in tables.into_iter().chain(["bolt ", "nut ", "mean "]) {
        assert!(ran.stdout.lines().any(|line| line.starts_with(row)), "{}", ran.stdout);
    }
    let metrics = fs::read(out.path().join("metrics.json")).unwrap();
    let metrics: Value = serde_json::from_slice(&metrics).unwrap();
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().unwrap().keys().map(String::from).collect()
    };
    assert_eq!(keys(&metrics), ["baselines", "categories", "mean", "paper", "thresholds"]);
    let baselines = &metrics["baselines"];
    assert_eq!(keys(baselines), ["nearest_neighbour", "padim"]);
    assert_eq!(keys(&metrics["paper"]), ["categories", "mean"]);
    let percent = |v: &Value| v.as_f64().is_some_and(|v| (0.0..=100.0).contains(&v));
    let others = [&metrics["paper"], &baselines["padim"], &baselines["nearest_neighbour"]];
    for part in others.into_iter().chain([&metrics]) {
        assert_eq!(keys(&part["categories"]), ["bolt", "nut"]);
        for of in [&part["mean"], &part["categories"]["bolt"], &part["categories"]["nut"]] {
            for (name, value) in of.as_object().unwrap() {
                let calibrated = name == "false_alarm_rate" || name == "recall";
                let none = calibrated && std::ptr::eq(part, &metrics["paper"]);
                // Of so few images it often cannot be computed.
                let maybe = name == "aupimo" && value.is_null();
                let right = if none { value.is_null() } else { maybe || percent(value) };
                assert!(right, "{name} {value}");
            }
        }
    }
    let lines = json_lines(out.path().join("images.jsonl"));
    assert_eq!(lines.len(), 12);
    for line in &lines {
        let path = line["path"].as_str().unwrap();
        assert!(path.contains(line["category"].as_str().unwrap()));
        assert_eq!(line["calibration"], line["category"]);
        assert_eq!(line["defect"].as_str().is_some(), path.contains("dent"));
        assert!(out.path().join(line["overlay"].as_str().unwrap()).is_file());
    }
    let report = fs::read_to_string(out.path().join("report.html")).unwrap();
    assert_eq!(report.matches("<article ").count(), 12);
    // Six good images of a category leave two to calibrate with.
    for says in ["PaDiM", "rests on 2 held-out images"] {
        assert!(report.contains(says), "{says}");
    }
    assert!(ran.stderr.contains("warning: the threshold of category `nut` cannot be relied on"));
    let plain = TempDir::new().unwrap();
    evaluate(detector, data, plain.path()).run().expect(0);
    let metrics = fs::read(plain.path().join("metrics.json")).unwrap();
    let metrics: Value = serde_json::from_slice(&metrics).unwrap();
    assert_eq!(keys(&metrics), ["categories", "mean", "paper", "thresholds"]);
}

/// A data set of one category, `bolt`, which a test may spoil.
fn bolts(root: &Path) -> PathBuf {
    for name in [
        "test/good/0.png",
        "test/good/1.png",
        "test/dent/0.png",
        "test/dent/1.png",
        "ground_truth/dent/0_mask.png",
        "ground_truth/dent/1_mask.png",
    ] {
        let to = root.join("bolt").join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(shared().data.join("bolt").join(name), to).unwrap();
    }
    root.join("bolt")
}

#[test]
fn masks_that_do_not_fit() {
    let root = TempDir::new().unwrap();
    let bolt = bolts(root.path());
    let out = root.path().join("out");
    let detector = &shared().detector;
    put(bolt.join("ground_truth/dent/7_mask.png"), GrayImage::new(64, 48));
    let ran = evaluate(detector, root.path(), &out).run().expect(0);
    assert!(ran.stderr.contains("7_mask.png: no image belongs to this mask"), "{}", ran.stderr);

    put(bolt.join("ground_truth/dent/1_mask.png"), GrayImage::new(48, 64));
    let ran = evaluate(detector, root.path(), &out).run().expect(4);
    assert!(ran.stderr.contains("the mask is 48×64 pixels, but its image"), "{}", ran.stderr);
    let lines = json_lines(out.join("images.jsonl"));
    let wrong: Vec<_> = lines.iter().filter(|l| l.get("error").is_some()).collect();
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0]["path"].as_str().unwrap().ends_with("test/dent/1.png"), "{wrong:?}");

    // Without masks there are no pixel metrics.
    fs::remove_dir_all(bolt.join("ground_truth")).unwrap();
    let ran = evaluate(detector, root.path(), &out).run().expect(0);
    let row = ran.stdout.lines().find(|l| l.starts_with("bolt")).unwrap();
    assert_eq!(row.split_whitespace().filter(|cell| *cell == "-").count(), 6, "{row}");
    let metrics = fs::read(out.join("metrics.json")).unwrap();
    let metrics: Value = serde_json::from_slice(&metrics).unwrap();
    assert!(metrics["mean"]["au_pro"].is_null() && metrics["mean"]["image_auroc"].is_f64());
}

/// VisA of which one category is there, and an image of that twice in the list.
#[test]
fn a_list_of_more_than_is_there() {
    let root = TempDir::new().unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("out"));
    let mut list = "object,split,label,image,mask\n".to_string();
    for (name, image) in [
        ("Anomaly/0.png", "test/dent/0.png"),
        ("Normal/0.png", "test/good/0.png"),
        ("Normal/0.png", "test/good/0.png"),
    ] {
        let to = data.join("bolt/Data/Images").join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(shared().data.join("bolt").join(image), to).unwrap();
        let label = name.split('/').next().unwrap().to_lowercase();
        list += &format!("bolt,test,{label},bolt\\Data\\Images\\{},\n", name.replace('/', "\\"));
    }
    list += "nut,test,normal,nut\\Data\\Images\\Normal\\0.png,\n";
    let csv = data.join("split_csv/1cls.csv");
    fs::create_dir_all(csv.parent().unwrap()).unwrap();
    fs::write(&csv, list).unwrap();

    let detector = &shared().detector;
    let ran = evaluate(detector, &data, &out).run().expect(0);
    let says = "no images here of nut (1 of 2 categories), which are left out";
    assert!(ran.stderr.contains(&format!("warning: {}: {says}", csv.display())), "{}", ran.stderr);
    assert_eq!(json_lines(out.join("images.jsonl")).len(), 2);

    let ran = evaluate(detector, &data, &out).args(["--category", "bolt"]).run().expect(0);
    assert!(!ran.stderr.contains("nut"), "{}", ran.stderr);
    let looked = data.join("nut/Data/Images/Normal/0.png");
    let says = format!("first looked for {}", looked.display());
    let ran = evaluate(detector, &data, &out).args(["--category", "nut"]).run();
    ran.refused(&[csv.to_str().unwrap(), "no images here of nut", &says]);
}

#[test]
fn data_that_cannot_be_evaluated() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let (data, detector) = (root.path().join("data"), &shared().detector);
    evaluate(detector, &data, &out).run().refused(&["there is no such folder"]);
    fs::create_dir(&data).unwrap();
    evaluate(detector, &data, &out).run().refused(&["no images found"]);
    put(data.join("cog/train/good/0.png"), part(0));
    let ran = evaluate(detector, &data, &out).run();
    ran.refused(&["category `cog` has no test images; put some in test/good and test/DEFECT"]);
    fs::create_dir_all(data.join("cog/test/dent")).unwrap();
    fs::write(data.join("cog/test/dent/0.png"), b"x").unwrap();
    let ran = evaluate(detector, &data, &out).run();
    let ran = ran.refused(&["category `cog` has no readable test images"]);
    assert!(ran.stderr.contains("warning: "), "{}", ran.stderr);
    assert!(files(&out).is_empty());
}

#[test]
fn a_category_that_was_not_trained_on() {
    let root = TempDir::new().unwrap();
    let bolt = bolts(root.path());
    fs::rename(bolt, root.path().join("rod")).unwrap();
    let out = root.path().join("out");
    let ran = evaluate(&shared().detector, root.path(), &out).run().expect(0);
    assert!(ran.stderr.contains("rod: the detector was not trained on it; each image is judged"));
    let lines = json_lines(out.join("images.jsonl"));
    let known = |line: &Value| line["calibration"] == "bolt" || line["calibration"] == "nut";
    assert!(lines.iter().all(known));
}
