//! What the tests of operations on a GPU share: inputs in f16, and outputs guarded on both sides.

use std::sync::Arc;

use half::f16;
use invad::cuda::compile;
use invad::cuda::interop::cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig};
use invad::cuda::interop::cudarc::nvrtc::Ptx;
use invad::tensor::TensorViewMut;
use invad::{DType, Device, Tensor};

pub use crate::support::emulator::{gpu, is_emulated};
use crate::support::numbers::uniform;

/// Numbers around an output, which nobody may write.
const GUARD: usize = 64;
/// What they are, in any type.
const CANARY: f32 = -776.0;

/// Deterministic numbers that f16 can hold.
pub fn halves(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    uniform(seed, n, scale).into_iter().map(|x| f16::from_f32(x).to_f32()).collect()
}

/// A number as f16 stores it.
pub fn rounded(x: f64) -> f64 {
    f16::from_f64(x).to_f64()
}

/// A tensor of these numbers on a GPU.
pub fn upload(data: &[f32], shape: &[usize], dtype: DType, gpu: Device) -> Tensor {
    let mut tensor = Tensor::zeros(shape, dtype, gpu).unwrap();
    tensor.view_mut().copy_from_slice(data).unwrap();
    tensor
}

/// An output on a GPU: NaN before it is written, between numbers that stay.
pub struct Guarded {
    all: Tensor,
    shape: Vec<usize>,
}

impl Guarded {
    pub fn new(shape: &[usize], dtype: DType, gpu: Device) -> Self {
        let n: usize = shape.iter().product();
        let mut all = Tensor::zeros(&[n + 2 * GUARD], dtype, gpu).unwrap();
        all.view_mut().fill(CANARY).unwrap();
        let mut output = Self { all, shape: shape.to_vec() };
        output.view_mut().fill(f32::NAN).unwrap();
        output
    }

    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        self.all.view_mut().part(GUARD, &self.shape).unwrap()
    }

    /// The output, its surroundings found as they were.
    #[track_caller]
    pub fn f64s(&self) -> Vec<f64> {
        let all = self.all.to_vec_f32();
        let n = all.len() - 2 * GUARD;
        let around = all[..GUARD].iter().chain(&all[GUARD + n..]);
        assert!(around.into_iter().all(|&x| x == CANARY), "written outside the output");
        all[GUARD..][..n].iter().map(|&x| x.into()).collect()
    }
}

/// Asserts that `got` is at most twice as far from `want` as a computation that stores every
/// intermediate result in f16, and a rounding. A NaN fails.
#[track_caller]
pub fn assert_as_good(case: &str, got: &[f64], want: &[f64], naive: &[f64]) {
    assert_within(2.0, case, got, want, naive);
}

/// The same with three times, for gradients.
#[track_caller]
pub fn assert_gradient_as_good(case: &str, got: &[f64], want: &[f64], naive: &[f64]) {
    assert_within(3.0, case, got, want, naive);
}

#[track_caller]
fn assert_within(times: f64, case: &str, got: &[f64], want: &[f64], naive: &[f64]) {
    assert_eq!(got.len(), want.len(), "{case}: lengths");
    let largest = |v: &mut dyn Iterator<Item = f64>| v.fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(naive.iter().all(|n| n.is_finite()), "{case}: too large to compare with f16");
    let naive_error = largest(&mut naive.iter().zip(want).map(|(n, w)| n - w));
    let floor = largest(&mut want.iter().copied()) / 4096.0 + 1e-7;
    let most = times * naive_error + floor;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs();
        assert!(
            error <= most,
            "{case}: [{i}] got {g}, want {w} (error {error:.2e}, most {most:.2e})"
        );
    }
}

/// A kernel, to be launched on a stream of its own.
pub struct Kernel {
    pub stream: Arc<CudaStream>,
    pub function: CudaFunction,
}

/// A kernel as its file has it, for what no public operation launches by itself.
pub fn kernel(name: &str, defines: &[(&str, i64)]) -> Option<Kernel> {
    gpu()?;
    let context = CudaContext::new(0).unwrap();
    let (major, minor) = context.compute_capability().unwrap();
    let compiled = compile(name, defines, (10 * major + minor) as u32).unwrap();
    let function = context.load_module(Ptx::from_binary(compiled.cubin)).unwrap();
    let function = function.load_function(name).unwrap();
    Some(Kernel { stream: context.new_stream().unwrap(), function })
}

/// A launch of one-dimensional blocks.
pub fn config(grid: [usize; 3], block: u32, shared: usize) -> LaunchConfig {
    let [x, y, z] = grid.map(|n| n as u32);
    LaunchConfig { grid_dim: (x, y, z), block_dim: (block, 1, 1), shared_mem_bytes: shared as u32 }
}
