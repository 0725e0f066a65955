//! Which unit of the processor multiplies matrices the fastest, measured.

use std::time::Instant;

use super::gemm::{Epilogue, Mat, Packed, Threads, gemm};
use crate::error::Result;
use crate::files::require_cache;
use crate::processor::Unit;

const OP: &str = "measure_units";

/// What was measured of a unit of the processor.
#[derive(Clone, Copy, Debug)]
pub struct MeasuredUnit {
    /// Its name, as the variable `INVAD_CPU` takes it.
    pub name: &'static str,
    /// Operations in a second, of products in f32 by all threads.
    pub rate: f64,
}

/// Measures the units of the processor that multiply matrices, all threads together, and keeps the fastest beside the
/// compiled kernels: from the next process on it computes products in f32, on processors of this name, unless `INVAD_CPU`
/// names another. Returned are all, the one that is kept first.
///
/// Sums in f32 round otherwise on another unit: as long as the same one is kept, bits stay the same.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if nothing is kept (`INVAD_KERNEL_CACHE` is empty);
/// [`Error::Io`](crate::Error::Io) if it cannot be written.
pub fn measure_units() -> Result<Vec<MeasuredUnit>> {
    /// Tokens of four images, and two layers of a transformer.
    const ROWS: usize = 1024;
    const LAYERS: [(usize, usize); 2] = [(384, 1536), (1536, 384)];
    /// Each unit has its turn in each round, as other work comes and goes.
    const ROUNDS: usize = 9;
    /// What a narrower unit must be faster by.
    const GAIN: f64 = 1.03;

    require_cache(OP)?;
    let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| (i * 37 % 101) as f32 - 50.0).collect() };
    let products: Vec<_> = LAYERS
        .into_iter()
        .map(|(k, n)| (k, n, numbers(ROWS * k), numbers(k * n), vec![0.0; ROWS * n]))
        .collect();
    let operations: usize = LAYERS.into_iter().map(|(k, n)| 2 * ROWS * k * n).sum();
    let mut units: Vec<_> = Unit::all()
        .map(|unit| {
            let pack = |(k, n, _, b, _): &(usize, usize, _, Vec<f32>, _)| {
                Packed::in_pairs_of(unit, Mat::new(b, *k, *n))
            };
            (unit, products.iter().map(pack).collect::<Vec<_>>(), Vec::new())
        })
        .collect();
    let mut products = products;
    for _ in 0..ROUNDS {
        for (_, packed, seconds) in &mut units {
            let start = Instant::now();
            for ((k, n, a, _, out), packed) in products.iter_mut().zip(&*packed) {
                let a = Mat::new(a, ROWS, *k);
                gemm(a, packed, out, *n, Epilogue::default(), Threads::All);
            }
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let mut measured: Vec<_> = units
        .into_iter()
        .map(|(unit, _, mut seconds)| {
            seconds.sort_by(f64::total_cmp);
            (unit, operations as f64 / seconds[ROUNDS / 2])
        })
        .collect();
    // The widest comes first, and is kept first unless another is clearly faster.
    let fastest = (1..measured.len())
        .fold(0, |best, i| if measured[i].1 > GAIN * measured[best].1 { i } else { best });
    measured.swap(0, fastest);
    measured[1..].sort_by(|a, b| b.1.total_cmp(&a.1));
    measured[0].0.keep(OP)?;
    Ok(measured.into_iter().map(|(unit, rate)| MeasuredUnit { name: unit.name(), rate }).collect())
}
