//! Lays the solar cells of the ELPV data set out as a data set to train on and to evaluate with.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use common::options::at_least_one;
use common::{create_folder, require_folder, say};
use invad::{Error, Result};

/// Lays out the ELPV data set, 2,624 photographs of solar cells under electric current
///
/// Writes OUT/{mono,poly}/train/good, test/good and test/defective. Good are cells whose
/// probability of a defect is given as 0, defective those where it is 1; the others are left out.
/// The images keep their names; which of them train and which test is decided by their order alone,
/// evenly. There are no masks.
///
/// The data set (Buerhop-Lukas et al., 2018; Deitsch et al., 2019) is licensed CC BY-NC-SA 4.0: not
/// for commercial use.
#[derive(Parser)]
#[command(after_help = "\
Example:
    pip download --no-deps elpv-dataset && python3 -m zipfile -e elpv_dataset-*.whl elpv
    cargo run --release --example elpv -- --from elpv/elpv_dataset/data --out data/elpv
    cargo run --release --example train -- --data data/elpv --out out/elpv
    cargo run --release --example evaluate -- --detector out/elpv/detector.safetensors \\
      --data data/elpv --baselines --out out/elpv

Exit codes: 0 done, 1 failure, 2 wrong usage")]
struct Options {
    /// The folder that holds labels.csv and images/
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Where to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Good cells of each kind to train with
    #[arg(long, value_name = "N", default_value = "300", value_parser = at_least_one())]
    train: usize,
    /// Good cells and defective cells of each kind to test with
    #[arg(long, value_name = "N", default_value = "100", value_parser = at_least_one())]
    test: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| lay_out(&options))
}

fn lay_out(options: &Options) -> Result<ExitCode> {
    require_folder(&options.out)?;
    let labels = options.from.join("labels.csv");
    let text = fs::read_to_string(&labels).map_err(|e| Error::io(&labels, e))?;
    let cells = text.lines().enumerate().map(|(i, line)| {
        let wrong = || {
            let expected = "expected an image, a probability and `mono` or `poly`";
            Error::file(&labels, format!("line {}: {expected}, got `{line}`", i + 1))
        };
        let mut fields = line.split_whitespace();
        let (Some(image), Some(defect), Some(kind)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(wrong());
        };
        match (defect.parse::<f64>(), kind) {
            (Ok(defect), "mono" | "poly") => Ok((options.from.join(image), defect, kind)),
            _ => Err(wrong()),
        }
    });
    let cells = cells.collect::<Result<Vec<_>>>()?;
    for kind in ["mono", "poly"] {
        let of = |probability: f64| -> Vec<&Path> {
            let of = cells.iter().filter(|cell| cell.1 == probability && cell.2 == kind);
            of.map(|cell| cell.0.as_path()).collect()
        };
        let (good, defective) = (of(0.0), of(1.0));
        let good = evenly(&good, options.train + options.test);
        let test_good = evenly(&good, options.test);
        let train: Vec<&Path> = good.into_iter().filter(|c| !test_good.contains(c)).collect();
        let test_defective = evenly(&defective, options.test);
        for (folder, images) in
            [("train/good", train), ("test/good", test_good), ("test/defective", test_defective)]
        {
            let folder = options.out.join(kind).join(folder);
            create_folder(&folder)?;
            for image in &images {
                let name = image.file_name().unwrap_or_default();
                fs::copy(image, folder.join(name)).map_err(|e| Error::io(*image, e))?;
            }
            say(format!("{}: {} images", folder.display(), images.len()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `count` of all, or all if there are fewer, at equal distances.
fn evenly<'a>(all: &[&'a Path], count: usize) -> Vec<&'a Path> {
    let count = count.min(all.len());
    (0..count).map(|i| all[i * all.len() / count]).collect()
}
