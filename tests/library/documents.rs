//! What the documents say of experiments and presets is what the code has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use invad::denoisers::{self, FeatureShape};
use invad::sweep::{Axes, FIGURES, Method, Setting, Sweep, TABLES, figure, table};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// An experiment with other lists in the place of its own; an error where it does not use one.
fn experiment(name: &str, change: impl Fn(Axes) -> Axes) -> invad::Result<Sweep> {
    let number = || name.split(' ').nth(1).unwrap().parse().unwrap();
    match name.split(' ').next().unwrap() {
        "--table" => table(number(), &change(Axes::unchanged())),
        "--figure" => figure(number(), &change(Axes::unchanged())),
        _ => Ok(change(Axes::default()).sweep()),
    }
}

/// Different texts in their order, joined.
fn distinct<T: ToString>(all: impl Iterator<Item = T>) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in all.map(|of| of.to_string()) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts.join(", ")
}

/// As many as there are of all categories together, and of each of C.
fn count(each: impl Iterator<Item = bool>) -> String {
    let each: Vec<bool> = each.collect();
    let own = each.iter().filter(|of| **of).count();
    match (each.len() - own, own) {
        (shared, 0) => shared.to_string(),
        (0, 1) => "C".into(),
        (0, own) => format!("{own} C"),
        (shared, own) => format!("{shared} + {own} C"),
    }
}

/// The numbers of detectors and measurements, as `sweep::run` plans them.
fn counts(sweep: &Sweep) -> [String; 2] {
    let settings = sweep.settings();
    let mut trained = Vec::new();
    for of in &settings {
        let key = (of.training().unwrap(), &of.backbone, &of.denoiser, of.per_category);
        if !trained.contains(&key) {
            trained.push(key);
        }
    }
    [count(trained.iter().map(|of| of.3)), count(settings.iter().map(|of| of.per_category))]
}

#[test]
fn experiments_are_as_documented() {
    let text = read("docs/experiments.md");
    let rows = text.lines().filter(|line| line.starts_with("| `--"));
    let mut seen = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, backbones, denoisers, recipes, s, noise, detectors, measurements, lists] =
            cells[..]
        else {
            panic!("{row}")
        };
        let name = name.trim_matches('`');
        assert!(seen.insert(name.to_string()), "{name} is there twice");
        let plain = experiment(name, |axes| axes).unwrap();
        let settings = plain.settings();
        let of = |get: fn(&Setting) -> String| distinct(settings.iter().map(|of| get(of)));
        assert_eq!(backbones, of(|of| of.backbone.clone()), "{name}");
        assert_eq!(denoisers, of(|of| of.denoiser.clone()), "{name}");
        assert_eq!(recipes, of(|of| of.recipe.clone()), "{name}");
        let numbers: BTreeSet<usize> = settings.iter().map(|of| of.evaluations).collect();
        assert_eq!(s, distinct(numbers.iter()), "{name}");
        assert_eq!([detectors, measurements], counts(&plain)[..], "{name}");

        let steps = settings.iter().filter_map(|of| match of.method {
            Method::Reconstruction { noise_step } => {
                Some(format!("step {noise_step} of {}", of.evaluations))
            }
            Method::Inversion => None,
        });
        match distinct(steps) {
            none if none.is_empty() => assert_eq!(noise, "none", "{name}"),
            steps if steps == noise => {}
            _ => {
                let parts: Vec<f64> = noise.split(", ").map(|of| of.parse().unwrap()).collect();
                let same = experiment(name, |axes| axes.noise(parts.clone())).unwrap();
                assert_eq!(same, plain, "{name}: {noise}");
            }
        }

        let named = |names: &str| vec![names.to_string()];
        let changed = |change: &dyn Fn(Axes) -> Axes| {
            experiment(name, change).is_ok_and(|changed| changed != plain)
        };
        for (list, changes) in [
            ("backbones", changed(&|axes| axes.backbones(named("dinov2-vits14")))),
            ("denoisers", changed(&|axes| axes.denoisers(named("medium")))),
            ("recipes", changed(&|axes| axes.recipes(named("whitened")))),
        ] {
            assert!(changes, "--{list} does not change {name}");
        }
        let others = [
            ("`--evaluations`", changed(&|axes| axes.evaluations(vec![7]))),
            ("`--noise`", changed(&|axes| axes.noise(vec![0.3]))),
            ("`--per-category`", changed(&|axes| axes.per_category(vec![true]))),
        ];
        let others = others.iter().filter(|(_, changes)| *changes).map(|(list, _)| list);
        let others = distinct(others);
        assert_eq!(lists, if others.is_empty() { "none" } else { &others }, "{name}");
    }
    let tables = TABLES.iter().map(|n| format!("--table {n}"));
    let figures = FIGURES.iter().map(|n| format!("--figure {n}"));
    assert_eq!(seen, tables.chain(figures).chain(["--sweep".into()]).collect());
}

/// Parameters of every preset with the default backbone's features, as they are written: `(0.8M`, `(1.2B`.
#[test]
fn presets_have_the_parameters_that_the_readme_says() {
    let text = read("README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let features = FeatureShape { grid: 16, channels: 192 };
    for name in denoisers::presets() {
        let (_, rest) = text.split_once(&format!("`{name}` (")).unwrap_or_else(|| panic!("{name}"));
        let said = rest.split([',', ')']).next().unwrap().trim_end_matches(" parameters");
        let (number, unit) = said.split_at(said.len() - 1);
        let unit = if unit == "B" { 1e9 } else { 1e6 };
        let digits = number.split_once('.').map_or(0, |(_, after)| after.len());
        let network = denoisers::preset(name, features).unwrap();
        let count = network.len() as f64 / unit;
        assert_eq!(number, format!("{count:.digits$}"), "{name} has {count}");
    }
}
