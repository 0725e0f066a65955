//! Which algorithms of cuBLASLt were the fastest on a GPU, measured and kept in a file beside the compiled kernels.

use std::collections::BTreeMap;
use std::time::Instant;

use cudarc::cublaslt::sys::{cublasLtGetVersion, cublasLtMatmulAlgo_t as Algorithm};
use serde::{Deserialize, Serialize};

use super::context::{Context, context};
use super::gemm::Gemm;
use super::graph::Graph;
use super::probe::probe;
use crate::error::{Error, Result};
use crate::files::{keep, kept, require_cache};
use crate::types::Device;

const OP: &str = "measure_products";

/// What was measured of a matrix product.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Choice {
    /// The fastest algorithm, as cuBLASLt describes it.
    pub(super) algorithm: [u64; 8],
    /// Seconds that it takes.
    pub seconds: f64,
    /// Seconds that cuBLASLt's first suggestion takes.
    pub suggested: f64,
    /// How many suggestions were tried.
    pub tried: usize,
}

/// What was measured, by the names of products.
pub type Choices = BTreeMap<String, Choice>;

#[derive(Serialize, Deserialize)]
struct Kept {
    /// What algorithms depend on.
    of: Place,
    products: Choices,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Place {
    gpu: String,
    multiprocessors: usize,
    cublaslt: usize,
    /// Bytes.
    workspace: usize,
}

impl Place {
    fn of(context: &Context) -> Self {
        let gpu = probe().gpus.iter().find(|gpu| Device::Cuda(gpu.ordinal) == context.device());
        Self {
            gpu: gpu.map_or_else(String::new, |gpu| gpu.name.clone()),
            multiprocessors: context.limits.multiprocessors,
            // SAFETY: the probe has found the library to have it.
            cublaslt: unsafe { cublasLtGetVersion() },
            workspace: Gemm::workspace_bytes(context.limits.arch),
        }
    }

    /// The name of the file.
    fn file(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let gpu: String = self.gpu.chars().map(plain).collect();
        format!("products-{gpu}-{}-{}.json", self.multiprocessors, self.cublaslt)
    }

    /// What is kept of it.
    fn kept(&self) -> Choices {
        match kept::<Kept>(&self.file()) {
            Some(kept) if kept.of == *self => kept.products,
            Some(_) => {
                log::warn!("{} was measured elsewhere; nothing of it is used", self.file());
                Choices::new()
            }
            None => Choices::new(),
        }
    }
}

/// What is kept of a GPU.
pub(super) fn read(context: &Context) -> Choices {
    Place::of(context).kept()
}

/// Does `work` on a GPU, and for each matrix product in it measures the algorithms that cuBLASLt suggests. The fastest are
/// kept in a file beside the compiled kernels, with what was kept before, and used from then on by every process on a GPU
/// of this name with this cuBLASLt; returned is what was measured now.
///
/// The choice of an algorithm may change the last bits of a product: as long as the file stays the same, so do they.
/// `work` should do each product once. Products are repeated on the memory that they are given, so that numbers that
/// `work` leaves are of no use. What was recorded before keeps its algorithms.
///
/// # Errors
/// What `work` returns; [`Error::Argument`] if `device` is not a GPU or no files are kept (`INVAD_KERNEL_CACHE` is empty);
/// [`Error::Io`] if the file cannot be written.
pub fn measure_products(device: Device, work: impl FnOnce() -> Result<()>) -> Result<Choices> {
    let Device::Cuda(ordinal) = device else {
        return Err(Error::argument(OP, "device", "a GPU", device));
    };
    let context = context(ordinal)?;
    require_cache(OP)?;
    let measured = context.gemm()?.measure(work)?;
    let place = Place::of(context);
    let (file, mut products) = (place.file(), place.kept());
    products.extend(measured.clone());
    keep(OP, &file, &Kept { of: place, products })?;
    Ok(measured)
}

/// The fastest of some algorithms, the first of which is the one to beat: `queue` queues a product by one.
pub(super) fn fastest(
    context: &Context,
    algorithms: &[Algorithm],
    queue: impl Fn(&Algorithm) -> Result<()>,
) -> Result<Choice> {
    /// Products of a recording, so that launching them takes no part in what is measured.
    const CALLS: usize = 8;
    /// Each algorithm has its turn in each round, as a GPU's clock changes with what it has done.
    const ROUNDS: usize = 7;
    /// What another must save to be taken in place of the first.
    const GAIN: f64 = 0.02;

    let record = |algorithm| {
        Graph::record(context.device(), || (0..CALLS).try_for_each(|_| queue(algorithm)))
    };
    let mut tried = Vec::new();
    for (i, algorithm) in algorithms.iter().enumerate() {
        match record(algorithm) {
            Ok(graph) => tried.push((algorithm, graph, Vec::new())),
            // The others may not suit this GPU after all.
            Err(e) if i > 0 => log::debug!("an algorithm is left out: {e}"),
            Err(e) => return Err(e),
        }
    }
    for _ in 0..ROUNDS {
        for (_, graph, seconds) in &mut tried {
            let start = Instant::now();
            graph.queue()?;
            context.synchronize()?;
            seconds.push(start.elapsed().as_secs_f64() / CALLS as f64);
        }
    }
    let medians: Vec<f64> = tried
        .iter_mut()
        .map(|(_, _, seconds)| {
            seconds.sort_by(f64::total_cmp);
            seconds[ROUNDS / 2]
        })
        .collect();
    let suggested = medians[0];
    let best = (0..medians.len()).min_by(|&a, &b| medians[a].total_cmp(&medians[b])).unwrap_or(0);
    let best = if medians[best] > (1.0 - GAIN) * suggested { 0 } else { best };
    let algorithm = tried[best].0.data;
    Ok(Choice { algorithm, seconds: medians[best], suggested, tried: tried.len() })
}
