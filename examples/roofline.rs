//! What an inversion must take on a GPU at least.

mod common;
#[path = "common/roofline.rs"]
mod roofline;

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use common::options::at_least_one;
use common::say;
use invad::Products;
use invad::denoisers::{DitConfig, FeatureShape};
use roofline::{Stage, evaluation};

/// Shows what the inversion of a batch must take on a GPU at least: a projection from counted work, not a measurement
///
/// Each stage of the network takes at least its operations over the rate of the tensor cores, and its bytes over the
/// bandwidth of the memory, as the GPU's data sheet has them; each byte is counted once, and none stays in a cache from one
/// stage to the next. On an H200 products were measured to reach 73 to 85 % of the rate of a large one, AdaLN-Zero 86 % and
/// attention 25 %. Needs no GPU.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo run --release --example roofline -- --gpu rtx4090
  cargo run --release --example roofline -- --gpu rtx4090 --preset gigant --batch 1 --int8

Exit codes:
  0    it is shown
  2    wrong usage")]
struct Options {
    /// Which GPU
    #[arg(long, value_enum, default_value_t = Gpu::Rtx4090)]
    gpu: Gpu,
    /// Which transformer, on the features of efficientnet-lite0
    #[arg(long, default_value = "base", value_parser = PossibleValuesParser::new(["small", "medium", "base", "gigant"]))]
    preset: String,
    /// Images at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one())]
    batch: usize,
    /// How often the network is evaluated
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one())]
    evaluations: usize,
    /// The blocks' layers multiply int8
    #[arg(long)]
    int8: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Gpu {
    Rtx3090,
    Rtx4090,
    A100,
    L4,
    H100,
    H200,
}

/// What a data sheet says: products of f16 with sums in f32, and of int8, dense, in TFLOP/s; the memory's GB/s; MB of L2.
struct Sheet {
    name: &'static str,
    f16: f64,
    int8: f64,
    memory: f64,
    l2: f64,
}

impl Gpu {
    fn sheet(self) -> Sheet {
        let (name, f16, int8, memory, l2) = match self {
            Gpu::Rtx3090 => ("RTX 3090", 71.0, 284.0, 936.0, 6.0),
            Gpu::Rtx4090 => ("RTX 4090", 165.2, 660.6, 1008.0, 72.0),
            Gpu::A100 => ("A100 80 GB SXM", 312.0, 624.0, 2039.0, 40.0),
            Gpu::L4 => ("L4", 121.0, 242.0, 300.0, 48.0),
            Gpu::H100 => ("H100 SXM", 989.4, 1978.9, 3350.0, 50.0),
            Gpu::H200 => ("H200 SXM", 989.4, 1978.9, 4800.0, 50.0),
        };
        Sheet { name, f16, int8, memory, l2 }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| {
        show(&options);
        Ok(ExitCode::SUCCESS)
    })
}

fn show(options: &Options) {
    let Options { preset, batch, evaluations, int8, .. } = options;
    let features = FeatureShape { grid: 16, channels: 272 };
    let config = match &preset[..] {
        "small" => DitConfig::small(features),
        "medium" => DitConfig::medium(features),
        "gigant" => DitConfig::gigant(features),
        _ => DitConfig::base(features),
    };
    let sheet = options.gpu.sheet();
    let Sheet { name, f16, int8: of_int8, memory, l2 } = sheet;
    let numbers = if *int8 { "int8 in its blocks" } else { "f16" };
    say(format!(
        "projection from counted work, not a measurement: {preset} in {numbers}, {batch} images at once, \
         {evaluations} evaluations, on an {name}\n"
    ));
    say(format!(
        "{:20}{:>6}{:>11}{:>10}{:>14}{:>12}{:>10}",
        "stage", "calls", "GFLOP each", "MB each", "products, ms", "memory, ms", "at least"
    ));
    let products = int8.then_some(Products::Int8);
    let [mut tensor, mut least, mut operations, mut bytes] = [0.0; 4];
    for stage in evaluation(&config, *batch, products) {
        let calls = (stage.calls * evaluations) as f64;
        let Stage { name, read, written, .. } = stage;
        let rate = if stage.products.is_some() { of_int8 } else { f16 };
        let moved = (read + written) as f64;
        let by_products = calls * stage.operations / (rate * 1e9);
        let by_memory = calls * moved / (memory * 1e6);
        let bound = by_products.max(by_memory);
        say(format!(
            "{name:20}{calls:>6}{:>11.2}{:>10.2}{by_products:>14.3}{by_memory:>12.3}{bound:>10.3}",
            stage.operations / 1e9,
            moved / 1e6,
        ));
        tensor += by_products;
        least += bound;
        operations += calls * stage.operations;
        bytes += calls * moved;
    }
    let per_second = |ms: f64| 1e3 * *batch as f64 / ms;
    say(format!(
        "\n{:.2} TFLOP at {f16} TFLOP/s in f16{}, {:.2} GB at {memory} GB/s",
        operations / 1e12,
        if *int8 { format!(" or {of_int8} in int8") } else { String::new() },
        bytes / 1e9,
    ));
    say(format!(
        "stages one after another: at least {least:.2} ms, {:.1} images/s",
        per_second(least)
    ));
    say(format!(
        "products alone:           at least {tensor:.2} ms, {:.1} images/s",
        per_second(tensor)
    ));
    let activations = (14 * config.tokens() * config.width) as f64 / 1e6;
    say(format!(
        "activations of an image's block: {activations:.1} MB; {:.0} images' stay in {l2} MB of L2",
        (l2 / activations).floor()
    ));
}
