//! Sweeps: what they train and measure, what they keep, and what they write.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::{GrayImage, Luma};
use invad::backbones::{self, Loaded, Workspace};
use invad::checkpoint::{Checkpoint, Recipe};
use invad::data::{Dataset, load_image};
use invad::detect::{self, Evaluation, ScoreOptions};
use invad::diffusion::{Inverter, Reconstructor, reconstruction_errors};
use invad::files::FolderLock;
use invad::ops::{self, Random, Stream};
use invad::sweep::{
    self, Axes, Event, Method, ResultRow, Results, Score, Setting, Sweep, SweepOptions, Swept,
};
use invad::{Control, DType, Device, Error, FitOptions, Fitted, Tensor, denoisers, fit};
use tempfile::{TempDir, tempdir};

use crate::support::networks::*;

const STEPS: u64 = 3;
const SEED: u64 = 5;

/// Two categories with good and defective images, one of them with masks.
fn data() -> TempDir {
    let root = tempdir().unwrap();
    for (name, kind) in [("dots", Kind::Dots), ("stripes", Kind::Stripes)] {
        let folder = |of: &str| {
            let folder = root.path().join(name).join(of);
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        let [train, good, bad] = ["train/good", "test/good", "test/square"].map(folder);
        for seed in 0..6 {
            picture(kind, seed, 40, 40).save(train.join(format!("{seed}.png"))).unwrap();
        }
        for seed in 0..3 {
            picture(kind, 500 + seed, 40, 40).save(good.join(format!("{seed}.png"))).unwrap();
            defective(kind, 600 + seed, 40, 40).save(bad.join(format!("{seed}.png"))).unwrap();
            if name == "dots" {
                let inside = |x, y| (20..30).contains(&x) && (10..20).contains(&y);
                let mask = |x, y| Luma([if inside(x, y) { 255 } else { 0 }]);
                let path = folder("ground_truth/square").join(format!("{seed}_mask.png"));
                GrayImage::from_fn(40, 40, mask).save(path).unwrap();
            }
        }
    }
    root
}

fn axes() -> Axes {
    Axes::default()
        .denoisers(vec!["small-mlp".into()])
        .recipes(vec!["whitened".into()])
        .evaluations(vec![2, 3])
        .noise(vec![1.0])
}

fn options(out: &Path) -> SweepOptions {
    SweepOptions::new(out).steps(Some(STEPS)).seed(SEED)
}

/// What a run did.
#[derive(Default, Debug, PartialEq)]
struct Seen {
    trained: Vec<String>,
    steps: usize,
    reused: usize,
    measured: usize,
    images: usize,
    unreadable: Vec<String>,
    discarded: Vec<String>,
    warnings: Vec<String>,
}

/// Runs a sweep until `stop` says so.
fn run(
    sweep: &Sweep,
    data: &Path,
    options: &SweepOptions,
    stop: impl Fn(&Seen) -> bool,
) -> (invad::Result<Swept>, Seen) {
    let mut seen = Seen::default();
    let dataset = Dataset::open(data, &[]).unwrap();
    let swept = sweep::run(sweep, &dataset, options, |event| {
        match event {
            Event::Training { setting, category, .. } => {
                seen.trained.push(format!("{} {}", setting.denoiser, category.unwrap_or("all")));
            }
            Event::Fit(invad::Event::Step { .. }) => seen.steps += 1,
            Event::Reused(_) => seen.reused += 1,
            Event::Measuring { .. } => seen.images += 1,
            Event::Measured { .. } => seen.measured += 1,
            Event::Unreadable(error) | Event::Fit(invad::Event::Unreadable(error)) => {
                seen.unreadable.push(error.to_string());
            }
            Event::Discarded { reason, .. } => seen.discarded.push(reason.into()),
            Event::Warning(warning) => seen.warnings.push(warning.into()),
            _ => {}
        }
        if stop(&seen) { Control::Stop } else { Control::Continue }
    });
    (swept, seen)
}

fn done((swept, seen): (invad::Result<Swept>, Seen)) -> (Results, Seen) {
    match swept.unwrap() {
        Swept::Done(results) => (*results, seen),
        Swept::Stopped(_) => panic!("stopped: {seen:?}"),
    }
}

fn whole(sweep: &Sweep, data: &Path, out: &Path) -> (Results, Seen) {
    done(run(sweep, data, &options(out), |_| false))
}

/// Without what differs from run to run.
fn settled(mut results: Results) -> Results {
    results.rows.iter_mut().for_each(|row| row.images_per_second = None);
    results
}

/// What training and evaluating say by themselves.
fn alone(data: &Path, recipe: Recipe, category: &[String]) -> Evaluation {
    let dataset = Dataset::open(data, category).unwrap();
    let how = FitOptions::default()
        .recipe(recipe)
        .denoiser("small-mlp".into())
        .steps(Some(STEPS))
        .seed(SEED);
    let Fitted::Detector(detector) = fit(&dataset, &how, |_| Control::Continue).unwrap() else {
        panic!("stopped")
    };
    detect::evaluate(&detector, &dataset, &ScoreOptions::default(), |_, _| Ok(())).unwrap()
}

fn row(results: &Results, s: usize, score: Score) -> &ResultRow {
    let is = |row: &&ResultRow| {
        row.score == score && row.setting.as_ref().is_some_and(|of| of.evaluations == s)
    };
    results.rows.iter().find(is).unwrap()
}

#[test]
fn values_are_those_of_training_and_evaluating() {
    let (data, out) = (data(), tempdir().unwrap());
    let axes = axes().evaluations(vec![1, 2, 3]).recipes(vec!["whitened".into(), "paper".into()]);
    let (results, seen) = whole(&axes.sweep(), data.path(), out.path());
    // One for a single evaluation, one for more, and one by the paper's recipe for all.
    assert_eq!(seen.trained.len(), 3);
    for (name, s) in [("whitened", 1), ("whitened", 2), ("whitened", 3), ("paper", 2)] {
        let recipe = Recipe::named(name).unwrap();
        let recipe = if recipe.inversion_steps == s { recipe } else { recipe.with_evaluations(s) };
        let evaluation = alone(data.path(), recipe, &[]);
        let rows = results.rows.iter().filter(|row| {
            row.setting.as_ref().is_some_and(|of| of.recipe == name && of.evaluations == s)
        });
        let rows: Vec<_> = rows.collect();
        let of = |score| *rows.iter().find(|row| row.score == score).unwrap();
        assert_eq!(of(Score::Own).calibrated.as_ref(), Some(&evaluation.calibrated), "{name} {s}");
        assert_eq!(of(Score::Sum).paper.as_ref(), Some(&evaluation.paper), "{name} {s}");
        assert!(of(Score::Own).paper.is_none());
    }
    let speeds = results.rows.iter().map(|row| row.images_per_second.unwrap());
    assert!(speeds.into_iter().all(|speed| speed.is_finite() && speed > 0.0));
    // By Abs or NLL alone both protocols order images alike.
    for score in [Score::Abs, Score::Nll] {
        let row = row(&results, 3, score);
        assert_eq!(row.value("image AUROC", true), row.value("image AUROC", false));
    }
}

#[test]
fn what_is_there_is_used() {
    let (data, out) = (data(), tempdir().unwrap());
    let sweep = axes().sweep();
    let (first, seen) = whole(&sweep, data.path(), out.path());
    // Inversions of two and three steps, and a reconstruction of each.
    assert_eq!((seen.trained.len(), seen.steps, seen.measured), (1, STEPS as usize, 4));
    let (again, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!(again, first);
    assert_eq!(seen, Seen { measured: 4, ..Seen::default() });

    // Another number of evaluations needs no other training.
    let more = axes().evaluations(vec![2, 3, 4]).noise(vec![]).sweep();
    let (_, seen) = whole(&more, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused, seen.measured, seen.images), (0, 1, 3, 12));

    // A measurement that is damaged is made again, and says the same.
    let files: Vec<PathBuf> =
        fs::read_dir(out.path().join("measurements")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 5);
    files.iter().for_each(|file| fs::write(file, "{").unwrap());
    let (again, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused, seen.measured), (0, 1, 4));
    assert_eq!(seen.discarded.len(), 4);
    assert_eq!(settled(again), settled(first));

    // Whatever decides a training makes another of it.
    for changed in [options(out.path()).steps(Some(2)), options(out.path()).seed(SEED + 1)] {
        let (_, seen) = done(run(&sweep, data.path(), &changed, |_| false));
        assert_eq!((seen.trained.len(), seen.reused), (1, 0));
    }
    let added = data.path().join("dots/train/good/7.png");
    picture(Kind::Dots, 77, 40, 40).save(&added).unwrap();
    let (_, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused), (1, 0));
    // As does an image in the place of another of the same size in bytes.
    let later = SystemTime::now() + Duration::from_secs(1);
    fs::File::options().write(true).open(&added).unwrap().set_modified(later).unwrap();
    let (_, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused), (1, 0));

    // Test images decide what is measured, and nothing of the training.
    let tests = data.path().join("dots/test/good");
    picture(Kind::Dots, 78, 40, 40).save(tests.join("more.png")).unwrap();
    let (more, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused, seen.measured), (0, 1, 4));
    fs::remove_file(tests.join("more.png")).unwrap();
    let (before, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!(seen, Seen { measured: 4, ..Seen::default() });
    assert_ne!(settled(before), settled(more));
}

#[test]
fn what_was_stopped_goes_on() {
    let data = data();
    let sweep = axes().sweep();
    let straight = tempdir().unwrap();
    let (straight, _) = whole(&sweep, data.path(), straight.path());
    let out = tempdir().unwrap();
    let stopped = |stop: &dyn Fn(&Seen) -> bool| {
        let (swept, seen) = run(&sweep, data.path(), &options(out.path()), stop);
        let Swept::Stopped(so_far) = swept.unwrap() else { panic!("{seen:?}") };
        let done = so_far.rows.iter().filter(|row| row.setting.is_some()).count();
        // Four scores of each inversion, one of a reconstruction.
        assert_eq!((so_far.measured.1, done), (4, 4 * so_far.measured.0));
        if seen.measured > 0 {
            let note = format!("Stopped: {} of 4 measurements are there", seen.measured);
            assert!(so_far.notes[0].contains(&note) && so_far.markdown().contains(&note));
        }
        seen
    };
    assert_eq!(stopped(&|seen| seen.steps == 1).measured, 0);
    // The training goes on, and ends; one measurement is whole, the next is not.
    let seen = stopped(&|seen| seen.measured == 1 && seen.images > 14);
    assert_eq!((seen.steps, seen.measured), (STEPS as usize - 1, 1));
    assert_eq!(stopped(&|seen| seen.measured == 2).trained.len(), 0);
    let (results, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.reused, seen.measured), (1, 4));
    assert_eq!(settled(results), settled(straight));
    // What a training could go on from is not kept when it is done.
    let folder = fs::read_dir(out.path().join("detectors")).unwrap().next().unwrap().unwrap();
    let names = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["detector.safetensors", "settings.json"]);
}

#[test]
fn one_detector_of_each_category() {
    let (data, out) = (data(), tempdir().unwrap());
    let axes = axes().per_category(vec![true]).evaluations(vec![2]).noise(vec![]);
    let (results, seen) = whole(&axes.sweep(), data.path(), out.path());
    assert_eq!(seen.trained, ["small-mlp dots", "small-mlp stripes"]);
    let own = row(&results, 2, Score::Own).calibrated.clone().unwrap();
    for name in ["dots", "stripes"] {
        let recipe = Recipe::whitened().with_evaluations(2);
        let evaluation = alone(data.path(), recipe, &[name.to_string()]);
        assert_eq!(own.categories[name], evaluation.calibrated.categories[name]);
    }
    assert_eq!(
        own.mean,
        invad::metrics::Metrics::mean(&own.categories.values().copied().collect::<Vec<_>>())
    );
}

/// The reconstruction's numbers, put together from its parts.
#[test]
fn reconstruction_errors_are_the_librarys() {
    let (data, out) = (data(), tempdir().unwrap());
    let axes = axes().evaluations(vec![4]).noise(vec![0.6]).scores(vec![]);
    let (results, _) = whole(&axes.sweep(), data.path(), out.path());
    let row = &results.rows[0];
    let setting = row.setting.as_ref().unwrap();
    assert_eq!(setting.method, Method::Reconstruction { noise_step: 2 });
    let folder = fs::read_dir(out.path().join("detectors")).unwrap().next().unwrap().unwrap();
    let checkpoint = Checkpoint::load(folder.path().join("detector.safetensors")).unwrap();
    let backbone =
        Loaded::new(backbones::named("efficientnet-lite0").unwrap(), Device::Cpu).unwrap();
    let denoiser = denoisers::read(&checkpoint.config.denoiser).unwrap();
    let recipe = &checkpoint.config.recipe;
    let inverter =
        Inverter::new(&*denoiser, &checkpoint.ema, recipe.parameterisation, 4, 0, Device::Cpu);
    let of = Reconstructor::new(inverter.unwrap(), 2).unwrap();
    let dataset = Dataset::open(data.path(), &[]).unwrap();
    for (number, category) in dataset.categories().iter().enumerate() {
        let zeros = |n| {
            let shape = backbone.spec().features().of(n);
            Tensor::zeros(&shape, DType::F32, Device::Cpu).unwrap()
        };
        let mut noise = zeros(1);
        let stream = Stream::Reconstruction;
        ops::normal(Random { seed: SEED, stream, step: number as u64 }, &mut noise).unwrap();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for test in category.test() {
            let (mut features, mut white) = (zeros(1), zeros(1));
            let images = [load_image(&test.path).unwrap()];
            backbone.extract(&images, &mut features, &mut Workspace::default()).unwrap();
            checkpoint.whitening.as_ref().unwrap().apply(&features, &mut white).unwrap();
            let mut x = of.noised(&white, &noise).unwrap();
            of.reconstruct(&mut x, &mut of.workspace(1).unwrap()).unwrap();
            let error = reconstruction_errors(&white, &x).unwrap().means[0];
            if test.defect.is_some() { bad.push(error) } else { good.push(error) }
        }
        assert_eq!(row.scores[&category.name], [good, bad]);
    }
    assert!(row.value("image AUROC", true).is_some() && row.value("AU-PRO", false).is_some());
}

#[test]
fn settings_that_there_are_not() {
    let (data, out) = (data(), tempdir().unwrap());
    let refused = |axes: Axes, says: &str| {
        let (swept, seen) = run(&axes.sweep(), data.path(), &options(out.path()), |_| false);
        let error = swept.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(seen, Seen::default());
    };
    refused(axes().denoisers(vec!["tiny".into()]), "small-mlp");
    refused(axes().recipes(vec!["good".into()]), "whitened or paper");
    refused(axes().backbones(vec!["resnet".into()]), "efficientnet-lite0");
    // Beside one that there is as well.
    let beside = vec!["efficientnet-lite0".into(), "resnet".into()];
    refused(axes().backbones(beside), "efficientnet-b4");
    refused(axes().evaluations(vec![0]), "1..=1000");
    assert!(
        !out.path().join("detectors").exists()
            || fs::read_dir(out.path().join("detectors")).unwrap().count() == 0
    );

    let refused = |says: [&str; 2]| {
        let (swept, seen) = run(&axes().sweep(), data.path(), &options(out.path()), |_| false);
        let error = swept.unwrap_err();
        assert!(matches!(error, Error::Dataset { .. }), "{error}");
        assert!(says.into_iter().all(|part| error.to_string().contains(part)), "{error}");
        assert_eq!(seen, Seen::default(), "before any work");
    };
    for test in ["good", "square"] {
        for file in fs::read_dir(data.path().join("dots/test").join(test)).unwrap() {
            fs::write(file.unwrap().path(), "this is no image").unwrap();
        }
    }
    refused(["`dots`", "no readable test images"]);
    fs::remove_dir_all(data.path().join("dots/test")).unwrap();
    refused(["`dots`", "no test images"]);
}

/// Of good or of defective images alone, all but what tells them apart is measured, and that of the other categories.
#[test]
fn test_images_of_one_kind() {
    for (removed, lacking) in [("square", "defective"), ("good", "good")] {
        let (data, out) = (data(), tempdir().unwrap());
        fs::remove_dir_all(data.path().join("dots/test").join(removed)).unwrap();
        let axes = axes().evaluations(vec![2]).scores(vec![Score::Sum]);
        let (results, seen) = whole(&axes.sweep(), data.path(), out.path());
        let [warning] = &seen.warnings[..] else { panic!("{:?}", seen.warnings) };
        assert!(warning.contains(&format!("`dots` has no {lacking} test images")), "{warning}");
        for row in &results.rows {
            let categories = &row.calibrated.as_ref().unwrap().categories;
            assert_eq!(categories["dots"].image_auroc, None);
            assert!(categories["dots"].recall.is_some() == (removed == "good"));
            assert_eq!(row.value("image AUROC", true), categories["stripes"].image_auroc);
            assert!(row.value("image AUROC", true).is_some());
        }
        let note = "image AUROC is the mean of 1 of 2 categories, without dots.";
        assert!(results.notes.iter().any(|of| of == note), "{:?}", results.notes);
        assert!(results.markdown().contains(note));
    }
}

/// Damages a file, in a way that neither its size nor its time of change tells; what is returned mends it so.
fn damage(path: PathBuf) -> impl Fn() {
    let whole = fs::read(&path).unwrap();
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let write = move |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    write(&vec![b'x'; whole.len()]);
    move || write(&whole)
}

#[test]
fn images_that_cannot_be_read_are_named_whenever_results_are() {
    let (data, out) = (data(), tempdir().unwrap());
    let names = [
        "dots/ground_truth/square/0_mask.png",
        "dots/test/good/1.png",
        "stripes/train/good/2.png",
        "stripes/train/good/3.png",
    ];
    let mend = names.map(|name| damage(data.path().join(name)));
    let sweep = axes().evaluations(vec![2]).scores(vec![Score::Own, Score::Sum]).sweep();
    let said = |seen: &Seen, names: &[&str]| {
        let mut said = seen.unreadable.clone();
        said.sort_unstable();
        let all: Vec<_> = names.iter().map(|name| data.path().join(name)).collect();
        assert_eq!(said.len(), all.len(), "{said:?}");
        for (said, path) in said.iter().zip(all) {
            assert!(said.starts_with(path.to_str().unwrap()), "{said}");
        }
    };
    let (first, seen) = whole(&sweep, data.path(), out.path());
    said(&seen, &names);
    assert_eq!(first.unreadable.iter().map(|of| &of.path[..]).collect::<Vec<_>>(), names);
    let note = "4 images could not be read and are left out: dots/ground_truth/square/0_mask.png, dots/test/good/1.png, \
                stripes/train/good/2.png, and 1 more.";
    assert_eq!(first.notes[0], note);
    assert!(first.markdown().contains(note));
    first.write(out.path()).unwrap();
    let json = fs::read_to_string(out.path().join("sweep.json")).unwrap();
    assert!(json.contains(note));
    #[cfg(feature = "report")]
    {
        invad::report::write_sweep(&first, out.path()).unwrap();
        assert!(fs::read_to_string(out.path().join("sweep.html")).unwrap().contains(note));
    }

    let (again, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.images), (0, 0));
    said(&seen, &names);
    assert_eq!(again, first);

    // What can be read by then is measured, and trained on.
    (mend[0])();
    (mend[1])();
    let (_, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused, seen.discarded.len()), (0, 1, 2));
    assert!(seen.discarded[0].contains("which could not be read then, can be now"));
    said(&seen, &names[2..]);
    (mend[2])();
    (mend[3])();
    let (mended, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused, seen.discarded.len()), (1, 0, 3));
    said(&seen, &[]);
    let fresh = tempdir().unwrap();
    assert_eq!(settled(mended), settled(whole(&sweep, data.path(), fresh.path()).0));
}

/// The only folder in a folder.
fn only(folder: PathBuf) -> PathBuf {
    let mut all = fs::read_dir(folder).unwrap();
    let (first, more) = (all.next().unwrap().unwrap().path(), all.next());
    assert!(more.is_none());
    first
}

#[test]
fn what_is_damaged_is_made_again() {
    let (data, out) = (data(), tempdir().unwrap());
    let axes = axes().evaluations(vec![3]).noise(vec![]).scores(vec![Score::Own]);
    let sweep = axes.sweep();
    let (first, _) = whole(&sweep, data.path(), out.path());
    let folder = only(out.path().join("detectors"));
    let [detector, settings] = ["detector.safetensors", "settings.json"].map(|n| folder.join(n));
    let measurement = only(out.path().join("measurements"));
    let (whole_detector, said) = (fs::read(&detector).unwrap(), fs::read(&settings).unwrap());
    let other = String::from_utf8(said).unwrap().replace("\"seed\": 5", "\"seed\": 6");
    let mut flipped = whole_detector.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let damages: [(&Path, Option<&[u8]>, &str); 6] = [
        (&detector, Some(b""), "damaged"),
        (&detector, Some(&whole_detector[..whole_detector.len() / 2]), "damaged"),
        (&detector, Some(&flipped), "damaged"),
        (&settings, Some(b"{"), "settings.json beside it"),
        (&settings, Some(other.as_bytes()), "of another detector"),
        (&settings, None, "is missing"),
    ];
    for (path, bytes, says) in damages {
        match bytes {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        fs::remove_file(&measurement).unwrap();
        let (again, seen) = whole(&sweep, data.path(), out.path());
        assert_eq!((seen.trained.len(), seen.reused, seen.measured), (1, 0, 1), "{says}");
        assert!(seen.discarded.len() == 1 && seen.discarded[0].contains(says), "{seen:?}");
        assert!(fs::read(&detector).unwrap() == whole_detector, "{says}");
        assert_eq!(settled(again), settled(first.clone()));
    }

    // A measurement.
    let kept = fs::read_to_string(&measurement).unwrap();
    let at = kept.find("images_per_second").unwrap();
    let digit = at + kept[at..].find(|c: char| c.is_ascii_digit()).unwrap();
    let another = if &kept[digit..=digit] == "9" { "8" } else { "9" };
    let edited = [&kept[..digit], another, &kept[digit + 1..]].concat();
    for (text, says) in [(&edited[..], "its checksum is another"), (&kept[..digit], "EOF")] {
        fs::write(&measurement, text).unwrap();
        let (again, seen) = whole(&sweep, data.path(), out.path());
        assert_eq!((seen.trained.len(), seen.reused, seen.measured), (0, 1, 1), "{says}");
        assert!(seen.discarded.len() == 1 && seen.discarded[0].contains(says), "{seen:?}");
        assert_eq!(settled(again), settled(first.clone()));
    }

    // The state of a training.
    fs::remove_file(&measurement).unwrap();
    fs::remove_file(&detector).unwrap();
    let state = folder.join("training.safetensors");
    for cut in [0, 10_000] {
        let (swept, _) = run(&sweep, data.path(), &options(out.path()), |seen| seen.steps == 2);
        assert!(matches!(swept.unwrap(), Swept::Stopped(_)));
        let bytes = fs::read(&state).unwrap();
        fs::write(&state, &bytes[..cut]).unwrap();
        let (_, seen) = run(&sweep, data.path(), &options(out.path()), |seen| seen.steps == 1);
        assert_eq!((seen.discarded.len(), seen.steps), (1, 1), "{seen:?}");
        fs::remove_file(&state).unwrap();
    }
    let (again, _) = whole(&sweep, data.path(), out.path());
    assert!(fs::read(&detector).unwrap() == whole_detector);
    assert_eq!(settled(again), settled(first));

    // A folder in the place of a file is refused before work.
    fs::remove_file(&detector).unwrap();
    for file in [&measurement, &detector, &state] {
        fs::remove_file(file).ok();
        fs::create_dir(file).unwrap();
        let (swept, seen) = run(&sweep, data.path(), &options(out.path()), |_| false);
        let error = swept.unwrap_err();
        assert!(matches!(&error, Error::File { path, .. } if path == file), "{error}");
        assert!(error.to_string().contains("move it away") && seen == Seen::default(), "{error}");
        fs::remove_dir(file).unwrap();
    }
    // A file in the place of a folder as well.
    let folder = out.path().join("measurements");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    let (swept, seen) = run(&sweep, data.path(), &options(out.path()), |_| false);
    let error = swept.unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if *path == folder), "{error}");
    assert!(error.to_string().contains("move it away") && seen == Seen::default(), "{error}");
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let (data, out) = (data(), tempdir().unwrap());
    let sweep = axes().evaluations(vec![3]).noise(vec![]).sweep();
    whole(&sweep, data.path(), out.path());
    let folder = only(out.path().join("detectors"));
    let measurements = out.path().join("measurements");
    let left = [
        folder.join(".detector.safetensors.Xx01Yz.tmp"),
        measurements.join(".small-mlp-1.json.Xx01Yz.tmp"),
        out.path().join(".sweep.md.Xx01Yz.tmp"),
        out.path().join(".sweep-steps-1.svg.Xx01Yz.tmp"),
    ];
    let others = [out.path().join(".other.md.Xx01Yz.tmp"), out.path().join("sweep.tmp")];
    left.iter().chain(&others).for_each(|file| fs::write(file, "half").unwrap());
    sweep.remove_leftovers(&FolderLock::acquire(out.path()).unwrap());
    assert!(left.iter().all(|file| !file.exists()) && others.iter().all(|file| file.exists()));
    let (_, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!(seen, Seen { measured: 1, ..Seen::default() });
}

#[test]
fn what_stands_twice_is_a_row_once() {
    fn twice<T: Clone>(list: &[T]) -> Vec<T> {
        [list, list].concat()
    }
    let axes = axes().noise(vec![0.5, 1.0]);
    let doubled = axes
        .clone()
        .backbones(twice(&axes.backbones))
        .denoisers(twice(&axes.denoisers))
        .recipes(twice(&axes.recipes))
        .evaluations(vec![2, 3, 2])
        .noise(vec![0.5, 1.0, 0.5])
        .per_category(vec![false, false])
        .scores(twice(&axes.scores));
    assert_eq!(doubled.sweep(), axes.sweep());
    let changed = |s: Vec<usize>, noise: Vec<f64>, denoisers: [&str; 3]| {
        let denoisers = denoisers.map(String::from).into();
        let changes = Axes::unchanged().evaluations(s).noise(noise).denoisers(denoisers);
        sweep::table(4, &changes).unwrap()
    };
    let once = changed(vec![5, 3], vec![0.5, 1.0], ["mlp", "small", "mlp"]);
    assert_eq!(changed(vec![5, 3, 5], vec![0.5, 1.0, 0.5], ["mlp", "mlp", "small"]), once);
    assert_eq!(once.rows.len(), 2 * (2 + 2));
}

#[test]
fn lists_that_an_experiment_has_no_use_for() {
    let none = Axes::unchanged;
    let s = || none().evaluations(vec![3]);
    let noise = || none().noise(vec![0.5]);
    let both = || none().per_category(vec![false, true]);
    let refused = |of: invad::Result<Sweep>, name: &str, list: &str| {
        let Err(Error::Argument { op, arg, expected, .. }) = of else { panic!("{name}, {list}") };
        assert_eq!((op, arg), (name, list));
        assert!(expected.contains("left out") && !expected.contains(&format!("{list},")));
    };
    let names = ["table-2", "table-3", "table-5", "table-7", "table-8"];
    for (number, name) in [2, 3, 5, 7, 8].into_iter().zip(names) {
        refused(sweep::table(number, &s()), name, "evaluations");
        refused(sweep::table(number, &noise()), name, "noise");
    }
    refused(sweep::table(6, &s()), "table-6", "evaluations");
    refused(sweep::table(9, &noise()), "table-9", "noise");
    refused(sweep::figure(3, &noise()), "figure-3", "noise");
    refused(sweep::figure(4, &none().scores(vec![Score::Own])), "figure-4", "scores");
    refused(sweep::table(3, &both()), "table-3", "per_category");
    // A single evaluation has no reconstruction.
    refused(sweep::table(4, &noise().evaluations(vec![1])), "table-4", "noise");
    for used in [
        sweep::table(4, &s().noise(vec![0.5])),
        sweep::table(6, &noise()),
        sweep::table(9, &s().recipes(vec!["whitened".into()])),
        sweep::figure(3, &s()),
        sweep::table(2, &both().backbones(vec!["efficientnet-lite0".into()])),
        sweep::table(3, &none().per_category(vec![true])),
    ] {
        assert!(!used.unwrap().rows.is_empty());
    }
    assert!(sweep::table(10, &none()).is_err() && sweep::figure(5, &none()).is_err());
}

/// What an event is, where there are several kinds.
fn kind(event: &Event) -> &'static str {
    use invad::Event as Fit;
    match event {
        Event::Training { .. } => "training",
        Event::Fit(Fit::Warning(_)) => "few images",
        Event::Fit(Fit::Features { .. }) => "features",
        Event::Fit(Fit::Unreadable(_)) => "unreadable to train on",
        Event::Fit(Fit::Plan { .. }) => "plan",
        Event::Fit(Fit::Step { .. }) => "step",
        Event::Fit(Fit::Calibration { done, total }) if done == total => "calibrated",
        Event::Fit(Fit::Calibration { .. }) => "calibration",
        Event::Reused(_) => "reused",
        Event::Measuring { .. } => "measuring",
        Event::Timing { .. } => "timing",
        Event::Measured { .. } => "measured",
        Event::Unreadable(_) => "unreadable",
        Event::Discarded { .. } => "discarded",
        Event::Warning(_) => "warning",
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stop_at_any_event_goes_on_to_the_same_results() {
    let (data, out) = (data(), tempdir().unwrap());
    fs::remove_dir_all(data.path().join("stripes/test/good")).unwrap();
    for name in ["dots/test/good/1.png", "dots/train/good/2.png", "dots/train/good/3.png"] {
        fs::write(data.path().join(name), "this is no image").unwrap();
    }
    let sweep = axes().evaluations(vec![2]).scores(vec![Score::Own, Score::Sum]).sweep();
    let dataset = Dataset::open(data.path(), &[]).unwrap();
    // A detector that is trained around three evaluations, an inversion by two, and a reconstruction.
    let stops = [
        ("warning", 0),
        ("training", 0),
        ("features", 0),
        ("step", 0),
        ("calibrated", 0),
        ("measuring", 0),
        ("reused", 0),
        // By two.
        ("calibration", 0),
        ("unreadable", 0),
        ("timing", 0),
        ("measured", 1),
        // Of the reconstruction.
        ("measuring", 1),
        ("timing", 1),
    ];
    for (at, done) in stops {
        let mut after = 0;
        let swept = sweep::run(&sweep, &dataset, &options(out.path()), |event| {
            after += usize::from(after > 0);
            if kind(&event) == at && after == 0 {
                after = 1;
                return Control::Stop;
            }
            Control::Continue
        });
        assert_eq!(after, 1, "{at}");
        let Swept::Stopped(so_far) = swept.unwrap() else { panic!("{at}") };
        assert_eq!(so_far.measured.0, done, "{at}");
    }
    // And where what is there is damaged.
    let measurement = only(out.path().join("measurements"));
    let bytes = fs::read(&measurement).unwrap();
    fs::write(&measurement, "").unwrap();
    let swept = sweep::run(&sweep, &dataset, &options(out.path()), |event| {
        if kind(&event) == "discarded" { Control::Stop } else { Control::Continue }
    });
    assert!(matches!(swept.unwrap(), Swept::Stopped(_)));
    fs::write(&measurement, bytes).unwrap();
    let (results, seen) = whole(&sweep, data.path(), out.path());
    assert_eq!((seen.trained.len(), seen.reused, seen.measured), (0, 1, 2));
    // To stop at the last is to finish.
    let (again, _) =
        done(run(&sweep, data.path(), &options(out.path()), |seen| seen.measured == 2));
    assert_eq!(again, results);

    let straight = tempdir().unwrap();
    let (expected, _) = whole(&sweep, data.path(), straight.path());
    assert_eq!(settled(results), settled(expected));
    let detector = |out: &TempDir| {
        fs::read(only(out.path().join("detectors")).join("detector.safetensors")).unwrap()
    };
    assert!(detector(&out) == detector(&straight));
}

/// A row that has some categories says so.
#[test]
fn rows_of_some_categories() {
    let (data, out) = (data(), tempdir().unwrap());
    let axes = axes().evaluations(vec![3]).noise(vec![]).scores(vec![Score::Own]);
    let axes = axes.per_category(vec![false, true]);
    let (swept, seen) =
        run(&axes.sweep(), data.path(), &options(out.path()), |seen| seen.measured == 2);
    let Swept::Stopped(results) = swept.unwrap() else { panic!("{seen:?}") };
    let said = results.notes.iter().find(|note| note.contains("1 of 2 categories")).unwrap();
    assert!(said.starts_with(
        "image AUROC (of small-mlp, whitened, efficientnet-lite0, S = 3, one detector per category"
    ));
    assert!(said.ends_with("is the mean of 1 of 2 categories, without stripes."), "{said}");
    let (results, _) = whole(&axes.sweep(), data.path(), out.path());
    // Stripes have no masks.
    let [note] = &results.notes[..] else { panic!("{:?}", results.notes) };
    assert!(
        note.contains("AU-PRO")
            && note.ends_with("the mean of 1 of 2 categories, without stripes.")
    );
}

/// Made-up results: what is measured and known, what is known alone, what is measured alone.
fn made_up(comparable: bool) -> Results {
    let evaluated = |auroc: f64| {
        let metrics = invad::metrics::Metrics { image_auroc: Some(auroc), ..Default::default() };
        invad::detect::Evaluated::new([("bolt|1".to_string(), metrics)].into())
    };
    let row = |name: &str, auroc: Option<f64>, published: Option<f64>| ResultRow {
        name: name.into(),
        setting: auroc.map(|_| Setting::own()),
        score: Score::Sum,
        parameters: Some(1_234_567),
        images_per_second: auroc.map(|_| 123.4),
        calibrated: auroc.map(evaluated),
        paper: auroc.map(|auroc| evaluated(auroc - 1.0)),
        published: published.map(|of| ("image AUROC".to_string(), of)).into_iter().collect(),
        scores: Default::default(),
    };
    Results {
        name: "made-up".into(),
        title: "Made up".into(),
        about: "<script>".into(),
        facts: vec![("Data".into(), "a & b".into())],
        published_of: Some("MVTec AD".into()),
        comparable,
        columns: vec!["image AUROC".into(), "images/s".into()],
        rows: vec![
            row("both", Some(98.26), Some(99.0)),
            row("theirs", None, Some(64.9)),
            row("ours", Some(100.0), None),
        ],
        histograms: true,
        ..Results::default()
    }
}

#[test]
fn tables_have_the_papers_figures_beside() {
    let text = made_up(true).markdown();
    let (calibrated, paper) = text.split_once("## The paper's protocol").unwrap();
    assert!(calibrated.contains("| both | 98.3 (99.0, −0.7) | 123 |"), "{calibrated}");
    assert!(!calibrated.contains("theirs"));
    assert!(
        calibrated.contains("\nIn percent, but for images a second; the mean over categories.")
    );
    for line in [
        "| row | image AUROC | images/s |",
        "| --- | ---: | ---: |",
        "| both | 97.3 (99.0, −1.7) | 123 |",
        "| theirs | - (64.9) | - |",
        "| ours | 99.0 | 123 |",
    ] {
        assert!(paper.lines().any(|l| l == line), "{line}\n{paper}");
    }
    // On other images a difference would say nothing.
    let text = made_up(false).markdown();
    assert!(text.contains("| both | 98.3 (99.0) | 123 |") && text.contains("so of other images"));
}

#[test]
fn files_hold_what_was_measured() {
    let out = tempdir().unwrap();
    let results = made_up(true);
    results.write(out.path()).unwrap();
    let read = |name: &str| fs::read_to_string(out.path().join(name)).unwrap();
    let json: Results = serde_json::from_str(&read("made-up.json")).unwrap();
    assert_eq!(json, results);
    assert_eq!(read("made-up.md"), results.markdown());
    let text = read("made-up.csv");
    let mut csv = csv::Reader::from_reader(text.as_bytes());
    let headings = csv.headers().unwrap().clone();
    let at = |name: &str| headings.iter().position(|heading| heading == name).unwrap();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    // Two rows under two protocols, a category and the mean each, and what is the paper's alone.
    assert_eq!(rows.len(), 9);
    let of = |name: &str, protocol: &str, category: &str| {
        let is = |r: &&csv::StringRecord| {
            (&r[at("row")], &r[at("protocol")], &r[at("category")]) == (name, protocol, category)
        };
        rows.iter().find(is).unwrap()
    };
    let number = |row: &csv::StringRecord, name: &str| row[at(name)].parse::<f64>().ok();
    let both = of("both", "calibrated", "mean");
    assert_eq!(number(both, "image AUROC"), Some(98.26));
    assert_eq!(number(both, "paper's image AUROC"), Some(99.0));
    let difference = number(both, "image AUROC less the paper's").unwrap();
    assert!((difference + 0.74).abs() < 1e-9);
    assert_eq!(number(of("both", "paper", "bolt|1"), "image AUROC"), Some(97.26));
    assert_eq!(number(of("both", "paper", "bolt|1"), "paper's image AUROC"), None);
    let theirs = of("theirs", "paper", "mean");
    assert_eq!(
        (number(theirs, "image AUROC"), number(theirs, "paper's image AUROC")),
        (None, Some(64.9))
    );
}

/// Results by S: what is not there or no number is left out of charts, and the rest stays.
#[cfg(feature = "report")]
#[test]
fn charts_of_what_is_absent() {
    let out = tempdir().unwrap();
    let draw = |name: &str, rows: &[(usize, Option<f64>, Option<f64>)]| {
        let mut results = made_up(true);
        let row = |&(evaluations, auroc, speed): &_| {
            let mut row = results.rows[2].clone();
            row.setting = Some(Setting { evaluations, ..Setting::own() });
            row.images_per_second = speed;
            row.paper.as_mut().unwrap().mean.image_auroc = auroc;
            row
        };
        results.rows = rows.iter().map(row).collect();
        results.name = name.into();
        invad::report::write_sweep(&results, out.path()).unwrap();
        let page = fs::read_to_string(out.path().join(format!("{name}.html"))).unwrap();
        for wrong in ["NaN", "inf ", "inf\"", "inf</"] {
            assert!(!page.contains(wrong), "{wrong}: {page}");
        }
        // A mark in each chart says what it is.
        let titles = page.split("<title>small, S = ").skip(1);
        let mut drawn: Vec<String> =
            titles.map(|of| of.split(':').next().unwrap().to_string()).collect();
        drawn.sort();
        let svg = |kind: &str| out.path().join(format!("{name}-{kind}-1.svg")).is_file();
        (drawn.join(" "), svg("steps"), svg("speed"))
    };
    let nan = Some(f64::NAN);
    let rows = [
        (1, None, Some(2.0)),
        (2, nan, Some(2.0)),
        (3, Some(90.0), None),
        (4, Some(90.0), Some(0.0)),
        (5, Some(90.0), Some(f64::INFINITY)),
        (6, Some(0.0), Some(0.01)),
        (7, Some(100.0), Some(500.0)),
    ];
    assert_eq!(draw("two", &rows), ("6 6 7 7".into(), true, true));
    let others = ["two-steps-own.svg", "two-1.svg", "twofold-steps-1.svg"];
    others.iter().for_each(|name| fs::write(out.path().join(name), "another's").unwrap());
    // Charts of the earlier run do not stay.
    assert_eq!(draw("two", &rows[..6]), (String::new(), false, false));
    assert!(others.iter().all(|name| out.path().join(name).is_file()));
    // One number of evaluations is no line, one point nothing to compare.
    assert_eq!(draw("one", &rows[..6]), (String::new(), false, false));
    assert_eq!(draw("none", &rows[..2]), (String::new(), false, false));
}

#[cfg(feature = "report")]
#[test]
fn a_page_and_charts() {
    let (data, out) = (data(), tempdir().unwrap());
    let (mut results, _) = whole(&axes().sweep(), data.path(), out.path());
    results.about = "<script>".into();
    invad::report::write_sweep(&results, out.path()).unwrap();
    let page = fs::read_to_string(out.path().join("sweep.html")).unwrap();
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
    assert!(!page.contains("NaN") && !page.contains("inf\""));
    for said in [
        "In percent, but for images a second",
        "reconstruction from step 1 of 2",
        "measured under the paper's protocol",
        "scores calibrated with held-out images",
        "S, evaluations of the network (logarithmic)",
    ] {
        assert!(page.contains(said), "{said}");
    }
    let names =
        fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut charts: Vec<String> = names.filter(|name| name.ends_with(".svg")).collect();
    charts.sort();
    // Of each score and the reconstruction two, and a histogram of NLL and of the sum for each S.
    assert_eq!(charts.len(), 2 * 5 + 4, "{charts:?}");
    for name in charts {
        let svg = fs::read_to_string(out.path().join(&name)).unwrap();
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width="), "{svg:.80}");
        assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"), "{name}");
        // The page's words, which say what is drawn without it.
        let title = svg.split("<text class=\"head\"").nth(1).unwrap();
        let title = title.split(['>', '<']).nth(1).unwrap();
        assert!(page.contains(title), "{name}: {title}");
        assert!(svg.contains(if name.contains("scores") { "downwards" } else { ">small-mlp<" }));
    }
}
