//! Denoisers of somebody else's that break their promises are refused before they cost anything.

use std::sync::Arc;

use invad::data::Dataset;
use invad::denoisers::{
    Denoiser, DenoiserId, FeatureShape, Kind, Layout, Make, Packed, Parameter, Recompute, Training,
    preset, presets, read, register,
};
use invad::{Device, Error, FitOptions, Precision, Result, Tensor, fit};

const FEATURES: FeatureShape = FeatureShape { grid: 4, channels: 8 };

#[derive(Debug)]
struct Broken(&'static str, Vec<Parameter>);

fn broken(what: &'static str) -> Result<Arc<dyn Denoiser>> {
    let mut all = Layout::default();
    all.linear("a", 3, 2);
    match what {
        "names" => drop(all.linear("a", 3, 2)),
        "places" => all.parameters[1].offset += 1,
        "axes" => all.parameters[1].shape = vec![1, 1, 1, 1, 1, 1, 3],
        "lengths" => all.parameters[0].shape = vec![usize::MAX, 2],
        _ => {}
    }
    Ok(Arc::new(Broken(what, all.parameters)))
}

impl Denoiser for Broken {
    fn id(&self) -> DenoiserId {
        match self.0 {
            "kind" => DenoiserId::new("dit", &FEATURES),
            "key" => DenoiserId::new("broken", &serde_json::json!({"kind": 3})),
            _ => DenoiserId::new("broken", &FEATURES),
        }
    }

    fn features(&self) -> FeatureShape {
        if self.0 == "features" { FeatureShape { grid: 1 << 40, channels: 2 } } else { FEATURES }
    }

    fn parameters(&self) -> &[Parameter] {
        &self.1
    }

    fn recompute(&self) -> &'static [Recompute] {
        if self.0 == "recompute" { &[] } else { &[Recompute::Nothing] }
    }

    fn pack(&self, _: &Tensor, _: &[usize], _: Device, _: Precision) -> Result<Arc<dyn Packed>> {
        unreachable!("it is refused before")
    }
}

#[test]
fn promises() {
    const PRESETS: &[(&str, Make)] = &[
        ("broken-names", |_| broken("names")),
        ("broken-places", |_| broken("places")),
        ("broken-lengths", |_| broken("lengths")),
        ("broken-axes", |_| broken("axes")),
        ("broken-kind", |_| broken("kind")),
        ("broken-key", |_| broken("key")),
        ("broken-features", |_| broken("features")),
        ("broken-recompute", |_| broken("recompute")),
        ("broken-not", |_| broken("not")),
    ];
    let kind = Kind::new("broken", |_| broken("names"), |_| broken("not"));
    register(kind.with_presets(PRESETS)).unwrap();
    for (name, arg) in PRESETS.iter().map(|(name, _)| *name).zip([
        "parameters",
        "parameters",
        "parameters",
        "parameters",
        "id",
        "id",
        "features",
        "recompute",
    ]) {
        match preset(name, FEATURES).unwrap_err() {
            Error::Argument { op: "broken", arg: got, .. } => assert_eq!(got, arg, "{name}"),
            other => panic!("{name}: {other}"),
        }
    }
    let whole = preset("broken-not", FEATURES).unwrap();
    assert!(read(&whole.id()).is_err(), "what files make of it is checked as well");
    // It has neither fresh parameters nor a backward pass.
    let refused = whole.init(1, Device::Cpu).unwrap_err().to_string();
    assert!(refused.contains("for evaluations alone"), "{refused}");
    let how = Training { precision: Precision::F32, recompute: Recompute::Nothing };
    let refused = whole.trainable(1, how, &mut Device::Cpu).err().unwrap();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");

    let taken = |kind| match register(kind).unwrap_err() {
        Error::Argument { arg, .. } => arg,
        other => panic!("{other}"),
    };
    let other = Kind::new("other", |_| broken("not"), |_| broken("not"));
    assert_eq!(taken(Kind::new("dit", |_| broken("not"), |_| broken("not"))), "name");
    assert_eq!(taken(kind), "name");
    assert_eq!(taken(other.with_presets(&[("small", |_| broken("not"))])), "preset");
    let twice: &[(&str, Make)] = &[("one", |_| broken("not")), ("one", |_| broken("not"))];
    assert_eq!(taken(other.with_presets(twice)), "preset");
}

/// One of them has the name, whichever comes first.
#[test]
fn registered_at_the_same_time() {
    const PRESETS: &[(&str, Make)] = &[("both", |_| broken("not"))];
    for round in 0..50 {
        let barrier = std::sync::Barrier::new(2);
        let register = |side: &str| {
            let name = format!("at-once-{round}-{side}").leak();
            let kind = Kind::new(name, |_| broken("not"), |_| broken("not"));
            barrier.wait();
            register(kind.with_presets(PRESETS)).is_ok()
        };
        let one = std::thread::scope(|scope| {
            let other = scope.spawn(|| register("b"));
            usize::from(register("a")) + usize::from(other.join().unwrap())
        });
        assert_eq!(one, usize::from(round == 0));
    }
    assert_eq!(presets().iter().filter(|name| **name == "both").count(), 1);
}

#[test]
fn unknown_names() {
    let id = DenoiserId::new("u-net", &FEATURES);
    let refused = read(&id).unwrap_err().to_string();
    assert!(refused.contains("dit") && refused.contains("u-net"), "{refused}");
    // Before an image is looked at.
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("train/good");
    std::fs::create_dir_all(&good).unwrap();
    std::fs::write(good.join("0.png"), "no image").unwrap();
    let dataset = Dataset::open(folder.path(), &[]).unwrap();
    let options = FitOptions::default().denoiser("smal".into());
    let refused = fit(&dataset, &options, |event| panic!("{event:?}")).unwrap_err();
    assert!(matches!(refused, Error::Argument { arg: "preset", .. }), "{refused}");
}
