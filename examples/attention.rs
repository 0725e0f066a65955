//! One kernel alone: attention on memory and a stream of one's own.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::options::at_least_one;
use common::say;
use half::f16;
use invad::cuda::interop::Queue;
use invad::cuda::interop::cudarc::driver::{CudaContext, DriverError};
use invad::cuda::probe;
use invad::{Error, Result, ops};

/// Runs the attention kernel on memory allocated with cudarc and shows the first numbers
///
/// Every query is the same and every key is 0, so that each output is the mean of the values.
#[derive(Parser)]
struct Options {
    /// Images
    #[arg(long, value_name = "B", default_value = "2", value_parser = at_least_one())]
    images: usize,
    /// Tokens of an image
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least_one())]
    tokens: usize,
    /// Heads
    #[arg(long, value_name = "H", default_value = "2", value_parser = at_least_one())]
    heads: usize,
    /// Size of a head: a multiple of 8 up to 256
    #[arg(long, value_name = "D", default_value_t = 64, value_parser = head_size)]
    size: usize,
}

fn head_size(text: &str) -> std::result::Result<usize, &'static str> {
    let size =
        text.parse().ok().filter(|size: &usize| (8..=256).contains(size) && size.is_multiple_of(8));
    size.ok_or("not a multiple of 8 in 8..=256")
}

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| attention(&options))
}

fn attention(options: &Options) -> Result<ExitCode> {
    let &Options { images, tokens, heads, size } = options;
    // cudarc panics where there is no driver.
    probe().require(0)?;
    let width = heads * size;
    let qkv: Vec<f16> = (0..images * tokens * 3 * width)
        .map(|i| match i / width % 3 {
            0 => f16::ONE,
            1 => f16::ZERO,
            _ => f16::from_f32((i / width / 3 % tokens) as f32 / 128.0),
        })
        .collect();

    let stream = CudaContext::new(0).and_then(|context| context.new_stream()).map_err(driver)?;
    let qkv = stream.clone_htod(&qkv).map_err(driver)?;
    let mut out = stream.alloc_zeros::<f16>(images * tokens * width).map_err(driver)?;
    let queue = Queue::new(&stream)?;
    ops::attention(
        queue.view(&qkv, &[images, tokens, 3, heads, size])?,
        queue.view_mut(&mut out, &[images, tokens, width])?,
        None,
    )?;
    let out = stream.clone_dtoh(&out).map_err(driver)?;
    let mean = (tokens - 1) as f32 / 2.0 / 128.0;
    say(format!("{:?}, the mean of the values is {mean}", &out[..4.min(out.len())]));
    Ok(ExitCode::SUCCESS)
}

fn driver(e: DriverError) -> Error {
    Error::Unavailable { what: "the GPU".into(), why: e.to_string() }
}
