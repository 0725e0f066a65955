//! Published data sets as they lie in folders, in small.

use invad::data::{Category, Split};

use super::*;

/// A category's samples: what each is for, its file, its defect and the mask's file, below the folder.
type Row = (Split, String, Option<String>, Option<String>);

fn rows(category: &Category, folder: &Path) -> Vec<Row> {
    let below = |path: &Path| path.strip_prefix(folder).unwrap().to_str().unwrap().to_string();
    let samples = category.good().iter().chain(category.test());
    samples
        .map(|s| (s.split, below(&s.path), s.defect.clone(), s.mask.as_deref().map(below)))
        .collect()
}

#[track_caller]
pub(super) fn assert_rows(category: &Category, folder: &Path, want: &[(Split, &str, &str, &str)]) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
    let want: Vec<Row> = want
        .iter()
        .map(|(split, path, defect, mask)| (*split, (*path).into(), some(defect), some(mask)))
        .collect();
    assert_eq!(rows(category, folder), want);
    let of = |split| want.iter().filter(|row| row.0 == split).count();
    assert_eq!(category.train().len(), of(Split::Train));
    assert_eq!(category.validation().len(), of(Split::Validation));
    assert_eq!(category.test().len(), of(Split::Test));
}

pub(super) fn open(folder: &TempDir) -> Dataset {
    Dataset::open(folder.path(), &[]).unwrap()
}

pub(super) fn categories(set: &Dataset) -> Vec<&str> {
    set.categories().iter().map(|category| &*category.name).collect()
}

#[test]
fn mvtec_ad_2() {
    let folder = tree(&[
        "can/train/good/000_regular.png",
        "can/validation/good/000_regular.png",
        "can/validation/good/001_shift.png",
        "can/test_public/good/000_regular.png",
        "can/test_public/bad/000_regular.png",
        "can/test_public/bad/000_overexposed.png",
        "can/test_public/ground_truth/bad/000_regular_mask.png",
        "can/test_public/ground_truth/bad/000_overexposed_mask.png",
        "can/test_private/000_regular.png",
        "can/test_private_mixed/000_mixed.png",
        "vial/test_public/good/000_regular.png",
    ]);
    let set = open(&folder);
    assert_eq!(categories(&set), ["can", "vial"]);
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
    let bad = |name: &'static str, mask| (Split::Test, name, "bad", mask);
    assert_rows(
        &set.categories()[0],
        &folder.path().join("can"),
        &[
            (Split::Train, "train/good/000_regular.png", "", ""),
            (Split::Validation, "validation/good/000_regular.png", "", ""),
            (Split::Validation, "validation/good/001_shift.png", "", ""),
            bad(
                "test_public/bad/000_overexposed.png",
                "test_public/ground_truth/bad/000_overexposed_mask.png",
            ),
            bad(
                "test_public/bad/000_regular.png",
                "test_public/ground_truth/bad/000_regular_mask.png",
            ),
            (Split::Test, "test_public/good/000_regular.png", "", ""),
        ],
    );
    let alone = Dataset::open(folder.path().join("can"), &[]).unwrap();
    assert_eq!(alone.categories(), &set.categories()[..1]);
}

#[test]
fn visa_as_converted() {
    let folder = tree(&[
        "1cls/candle/train/good/0001.JPG",
        "1cls/candle/test/good/0000.JPG",
        "1cls/candle/test/bad/000.JPG",
        "1cls/candle/ground_truth/bad/000.png",
    ]);
    let set = open(&folder);
    assert_rows(
        &set.categories()[0],
        &folder.path().join("1cls/candle"),
        &[
            (Split::Train, "train/good/0001.JPG", "", ""),
            (Split::Test, "test/bad/000.JPG", "bad", "ground_truth/bad/000.png"),
            (Split::Test, "test/good/0000.JPG", "", ""),
        ],
    );
    assert_eq!(
        Dataset::open(folder.path().join("1cls"), &[]).unwrap().categories(),
        set.categories()
    );
}

#[test]
fn bmad() {
    let folder = tree(&[
        // With a level `img`, masks in `label`, also of good images.
        "Brain/train/good/b1.png",
        "Brain/valid/good/img/b2.png",
        "Brain/valid/good/label/b2.png",
        "Brain/valid/Ungood/img/b3.png",
        "Brain/valid/Ungood/label/b3.png",
        "Brain/test/good/img/b4.png",
        "Brain/test/good/label/b4.png",
        "Brain/test/Ungood/img/b5.png",
        "Brain/test/Ungood/label/b5.png",
        // Without, masks in `anomaly_mask`.
        "Liver/train/good/img/l1.png",
        "Liver/val/good/l2.png",
        "Liver/test/good/l3.png",
        "Liver/test/Ungood/l4.png",
        "Liver/test/Ungood/anomaly_mask/l4.png",
        "Liver/test/Ungood/anomaly_mask/l9.png",
        // Without masks and validation.
        "Chest/train/good/c1.png",
        "Chest/test/good/c2.png",
        "Chest/test/Ungood/c3.png",
    ]);
    let set = open(&folder);
    assert_eq!(categories(&set), ["Brain", "Chest", "Liver"]);
    let [warning] = set.warnings() else { panic!("{:?}", set.warnings()) };
    assert!(warning.contains("l9.png: no image belongs to this mask"), "{warning}");
    let [brain, chest, liver] = set.categories() else { panic!() };
    assert_rows(
        brain,
        &folder.path().join("Brain"),
        &[
            (Split::Train, "train/good/b1.png", "", ""),
            (Split::Validation, "valid/good/img/b2.png", "", ""),
            (Split::Test, "test/Ungood/img/b5.png", "Ungood", "test/Ungood/label/b5.png"),
            (Split::Test, "test/good/img/b4.png", "", ""),
        ],
    );
    assert_rows(
        chest,
        &folder.path().join("Chest"),
        &[
            (Split::Train, "train/good/c1.png", "", ""),
            (Split::Test, "test/Ungood/c3.png", "Ungood", ""),
            (Split::Test, "test/good/c2.png", "", ""),
        ],
    );
    assert_rows(
        liver,
        &folder.path().join("Liver"),
        &[
            (Split::Train, "train/good/img/l1.png", "", ""),
            (Split::Validation, "val/good/l2.png", "", ""),
            (Split::Test, "test/Ungood/l4.png", "Ungood", "test/Ungood/anomaly_mask/l4.png"),
            (Split::Test, "test/good/l3.png", "", ""),
        ],
    );
    let alone = Dataset::open(folder.path().join("Chest"), &[]).unwrap();
    assert_eq!(alone.categories(), std::slice::from_ref(chest));
}

#[test]
fn a_folder_of_data_sets() {
    let folder = tree(&["notes/readme.txt", "sets/toys/a/train/good/0.png"]);
    let sets = folder.path().join("sets");
    refused(Dataset::open(&sets, &[]), &sets, "its folder toys is one");
    refused(Dataset::open(folder.path(), &[]), folder.path(), "no images found");
}

#[test]
fn a_folder_with_defects() {
    let good: Vec<String> = (0..7).map(|i| format!("nuts/good/{i}.png")).collect();
    let defects = [
        "nuts/bent/0.png",
        "nuts/bent/1.png",
        "nuts/bent/deep/0.jpg",
        "nuts/rust/0.png",
        "nuts/rust/2.png",
        "nuts/masks/bent/0.png",
        "nuts/masks/bent/deep/0_mask.png",
        "nuts/masks/0.png",
        "nuts/masks/2_mask.png",
        "nuts/masks/rust/3.png",
        "nuts/.cache/0.png",
        "nuts/notes/a.txt",
    ];
    let files: Vec<&str> = good.iter().map(String::as_str).chain(defects).collect();
    let folder = tree(&files);
    let nuts = folder.path().join("nuts");
    let set = Dataset::open(&nuts, &[]).unwrap();
    assert_eq!(categories(&set), ["nuts"]);
    let left = nuts.join("masks/rust/3.png");
    assert_eq!(set.warnings(), [format!("{}: no image belongs to this mask", left.display())]);
    let train = |name| (Split::Train, name, "", "");
    let test = |name, defect, mask| (Split::Test, name, defect, mask);
    assert_rows(
        &set.categories()[0],
        &nuts,
        &[
            train("good/0.png"),
            train("good/1.png"),
            train("good/2.png"),
            train("good/3.png"),
            train("good/5.png"),
            train("good/6.png"),
            test("bent/0.png", "bent", "masks/bent/0.png"),
            test("bent/1.png", "bent", ""),
            test("bent/deep/0.jpg", "bent", "masks/bent/deep/0_mask.png"),
            test("good/4.png", "", ""),
            test("rust/0.png", "rust", "masks/0.png"),
            test("rust/2.png", "rust", "masks/2_mask.png"),
        ],
    );
}

/// An image directly in the folder changes nothing but that it is told.
#[test]
fn a_stray_image_beside_good() {
    let files: Vec<String> = (0..5).map(|i| format!("nuts/good/{i}.png")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).chain(["nuts/bent/0.png"]).collect();
    let folder = tree(&files);
    let nuts = folder.path().join("nuts");
    let without = Dataset::open(&nuts, &[]).unwrap();
    assert_eq!(
        (without.categories()[0].train().len(), without.categories()[0].test().len()),
        (4, 2)
    );
    assert!(without.warnings().is_empty(), "{:?}", without.warnings());

    put(&folder, "nuts/overview.jpg", "x");
    put(&folder, "nuts/sketch.jpg", "x");
    let with = Dataset::open(&nuts, &[]).unwrap();
    assert_eq!(with.categories(), without.categories());
    let [warning] = with.warnings() else { panic!("{:?}", with.warnings()) };
    let says = "nuts: 2 of its images lie beside `good` and are left out, as overview.jpg";
    assert!(warning.contains(says), "{warning}");

    // An empty `good` leaves them where good images are.
    for i in 0..5 {
        fs::remove_file(nuts.join(format!("good/{i}.png"))).unwrap();
    }
    let set = Dataset::open(&nuts, &[]).unwrap();
    let [category] = set.categories() else { panic!("{set:?}") };
    assert_eq!((category.train().len(), category.test().len()), (2, 0));
}
