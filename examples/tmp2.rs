use invad::*;
fn main() -> Result<()> {
    let ds = data::Dataset::open("examples/data", &[])?;
    let steps: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    for seed in std::env::args().skip(2).map(|s| s.parse::<u64>().unwrap()) {
        let f = fit(&ds, &FitOptions { seed, steps: Some(steps), ..Default::default() }, |_| {
            Control::Continue
        })?;
        let Fitted::Detector(d) = f else { unreachable!() };
        for (i, c) in ds.categories().iter().enumerate() {
            let split = train::hold_out(c.train.len(), i as u64, seed);
            let get = |paths: Vec<std::path::PathBuf>| -> Vec<f64> {
                let mut v = vec![];
                d.score_files(&paths, &Default::default(), |_, r| {
                    v.push(r.unwrap().1.stats.top5 as f64)
                })
                .unwrap();
                v
            };
            let tr = get(split.train.iter().map(|&i| c.train[i].clone()).collect());
            let ho = get(split.held_out.iter().map(|&i| c.train[i].clone()).collect());
            let good =
                get(c.test.iter().filter(|t| t.defect.is_none()).map(|t| t.path.clone()).collect());
            let bad =
                get(c.test.iter().filter(|t| t.defect.is_some()).map(|t| t.path.clone()).collect());
            let m = |v: &[f64]| {
                let n = v.len() as f64;
                let m = v.iter().sum::<f64>() / n;
                (m, (v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
            };
            println!(
                "RAW {}",
                serde_json::to_string(&(seed, &c.name, &tr, &ho, &good, &bad)).unwrap()
            );
            println!(
                "{seed} {:7} train {:.2?} held {:.2?} good {:.2?} bad {:.2?}",
                c.name,
                m(&tr),
                m(&ho),
                m(&good),
                m(&bad)
            );
        }
    }
    Ok(())
}
