//! Data sets whose images are in lists: VisA's and Real-IAD's.

use invad::data::Split;

use super::layouts::{assert_rows, categories, open};
use super::*;

const SPLIT: &str = "object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0001.JPG,
candle,train,normal,candle/Data/Images/Normal/0002.JPG,
candle,test,normal,candle/Data/Images/Normal/0000.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,
";

#[test]
fn visa_as_published() {
    let folder = tree(&[
        "candle/Data/Images/Normal/0000.JPG",
        "candle/Data/Images/Normal/0001.JPG",
        "candle/Data/Images/Normal/0002.JPG",
        // Not in the list.
        "candle/Data/Images/Normal/0003.JPG",
        "candle/Data/Images/Anomaly/000.JPG",
        "candle/Data/Masks/Anomaly/000.png",
        "candle/image_anno.csv",
        "pcb1/Data/Images/Normal/0000.JPG",
        "split_csv/2cls_fewshot.csv",
    ]);
    refused(Dataset::open(folder.path(), &[]), folder.path(), "split_csv/1cls.csv");
    let list = put(&folder, "split_csv/1cls.csv", SPLIT);
    let set = open(&folder);
    assert_eq!(categories(&set), ["candle", "pcb1"]);
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
    let images = "candle/Data/Images";
    let at = |name: &str| format!("{images}/{name}");
    assert_rows(
        &set.categories()[0],
        folder.path(),
        &[
            (Split::Train, &at("Normal/0001.JPG"), "", ""),
            (Split::Train, &at("Normal/0002.JPG"), "", ""),
            (Split::Test, &at("Anomaly/000.JPG"), "anomaly", "candle/Data/Masks/Anomaly/000.png"),
            (Split::Test, &at("Normal/0000.JPG"), "", ""),
        ],
    );
    let only = Dataset::open(folder.path(), &["pcb1".into()]).unwrap();
    assert_eq!(categories(&only), ["pcb1"]);

    fs::remove_file(folder.path().join(at("Normal/0002.JPG"))).unwrap();
    let set = open(&folder);
    assert_eq!(set.categories()[0].train().len(), 1);
    let [warning] = set.warnings() else { panic!("{:?}", set.warnings()) };
    assert!(warning.contains("1 of `candle`'s images are not there, as candle/Data"), "{warning}");

    for (broken, reason) in [
        (SPLIT.replace("candle,train,normal", "candle,train,anomaly"), "to be trained on"),
        (SPLIT.replace("pcb1,train", "pcb1,val"), "line 6: its split is `val`"),
        (SPLIT.replace("label", "kind"), "label"),
        (SPLIT.trim_end().trim_end_matches(',').to_string(), "record"),
    ] {
        put(&folder, "split_csv/1cls.csv", broken);
        refused(Dataset::open(folder.path(), &[]), &list, reason);
    }
}

/// The files of [`SPLIT`].
const LISTED: [&str; 6] = [
    "candle/Data/Images/Normal/0001.JPG",
    "candle/Data/Images/Normal/0002.JPG",
    "candle/Data/Images/Normal/0000.JPG",
    "candle/Data/Images/Anomaly/000.JPG",
    "candle/Data/Masks/Anomaly/000.png",
    "pcb1/Data/Images/Normal/0000.JPG",
];

/// VisA with a list of these lines.
fn visa(list: &str) -> TempDir {
    let folder = tree(&LISTED);
    put(&folder, "split_csv/1cls.csv", list);
    folder
}

#[test]
fn an_image_that_visa_lists_twice() {
    let once = visa(SPLIT);
    let lines: Vec<&str> = SPLIT.lines().collect();
    let again = |line: &str| visa(&format!("{SPLIT}{line}\n"));
    let samples = |folder: &TempDir| {
        let names = |samples: &[Sample]| {
            samples.iter().map(|s| s.path.file_name().unwrap().to_owned()).collect::<Vec<_>>()
        };
        open(folder)
            .categories()
            .iter()
            .flat_map(|c| [names(c.good()), names(c.test())])
            .collect::<Vec<_>>()
    };
    for line in &lines[1..] {
        assert_eq!(samples(&again(line)), samples(&once), "{line}");
        assert_eq!(samples(&again(&line.replace('/', "\\"))), samples(&once), "{line}");
    }
    for (first, line, image) in [
        (2, lines[1].replace("train", "test"), "candle/Data/Images/Normal/0001.JPG"),
        (3, lines[2].replace("train,normal", "test,anomaly"), "candle/Data/Images/Normal/0002.JPG"),
        (4, lines[3].replace("candle,", "pcb1,"), "candle/Data/Images/Normal/0000.JPG"),
        (5, lines[4].replace("anomaly", "crack"), "candle/Data/Images/Anomaly/000.JPG"),
        (
            5,
            lines[4].replace("Masks/Anomaly/000", "Masks/Anomaly/001"),
            "candle/Data/Images/Anomaly/000.JPG",
        ),
    ] {
        let folder = again(&line);
        let list = folder.path().join("split_csv/1cls.csv");
        let says = format!("line {first} and line 7 disagree about {image}; keep one of them");
        refused(Dataset::open(folder.path(), &[]), &list, &says);
    }
}

#[test]
fn visa_in_part() {
    let folder = visa(SPLIT);
    let list = folder.path().join("split_csv/1cls.csv");
    let lacking = |names: &str| format!("no images here of {names}");
    // More categories than are named, none of them there; of one the folders are left.
    let more: String = ["macaroni1", "macaroni2", "cashew", "fryum"]
        .map(|name| format!("{name},train,normal,{name}/Data/Images/Normal/0.JPG,\n"))
        .concat();
    put(&folder, "split_csv/1cls.csv", format!("{SPLIT}{more}"));
    fs::create_dir_all(folder.path().join("cashew/Data/Images/Normal")).unwrap();
    let set = open(&folder);
    assert_eq!(categories(&set), ["candle", "pcb1"]);
    let says = format!(
        "{}: {}",
        list.display(),
        lacking("cashew, fryum, macaroni1, … (4 of 6 categories), which are left out")
    );
    assert_eq!(set.warnings(), [says]);

    // What is said of other categories than those asked for.
    fs::remove_file(folder.path().join(LISTED[1])).unwrap();
    assert_eq!(open(&folder).warnings().len(), 2);
    let pcb1 = Dataset::open(folder.path(), &["pcb1".into()]).unwrap();
    assert!(pcb1.warnings().is_empty(), "{:?}", pcb1.warnings());
    let candle = Dataset::open(folder.path(), &["candle".into()]).unwrap();
    assert_eq!(candle.warnings().len(), 1);

    let first = |name: &str| folder.path().join(name).join("Data/Images/Normal/0.JPG");
    for wanted in [&["fryum".to_string()][..], &["candle".into(), "fryum".into()]] {
        let set = Dataset::open(folder.path(), wanted);
        let looked = format!(
            "of {} categories); first looked for {}",
            wanted.len(),
            first("fryum").display()
        );
        refused(set, &list, &(lacking("fryum (1 ") + &looked));
    }

    // Nor is it an error.
    put(&folder, "split_csv/1cls.csv", SPLIT.replace("pcb1,train", "pcb1,val"));
    Dataset::open(folder.path(), &["candle".into()]).unwrap();

    // Nothing at all, with empty folders and without.
    put(&folder, "split_csv/1cls.csv", SPLIT);
    for file in LISTED {
        let _ = fs::remove_file(folder.path().join(file));
    }
    let looked = folder.path().join(LISTED[0]);
    let says = format!("candle, pcb1 (2 of 2 categories); first looked for {}", looked.display());
    for name in ["candle", "pcb1", "cashew"] {
        refused(Dataset::open(folder.path(), &[]), &list, &lacking(&says));
        fs::remove_dir_all(folder.path().join(name)).unwrap();
    }
    refused(Dataset::open(folder.path(), &[]), &list, &lacking(&says));
    // Beside a list a tree of MVTec AD is one.
    put(&folder, "candle/train/good/0.png", "x");
    assert_eq!(open(&folder).categories()[0].train().len(), 1);
}

#[test]
fn visa_of_windows() {
    let unix = visa(SPLIT);
    let windows = visa(&format!("\u{feff}{}", SPLIT.replace('/', "\\").replace('\n', "\r\n")));
    let below = |folder: &TempDir| {
        let names = |s: &Sample| {
            [Some(&s.path), s.mask.as_ref()]
                .map(|p| p.map(|p| p.strip_prefix(folder.path()).unwrap().to_owned()))
        };
        open(folder)
            .categories()
            .iter()
            .flat_map(|c| c.good().iter().chain(c.test()).map(names))
            .collect::<Vec<_>>()
    };
    assert_eq!(below(&windows), below(&unix));
}

#[test]
fn raw_visa_beside_a_folder_1cls() {
    let folder = visa(SPLIT);
    let raw = open(&folder);
    for hollow in ["1cls", "1cls/candle/train/good"] {
        fs::create_dir_all(folder.path().join(hollow)).unwrap();
        assert_eq!(open(&folder).categories(), raw.categories(), "{hollow}");
    }
    fs::remove_file(folder.path().join("split_csv/1cls.csv")).unwrap();
    put(&folder, "1cls/candle/train/good/0.JPG", "x");
    assert_eq!(
        open(&folder).categories()[0].train()[0].path,
        folder.path().join("1cls/candle/train/good/0.JPG")
    );
    fs::remove_dir_all(folder.path().join("1cls")).unwrap();
    fs::create_dir(folder.path().join("1cls")).unwrap();
    refused(
        Dataset::open(folder.path(), &[]),
        folder.path(),
        "split_csv/1cls.csv, which divides it, is not there",
    );
}

const LISTING: &str = r#"{
    "meta": {"prefix": "toy/", "normal_class": "OK", "pre_transform": {}},
    "train": [
        {"category": "toy", "anomaly_class": "OK", "mask_path": null,
         "image_path": "OK/S0001/toy_0001_OK_C1_20231027.jpg"}
    ],
    "test": [
        {"category": "toy", "anomaly_class": "OK", "mask_path": null,
         "image_path": "OK/S0002/toy_0002_OK_C5_20231027.jpg"},
        {"category": "toy", "anomaly_class": "AK", "mask_path": "NG/AK/S0003/toy_0003_NG_AK_C2_20231027.png",
         "image_path": "NG/AK/S0003/toy_0003_NG_AK_C2_20231027.jpg"}
    ]
}"#;

#[test]
fn real_iad() {
    for (images, listing) in [
        ("", "toy.json"),
        ("realiad_1024/", "realiad_jsons/toy.json"),
        ("realiad_512/", "realiad_jsons/realiad_jsons/toy.json"),
    ] {
        let good = format!("{images}toy/OK/S0001/toy_0001_OK_C1_20231027.jpg");
        let tested = format!("{images}toy/OK/S0002/toy_0002_OK_C5_20231027.jpg");
        let defective = format!("{images}toy/NG/AK/S0003/toy_0003_NG_AK_C2_20231027");
        let (bad, mask) = (format!("{defective}.jpg"), format!("{defective}.png"));
        let folder = tree(&[&good, &tested, &bad, &mask]);
        let list = put(&folder, listing, LISTING);
        let set = open(&folder);
        let [toy] = set.categories() else { panic!("{set:?}") };
        assert_eq!(toy.name, "toy");
        assert_rows(
            toy,
            folder.path(),
            &[
                (Split::Train, &good, "", ""),
                (Split::Test, &bad, "AK", &mask),
                (Split::Test, &tested, "", ""),
            ],
        );
        let views: Vec<_> =
            toy.good().iter().chain(toy.test()).map(|s| s.view.as_deref().unwrap()).collect();
        assert_eq!(views, ["C1", "C2", "C5"]);

        fs::remove_file(folder.path().join(&tested)).unwrap();
        let set = open(&folder);
        let [warning] = set.warnings() else { panic!("{:?}", set.warnings()) };
        assert!(warning.contains("1 of `toy`'s images are not there, as OK/S0002"), "{warning}");
        for (broken, reason) in [
            (LISTING.replacen("\"OK\", \"mask", "\"AK\", \"mask", 1), "to be trained on"),
            (LISTING.replace("train", "training"), "train"),
            (LISTING[..99].to_string(), "EOF"),
        ] {
            put(&folder, listing, broken);
            refused(Dataset::open(folder.path(), &[]), &list, reason);
        }
    }
}

/// The files of [`LISTING`].
const TOYS: [&str; 4] = [
    "OK/S0001/toy_0001_OK_C1_20231027.jpg",
    "OK/S0002/toy_0002_OK_C5_20231027.jpg",
    "NG/AK/S0003/toy_0003_NG_AK_C2_20231027.jpg",
    "NG/AK/S0003/toy_0003_NG_AK_C2_20231027.png",
];

/// Real-IAD with this list.
fn toys(listing: &str) -> TempDir {
    let folder =
        tree(&TOYS.map(|toy| format!("realiad_1024/toy/{toy}")).each_ref().map(|toy| &**toy));
    put(&folder, "realiad_jsons/toy.json", listing);
    folder
}

#[track_caller]
fn assert_toys(folder: &TempDir, mask: &str) {
    let set = open(folder);
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
    let [toy] = set.categories() else { panic!("{set:?}") };
    let [good, tested, bad, _] = TOYS;
    assert_rows(
        toy,
        &folder.path().join("realiad_1024/toy"),
        &[
            (Split::Train, good, "", ""),
            (Split::Test, bad, "AK", mask),
            (Split::Test, tested, "", ""),
        ],
    );
    assert_eq!(toy.test()[0].view.as_deref(), Some("C2"));
}

#[test]
fn where_real_iads_paths_begin() {
    let prefix = |to: &str| LISTING.replace("\"toy/\"", &format!("\"{to}\""));
    let begin = |prefix: &str, with: &str| {
        let listing = LISTING.replace("\"toy/\"", &format!("\"{prefix}\""));
        listing.replace("\"OK/", &format!("\"{with}OK/")).replace("\"NG/", &format!("\"{with}NG/"))
    };
    for listing in [
        LISTING.to_string(),
        prefix("toy"),
        prefix(""),
        LISTING.replace("\"prefix\": \"toy/\", ", ""),
        prefix("realiad_1024/toy/"),
        begin("", "toy/"),
        begin("toy/", "toy/"),
        begin("", "realiad_1024/toy/"),
        begin("realiad_1024/", "toy/"),
        LISTING
            .replace("toy/", r"toy\\")
            .replace("/S", r"\\S")
            .replace("/toy", r"\\toy")
            .replace("/AK", r"\\AK"),
    ] {
        assert_toys(&toys(&listing), TOYS[3]);
    }
    let folder = toys(&begin("other/", "x/"));
    let looked = folder.path().join("realiad_1024/other/x").join(TOYS[0]);
    let says =
        format!("no images here of toy (1 of 1 categories); first looked for {}", looked.display());
    refused(
        Dataset::open(folder.path(), &[]),
        &folder.path().join("realiad_jsons/toy.json"),
        &says,
    );
}

#[test]
fn real_iad_without_a_mask() {
    let mask = format!("\"{}\"", TOYS[3]);
    for none in ["\"\"", "null"] {
        let listing = LISTING.replace(&mask, none);
        assert_ne!(listing, LISTING);
        assert_toys(&toys(&listing), "");
    }
    assert_toys(&toys(&LISTING.replace("\"mask_path\": null", "\"mask_path\": \"\"")), TOYS[3]);
}

#[test]
fn an_image_that_real_iad_lists_twice() {
    let start = LISTING.find("{\"category\"").unwrap();
    let good = &LISTING[start..=start + LISTING[start..].find('}').unwrap()];
    let train = LISTING.replace(good, &format!("{good}, {good}"));
    assert_toys(&toys(&train), TOYS[3]);
    let test = LISTING.replace("\"test\": [", &format!("\"test\": [{good}, "));
    let folder = toys(&test);
    let list = folder.path().join("realiad_jsons/toy.json");
    let says = format!("train[0] and test[0] disagree about {}; keep one of them", TOYS[0]);
    refused(Dataset::open(folder.path(), &[]), &list, &says);
}

#[test]
fn real_iad_in_part() {
    let folder = toys(LISTING);
    let usb = put(&folder, "realiad_jsons/usb.json", "{}");
    put(&folder, "realiad_jsons/._usb.json", "x");
    put(&folder, "notes.json", "x");
    let set = open(&folder);
    assert_eq!(categories(&set), ["toy"]);
    let says =
        format!("{}: no images here of usb (1 of 2 categories), which are left out", usb.display());
    assert_eq!(set.warnings(), [says]);
    let toy = Dataset::open(folder.path(), &["toy".into()]).unwrap();
    assert!(toy.warnings().is_empty(), "{:?}", toy.warnings());
    let says = format!("first looked for {}", folder.path().join("usb").display());
    refused(Dataset::open(folder.path(), &["usb".into()]), &usb, &says);
}
