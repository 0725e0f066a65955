//! The figures that the demo images must reach, over three seeds.

use std::time::Instant;

use invad::data::Dataset;
use invad::detect::{Evaluation, ScoreOptions, evaluate};
use invad::{Control, FitOptions, Fitted, fit};

/// The longest that training and evaluation may take: three minutes on two cores.
const SECONDS: f64 = 2.0 * 180.0;

/// Seconds that the processors have worked for this process, whatever else runs beside it. Known on
/// Linux alone, in ticks of 10 ms.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn run(dataset: &Dataset, seed: u64) -> Evaluation {
    let (start, busy) = (Instant::now(), processor_time());
    let options = FitOptions { seed, ..FitOptions::default() };
    let Fitted::Detector(detector) = fit(dataset, &options, |_| Control::Continue).unwrap() else {
        panic!("nothing stops the run")
    };
    let fitted = start.elapsed();
    let options = ScoreOptions::default();
    let evaluation = evaluate(&detector, dataset, &options, |_, result| result.map(drop)).unwrap();
    let (all, busy) = (start.elapsed(), processor_time() - busy);
    println!("seed {seed}: {all:.0?}, training {fitted:.0?}; {busy:.0} s of processors");
    println!("  calibrated {:?}\n  paper {:?}", evaluation.calibrated.mean, evaluation.paper.mean);
    assert!(busy < SECONDS, "seed {seed} kept the processors busy for {busy:.0} s");
    evaluation
}

#[test]
#[ignore = "takes minutes; scripts/test runs it"]
fn reaches_its_figures() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data");
    let dataset = Dataset::open(data, &[]).expect("the demo images of the repository");
    let runs: Vec<Evaluation> = (0..3).map(|seed| run(&dataset, seed)).collect();
    let mean = |figure: fn(&Evaluation) -> Option<f64>| -> f64 {
        runs.iter().map(|r| figure(r).unwrap()).sum::<f64>() / runs.len() as f64
    };
    for (name, got, least) in [
        ("image AUROC", mean(|r| r.calibrated.mean.image_auroc), 98.0),
        ("AU-PRO", mean(|r| r.calibrated.mean.au_pro), 93.0),
        ("recall", mean(|r| r.calibrated.mean.recall), 90.0),
        ("image AUROC of the paper's protocol", mean(|r| r.paper.mean.image_auroc), 97.0),
    ] {
        println!("{name}: {got:.2}");
        assert!(got >= least, "{name}: {got:.2}, at least {least}");
    }
    let false_alarms = mean(|r| r.calibrated.mean.false_alarm_rate);
    println!("false alarms: {false_alarms:.2}");
    assert!(false_alarms <= 8.0, "false alarms: {false_alarms:.2} %, at most 8");
    for (seed, run) in runs.iter().enumerate() {
        let auroc = run.calibrated.mean.image_auroc.unwrap();
        assert!(auroc >= 96.0, "image AUROC of seed {seed}: {auroc:.2}, at least 96");
    }
}
