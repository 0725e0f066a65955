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
            _ => {}
        }
        if stop(&seen) { Control::Stop } else { Control::Continue }
    });
    (swept, seen)
}

fn done((swept, seen): (invad::Result<Swept>, Seen)) -> (Results, Seen) {
    match swept.unwrap() {
        Swept::Done(results) => (*results, seen),
        Swept::Stopped => panic!("stopped: {seen:?}"),
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
        assert!(matches!(swept.unwrap(), Swept::Stopped), "{seen:?}");
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
        let (swept, _) = run(&axes.sweep(), data.path(), &options(out.path()), |_| false);
        let error = swept.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(axes().denoisers(vec!["tiny".into()]), "small-mlp");
    refused(axes().recipes(vec!["good".into()]), "whitened or paper");
    refused(axes().backbones(vec!["resnet".into()]), "efficientnet-lite0");
    refused(axes().evaluations(vec![0]), "1..=1000");
    assert!(
        !out.path().join("detectors").exists()
            || fs::read_dir(out.path().join("detectors")).unwrap().count() == 0
    );

    // Where other backbones are there, the rows of one that is not stay empty.
    let axes = axes().backbones(vec!["resnet".into(), "efficientnet-lite0".into()]);
    let axes = axes.evaluations(vec![2]).noise(vec![]).scores(vec![Score::Own]);
    let (results, _) = whole(&axes.sweep(), data.path(), out.path());
    assert_eq!(
        results.rows.iter().map(|row| row.setting.is_some()).collect::<Vec<_>>(),
        [false, true]
    );

    fs::remove_dir_all(data.path().join("dots/test")).unwrap();
    let (swept, _) = run(&self::axes().sweep(), data.path(), &options(out.path()), |_| false);
    assert!(matches!(swept, Err(Error::Dataset { .. })));
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
