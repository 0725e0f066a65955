use invad::*;
use std::time::Instant;
fn main() -> Result<()> {
    let ds = data::Dataset::open("examples/data", &[])?;
    let seeds: Vec<u64> = std::env::args().skip(1).map(|s| s.parse().unwrap()).collect();
    for seed in seeds {
        let t = Instant::now();
        let mut last = Instant::now();
        let f = fit(&ds, &FitOptions { seed, ..Default::default() }, |e| {
            if let Event::Step { report, .. } = e {
                if report.step % 200 == 1 || report.step == 1000 {
                    println!("{report:?} {:?}", last.elapsed());
                    last = Instant::now();
                }
            }
            Control::Continue
        })?;
        let Fitted::Detector(d) = f else { unreachable!() };
        println!("fit {:?}", t.elapsed());
        let t = Instant::now();
        let e = detect::evaluate(&d, &ds, &Default::default(), |_| {}, |e| println!("{e}"))?;
        println!(
            "eval {:?}\n{}",
            t.elapsed(),
            serde_json::to_string_pretty(&e.calibrated).unwrap()
        );
        println!("paper {}", serde_json::to_string(&e.paper.mean).unwrap());
    }
    Ok(())
}
