//! What the benches share: the device, its ceilings, and a line of figures for each measurement.
//!
//! Without Criterion's `--bench`, as under `cargo test`, they are tests: everything runs once on the smallest
//! preset, on the GPU of the other tests, and no figures are printed.
//!
//! With `INVAD_BENCH_PACED=1` a program that measures something else by turns sets the pace (see [`pace`]).

use std::env;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use invad::denoisers::{Denoiser, Dit, DitConfig, FeatureShape, Mlp, MlpConfig, Unet, UnetConfig};
use invad::ops::{self, Activation, PackedWeight};
use invad::{DType, Device, Tensor};
use rayon::prelude::*;

#[path = "../examples/common/roofline.rs"]
mod roofline;

/// Calls that a GPU gets as one recording, so that launching them takes no part in what is measured.
#[cfg(feature = "cuda")]
const RECORDED: u64 = 16;

/// What one call does at least: operations, or bytes that must be read or written.
#[derive(Clone, Copy)]
pub enum Work {
    Flops(f64),
    Bytes(f64),
}

/// Whether Criterion only tries the benches, and measures nothing.
pub fn is_test() -> bool {
    let given = |flag| env::args().any(|arg| arg == flag);
    given("--test") || !given("--bench")
}

/// Whether [`pace`] measures.
fn is_paced() -> bool {
    env::var_os("INVAD_BENCH_PACED").is_some()
}

/// A GPU where one can be used, else the CPU; says which.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        gpu().inspect(|gpu| eprintln!("on {gpu}")).unwrap_or_else(|why| {
            eprintln!("on the CPU, in f32: {why}");
            Device::Cpu
        })
    })
}

/// The GPU, or why there is none.
#[cfg(feature = "cuda")]
fn gpu() -> Result<Device, String> {
    if is_test() {
        return crate::support::emulator::gpu().ok_or("INVAD_TEST_DEVICE says so".into());
    }
    Device::Cuda(0).require().map_err(|e| e.to_string())?;
    match &invad::cuda::probe().gpus[0].name[..] {
        "Emulated" => Err("times of an emulated GPU say nothing".into()),
        _ => Ok(Device::Cuda(0)),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> Result<Device, String> {
    Err("this build is without CUDA".into())
}

/// Whether Criterion's filter can pick something called so in the group: whole networks need not be made for nothing.
pub fn is_picked(group: &str, name: &str) -> bool {
    let filter = env::args().nth(1).unwrap_or_default();
    let Some((wanted, _)) =
        filter.strip_prefix(&format!("{group}/")).and_then(|f| f.split_once('/'))
    else {
        return true;
    };
    let is_plain = wanted.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    !is_plain || wanted == name
}

/// The type of activations and weights.
pub fn stored() -> DType {
    if device() == Device::Cpu { DType::F32 } else { DType::F16 }
}

/// The batches to measure: those that take the CPU long only on a GPU.
pub fn batches() -> &'static [usize] {
    match device() {
        _ if is_test() => &[1],
        Device::Cpu => &[1, 4],
        Device::Cuda(_) => &[1, 4, 16, 64],
    }
}

const FEATURES: FeatureShape = FeatureShape { grid: 16, channels: 272 };

/// The networks whose sizes are measured.
pub fn presets() -> Vec<(&'static str, DitConfig)> {
    match is_test() {
        true => vec![("small", DitConfig::small(FEATURES))],
        false => {
            vec![("base", DitConfig::base(FEATURES)), ("gigant", DitConfig::gigant(FEATURES))]
        }
    }
}

/// A network that is measured as a whole, and the operations of its forward pass over an image.
pub type Network = (&'static str, Arc<dyn Denoiser>, f64);

/// Those of [`presets`], an MLP over single tokens and a U-Net.
pub fn networks() -> Vec<Network> {
    let transformers = presets().into_iter().map(|(name, sizes)| transformer(name, sizes));
    let others = match is_test() {
        true => [small_mlp(), unet("small-unet", UnetConfig::small(FEATURES), 0.68e9)],
        false => [
            mlp("mlp", MlpConfig::reference(FEATURES)),
            unet("unet", UnetConfig::reference(FEATURES), 64.04e9),
        ],
    };
    transformers.chain(others).collect()
}

/// Where the grid is smallest, weights are read for few numbers: of the large one 2.9 GB in f16 each time.
fn unet(name: &'static str, sizes: UnetConfig, flops: f64) -> Network {
    (name, Arc::new(Unet::new(sizes).unwrap()), flops)
}

pub fn transformer(name: &'static str, sizes: DitConfig) -> Network {
    (name, Arc::new(Dit::new(sizes).unwrap()), roofline::operations(&sizes))
}

pub fn small_mlp() -> Network {
    mlp("small-mlp", MlpConfig::small(FEATURES))
}

fn mlp(name: &'static str, c: MlpConfig) -> Network {
    let work = 4 * c.tokens() * c.width * (c.depth * c.width + c.channels);
    (name, Arc::new(Mlp::new(c).unwrap()), work as f64)
}

/// Zeros.
pub fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, device()).unwrap()
}

/// Normal numbers on the CPU, the same for each `step`.
pub fn normal(shape: &[usize], scale: f32, step: u64) -> Tensor {
    let mut values = Tensor::zeros(shape, DType::F32, Device::Cpu).unwrap();
    let random = ops::Random { seed: 1, stream: ops::Stream::Noise, step };
    ops::normal(random, &mut values).unwrap();
    let scaled = values.to_vec_f32().into_iter().map(|v| scale * v).collect();
    Tensor::from_f32(scaled, shape, Device::Cpu).unwrap()
}

/// [`normal`] on the device.
pub fn normal_on_device(shape: &[usize], scale: f32, step: u64, dtype: DType) -> Tensor {
    normal(shape, scale, step).view().copied_to(device(), dtype).unwrap()
}

/// Measures an operation that may be recorded: on a GPU its time without the launch.
pub fn measure(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    images: usize,
    work: Work,
    mut call: impl FnMut(),
) {
    if device() == Device::Cpu {
        return measure_calls(group, name, images, work, call);
    }
    #[cfg(feature = "cuda")]
    {
        let mut recorded = None;
        let run = |iterations: u64| {
            let graph = recorded.get_or_insert_with(|| {
                invad::cuda::Graph::record(device(), || {
                    (0..RECORDED).for_each(|_| call());
                    Ok(())
                })
                .unwrap()
            });
            let runs = iterations.div_ceil(RECORDED);
            let time = timed(|| (0..runs).for_each(|_| graph.run().unwrap()));
            time.mul_f64(iterations as f64 / (runs * RECORDED) as f64)
        };
        // Enough of them that waiting for the last takes no part in it either.
        let together = if is_test() { 1 } else { 16 * RECORDED };
        report(group, name, images, work, together, run);
    }
    #[cfg(not(feature = "cuda"))]
    measure_calls(group, name, images, work, &mut call);
}

/// Measures calls as they are.
pub fn measure_calls(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    images: usize,
    work: Work,
    mut call: impl FnMut(),
) {
    report(group, name, images, work, 1, |iterations| {
        timed(|| (0..iterations).for_each(|_| call()))
    });
}

/// Has Criterion measure `run`, which returns the time of a number of iterations, and prints a line. `together`
/// iterations are one call of those that [`pace`] measures.
fn report(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    images: usize,
    work: Work,
    together: u64,
    mut run: impl FnMut(u64) -> Duration,
) {
    let mut times = Vec::new();
    group.sample_size(10).throughput(Throughput::Elements(images as u64));
    group.bench_function(BenchmarkId::new(name, images), |b| {
        b.iter_custom(|iterations| {
            if times.is_empty() {
                // Compiles kernels, chooses algorithms and records.
                run(1);
                if is_paced() {
                    let id = format!("{name}/{images}");
                    pace(&id, || run(together).as_secs_f64() / together as f64);
                }
            }
            let time = run(iterations);
            times.push((time.as_secs_f64() / iterations as f64, iterations));
            time
        });
    });
    if is_test() || is_paced() {
        return;
    }
    if let Some(seconds) = median(times) {
        let per_second = images as f64 / seconds;
        let (rate, ceiling, unit) = match work {
            Work::Flops(flops) => (flops / seconds / 1e12, flops_ceiling() / 1e12, "TFLOP/s"),
            Work::Bytes(bytes) => (bytes / seconds / 1e9, bytes_ceiling() / 1e9, "GB/s"),
        };
        let share = 100.0 * rate / ceiling;
        println!(
            "{name}/{images}: {per_second:.1} images/s, {rate:.4} {unit}, {share:.1} % of {ceiling:.4} {unit}\n"
        );
    }
}

/// Prints `paced: ready ID`, then for each line `SECONDS` of the standard input, until an empty one or its end,
/// `paced: ` and the median, the 99th percentile and the fastest, in seconds, of calls that are made for that long.
fn pace(id: &str, mut call: impl FnMut() -> f64) {
    println!("paced: ready {id}");
    io::stdout().flush().unwrap();
    for line in io::stdin().lock().lines() {
        let Ok(seconds) = line.unwrap().trim().parse::<f64>() else { break };
        let start = Instant::now();
        let mut times = vec![call()];
        while start.elapsed().as_secs_f64() < seconds {
            times.push(call());
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[(share * times.len() as f64).ceil() as usize - 1];
        let (p50, p99, fastest, calls) = (at(0.5), at(0.99), times[0], times.len());
        println!(
            r#"paced: {{"p50": {p50:e}, "p99": {p99:e}, "fastest": {fastest:e}, "calls": {calls}}}"#
        );
        io::stdout().flush().unwrap();
    }
}

/// The median of times of an iteration, each as often as there were iterations.
fn median(mut times: Vec<(f64, u64)>) -> Option<f64> {
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = times.iter().map(|(_, n)| n).sum::<u64>().div_ceil(2);
    let mut before = 0;
    let at = times.iter().find(|(_, n)| {
        before += n;
        before >= half
    });
    at.map(|(time, _)| *time)
}

/// The time until the device has done what `work` asks of it.
fn timed(work: impl FnOnce()) -> Duration {
    static MARK: OnceLock<Tensor> = OnceLock::new();
    let mark = MARK.get_or_init(|| zeros(&[1], DType::F32));
    // A number read back is there when all earlier work is done.
    mark.to_vec_f32();
    let start = Instant::now();
    work();
    mark.to_vec_f32();
    start.elapsed()
}

/// The fastest of ten runs, in seconds, after one that does not count.
fn fastest(mut run: impl FnMut() -> Duration) -> f64 {
    run();
    (0..10).map(|_| run().as_secs_f64()).fold(f64::INFINITY, f64::min)
}

/// Operations a second of a large matrix product.
fn flops_ceiling() -> f64 {
    static CEILING: OnceLock<f64> = OnceLock::new();
    *CEILING.get_or_init(|| {
        let n = if device() == Device::Cpu { 2048 } else { 8192 };
        let x = normal_on_device(&[n, n], 1.0, 0, stored());
        let weight = PackedWeight::in_pairs(device(), &x).unwrap();
        let mut y = zeros(&[n, n], stored());
        let mut call = || ops::linear(&x, &weight, None, Activation::None, None, &mut y).unwrap();
        let seconds = fastest(|| timed(&mut call));
        said(
            2.0 * (n as f64).powi(3) / seconds,
            "operations",
            format!("a product of {n}×{n} matrices"),
        )
    })
}

/// Bytes a second that a large copy reads and writes.
fn bytes_ceiling() -> f64 {
    static CEILING: OnceLock<f64> = OnceLock::new();
    *CEILING.get_or_init(|| {
        const BYTES: usize = 256 << 20;
        let seconds = if device() == Device::Cpu { copy(BYTES) } else { copy_on_gpu(BYTES) };
        said(2.0 * BYTES as f64 / seconds, "bytes", format!("a copy of {} MiB", BYTES >> 20))
    })
}

fn said(rate: f64, what: &str, how: String) -> f64 {
    eprintln!("ceiling: {rate:.4e} {what} a second, by {how}");
    rate
}

/// Seconds that a copy takes all threads.
fn copy(bytes: usize) -> f64 {
    const PART: usize = 1 << 20;
    let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
    fastest(|| {
        let start = Instant::now();
        to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(t, f)| t.copy_from_slice(f));
        std::hint::black_box(&mut to);
        start.elapsed()
    })
}

/// Seconds that a copy takes the GPU.
#[cfg(feature = "cuda")]
fn copy_on_gpu(bytes: usize) -> f64 {
    const COPIES: u32 = 10;
    let context = invad::cuda::interop::cudarc::driver::CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let from = stream.alloc_zeros::<u8>(bytes).unwrap();
    let mut to = stream.alloc_zeros::<u8>(bytes).unwrap();
    fastest(|| {
        stream.synchronize().unwrap();
        let start = Instant::now();
        (0..COPIES).for_each(|_| stream.memcpy_dtod(&from, &mut to).unwrap());
        stream.synchronize().unwrap();
        start.elapsed() / COPIES
    })
}

#[cfg(not(feature = "cuda"))]
fn copy_on_gpu(_: usize) -> f64 {
    unreachable!("there are no GPUs in a build without CUDA")
}
