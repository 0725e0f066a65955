//! Folders of images as data sets.

use invad::data::layouts::{LAYOUTS, Layout};
use invad::data::{Category, Split};

use super::*;
use crate::support::photographs;

fn names(samples: &[Sample]) -> Vec<String> {
    samples.iter().map(|s| s.path.file_name().unwrap().to_str().unwrap().into()).collect()
}

#[test]
fn the_demo() {
    let set = Dataset::open(photographs(), &[]).unwrap();
    let categories = set.categories();
    assert!(categories.iter().map(|c| c.name.as_str()).eq(["brick", "cup", "gravel"]));
    assert!(set.warnings().is_empty());
    for category in categories {
        assert_eq!((category.train().len(), category.test().len()), (40, 48));
        assert!(category.train().is_sorted_by_key(|t| &t.path));
        assert!(category.test().is_sorted_by_key(|t| &t.path));
        for test in category.test() {
            let (image, mask) = load_sample(test).unwrap();
            match (&test.defect, mask) {
                (None, None) => {}
                (Some(defect), Some(mask)) => {
                    assert!(mask.pixels().contains(&true));
                    assert_eq!(mask.width() as u32, image.width());
                    let stem = test.path.file_stem().unwrap().to_str().unwrap();
                    let end = format!("{defect}/{stem}_mask.png");
                    assert!(test.mask.as_ref().unwrap().ends_with(end));
                }
                other => panic!("{}: {:?}", test.path.display(), other.0),
            }
        }
    }
}

#[test]
fn one_category_by_itself_or_by_name() {
    let all = Dataset::open(photographs(), &[]).unwrap();
    let cup = Dataset::open(photographs().join("cup"), &[]).unwrap();
    assert_eq!(cup.categories(), &all.categories()[1..2]);
    let cup = Dataset::open(photographs(), &["cup".into(), "brick".into(), "cup".into()]).unwrap();
    assert_eq!(cup.categories(), &all.categories()[..2]);
    Dataset::open(photographs().join("cup"), &["cup".into()]).unwrap();
    // A folder reached by a name that is none.
    let dots = Dataset::open(photographs().join("cup/train/.."), &[]).unwrap();
    assert_eq!(dots.categories()[0].name, "cup");
}

#[test]
fn plain_folders() {
    let folder = tree(&[
        "nuts/b.PNG",
        "nuts/a.jpeg",
        "nuts/.hidden.png",
        "nuts/notes.txt",
        "nuts/Thumbs.db",
        "nuts/good/c.tif",
        "nuts/bad/d.png",
        "nuts/__MACOSX/e.png",
        "nuts/good/._c.tif",
    ]);
    let set = Dataset::open(folder.path().join("nuts"), &[]).unwrap();
    let [nuts] = set.categories() else { panic!("{set:?}") };
    assert_eq!(nuts.name, "nuts");
    // What lies beside `good` is not good.
    assert_eq!(
        (names(nuts.train()), names(nuts.test())),
        (vec!["c.tif".into()], vec!["d.png".into()])
    );
    fs::create_dir_all(folder.path().join("bolts/train")).unwrap();
    fs::rename(folder.path().join("nuts/good"), folder.path().join("bolts/train/good")).unwrap();
    for inside in ["bolts/train/good", "bolts/train"] {
        let set = Dataset::open(folder.path().join(inside), &[]).unwrap();
        let [bolts] = set.categories() else { panic!("{set:?}") };
        assert_eq!((&bolts.name[..], names(bolts.train())), ("bolts", vec!["c.tif".to_string()]));
    }
    let wrong = folder.path().join("nuts");
    let set = Dataset::open(&wrong, &[]).unwrap();
    assert_eq!(names(set.categories()[0].train()), ["a.jpeg", "b.PNG"]);
    assert!(set.categories()[0].test().is_empty());
    refused(
        Dataset::open(&wrong, &["bolts".into()]),
        &wrong,
        "no category `bolts`; there are: nuts",
    );
}

#[test]
fn masks_are_paired_by_name() {
    let folder = tree(&[
        "a/train/good/0.png",
        "a/test/good/0.png",
        "a/ground_truth/good/0.png",
        "a/test/cut/1.png",
        "a/test/cut/2.JPG",
        "a/test/cut/3.png",
        "a/test/cut/4.part.png",
        "a/test/cut/deep/1.png",
        // Sorted by name, the masks are in another order than their images.
        "a/ground_truth/cut/1.bmp",
        "a/ground_truth/cut/2_mask.png",
        "a/ground_truth/cut/4.part_mask.png",
        "a/ground_truth/cut/deep/1_mask.png",
        "a/ground_truth/cut/9_mask.png",
        "a/ground_truth/gone/1_mask.png",
    ]);
    let set = Dataset::open(folder.path(), &[]).unwrap();
    let test = &set.categories()[0].test();
    let got: Vec<_> = test
        .iter()
        .map(|t| {
            let below = |p: &Path, of: &str| {
                let root = folder.path().join("a").join(of);
                p.strip_prefix(root).unwrap().to_str().unwrap().to_string()
            };
            let mask = t.mask.as_ref().map(|m| below(m, "ground_truth"));
            (below(&t.path, "test"), t.defect.clone(), mask)
        })
        .collect();
    let want = [
        ("cut/1.png", Some("cut"), Some("cut/1.bmp")),
        ("cut/2.JPG", Some("cut"), Some("cut/2_mask.png")),
        ("cut/3.png", Some("cut"), None),
        ("cut/4.part.png", Some("cut"), Some("cut/4.part_mask.png")),
        ("cut/deep/1.png", Some("cut"), Some("cut/deep/1_mask.png")),
        ("good/0.png", None, None),
    ]
    .map(|(path, defect, mask)| (path.into(), defect.map(Into::into), mask.map(Into::into)));
    assert_eq!(got, want);
    let [first, second] = set.warnings() else { panic!("{:?}", set.warnings()) };
    assert!(first.contains("9_mask.png") && second.contains("gone"), "{first} {second}");
}

#[test]
fn what_is_no_data_set() {
    let folder = tree(&["file.png", "none/notes.txt", "none/sub/a.png"]);
    let at = |name: &str| folder.path().join(name);
    refused(Dataset::open(at("missing"), &[]), &at("missing"), "no such folder");
    refused(Dataset::open(at("file.png"), &[]), &at("file.png"), "this is a file");
    refused(Dataset::open(at("none"), &[]), &at("none"), "<category>/train/good");

    let folder = tree(&["a/train/good/0.png", "b/train/good/0.txt", "c/test/good/0.png"]);
    let dataset = Dataset::open(folder.path(), &[]).unwrap();
    let counts: Vec<_> =
        dataset.categories().iter().map(|c| (c.train().len(), c.test().len())).collect();
    assert_eq!(counts, [(1, 0), (0, 0), (0, 1)]);
    refused(
        Dataset::open(folder.path(), &["a".into(), "d".into()]),
        folder.path(),
        "no category `d`; there are: a, b, c",
    );
    Dataset::open(folder.path(), &["a".into()]).unwrap();
}

#[test]
fn a_mask_of_another_size_is_refused() {
    let folder = TempDir::new().unwrap();
    let image = put(&folder, "image.png", encode(&picture(16, 12).into(), ImageFormat::Png));
    let mask = encode(&GrayImage::new(12, 16).into(), ImageFormat::Png);
    let mask = put(&folder, "mask.png", mask);
    let test = Sample::defective(image, "cut", Some(mask.clone()));
    refused(load_sample(&test), &mask, "12×16");
    refused(load_sample(&test), &mask, "16×12");
    let (_, none) = load_sample(&Sample { mask: None, ..test }).unwrap();
    assert_eq!(none, None);
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_back() {
    let folder = tree(&["a/train/good/0.png", "elsewhere/1.png"]);
    let good = folder.path().join("a/train/good");
    std::os::unix::fs::symlink(folder.path().join("a"), good.join("back")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), good.join("other")).unwrap();
    std::os::unix::fs::symlink("nowhere", good.join("latest")).unwrap();
    let set = Dataset::open(folder.path(), &["a".into()]).unwrap();
    assert_eq!(names(set.categories()[0].train()), ["0.png", "1.png"]);
    let inputs = collect_inputs(&[good.display().to_string()]);
    assert_eq!(inputs.len(), 2);

    let dangling = good.join("2.png");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let set = Dataset::open(folder.path(), &["a".into()]).unwrap();
    assert_eq!(names(set.categories()[0].train()), ["0.png", "2.png", "1.png"]);
    refused(load_image(&dangling), &dangling, "No such file");
}

#[test]
fn folders_of_images_beside_categories_are_told() {
    let folder = tree(&["a/train/good/0.png", "more/1.png", "notes/readme.txt"]);
    let set = Dataset::open(folder.path(), &[]).unwrap();
    assert_eq!(set.categories().len(), 1);
    let [warning] = set.warnings() else { panic!("{:?}", set.warnings()) };
    assert!(warning.contains("more: ignored"), "{warning}");
    assert!(Dataset::open(folder.path(), &["a".into()]).unwrap().warnings().is_empty());
}

/// Files whose names say all: part-view-ok.png, part-view-scratch.png.
#[derive(Debug)]
struct Flat;

impl Layout for Flat {
    fn shape(&self) -> &'static str {
        "part-view-label.png"
    }

    fn recognises(&self, root: &Path) -> invad::Result<bool> {
        Ok(root.is_dir())
    }

    fn scan(
        &self,
        root: &Path,
        _: &[String],
        warnings: &mut Vec<String>,
    ) -> invad::Result<Vec<Category>> {
        let mut samples = Vec::new();
        for path in collect_inputs(&[root.display().to_string()]) {
            let path = path?;
            let stem = path.file_stem().unwrap().to_str().unwrap().to_string();
            let [part, view, label] = stem.split('-').collect::<Vec<_>>()[..] else {
                warnings.push(format!("{stem}: no name of this layout"));
                continue;
            };
            let sample = match (part, label) {
                ("1", "ok") => Sample::good(path, Split::Train),
                (_, "ok") => Sample::good(path, Split::Test),
                (_, defect) => Sample::defective(path, defect, None),
            };
            samples.push(Sample { view: Some(view.into()), ..sample });
        }
        Ok(vec![Category::new("parts", samples)])
    }
}

#[test]
fn a_layout_of_somebody_elses() {
    let folder =
        tree(&["2-top-dent.png", "2-top-ok.png", "1-side-ok.png", "1-top-ok.png", "x.png"]);
    let set = Dataset::open_as(&Flat, folder.path(), &[]).unwrap();
    let [parts] = set.categories() else { panic!("{set:?}") };
    assert_eq!(names(parts.train()), ["1-side-ok.png", "1-top-ok.png"]);
    assert_eq!(names(parts.test()), ["2-top-dent.png", "2-top-ok.png"]);
    assert_eq!(parts.test()[0].defect.as_deref(), Some("dent"));
    assert_eq!(parts.train()[0].view.as_deref(), Some("side"));
    assert_eq!(set.warnings(), ["x: no name of this layout"]);
}

/// One of each layout, and which of them recognises it first.
#[test]
fn layouts_are_asked_in_turn() {
    for (files, first) in [
        (&["a/train/good/0.png", "b.png"][..], Some(3)),
        (&["train/good/0.png"], Some(3)),
        (&["a/test/dent/0.png"], Some(3)),
        (&["0.png", "other/1.png"], Some(4)),
        (&["good/0.png"], Some(4)),
        (&["other/0.png", "readme.txt"], None),
    ] {
        let folder = tree(files);
        let found = LAYOUTS.iter().position(|layout| layout.recognises(folder.path()).unwrap());
        assert_eq!(found, first, "{files:?}");
    }
}
