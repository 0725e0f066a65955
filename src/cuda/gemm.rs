//! Matrix products, by cuBLASLt. What describes a product is made once per shape and kept.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t, cudaDataType,
};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::context::Context;
use super::memory::allocate;
use crate::error::Result;

/// cuBLASLt on one GPU.
pub(crate) struct Gemm {
    handle: cublasLtHandle_t,
    workspace: Option<CudaSlice<u8>>,
    plans: Mutex<HashMap<Product, Plan>>,
}

// SAFETY: cuBLASLt's handle may be used by any thread; the plans are behind a lock.
unsafe impl Send for Gemm {}
// SAFETY: as above.
unsafe impl Sync for Gemm {}

/// y (m, n) = x (m, k) · weight (n, k)ᵀ and what is added, all row-major, x and weight fp16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Whether y is fp32 and not fp16; the bias is of the same type.
    pub wide: bool,
    /// Whether a bias (n) is added.
    pub bias: bool,
    /// Whether GELU (tanh) follows.
    pub gelu: bool,
    /// Whether a tensor like y is added.
    pub skip: bool,
}

/// The addresses of a product.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub x: u64,
    pub weight: u64,
    pub bias: u64,
    /// What is added; y itself where nothing is.
    pub skip: u64,
    pub y: u64,
}

/// A product as cuBLASLt knows it: in its column-major view yᵀ = weight · xᵀ.
struct Plan {
    product: cublasLtMatmulDesc_t,
    weight: cublasLtMatrixLayout_t,
    x: cublasLtMatrixLayout_t,
    y: cublasLtMatrixLayout_t,
    /// For each alignment of the operands, the algorithm.
    algorithms: HashMap<u64, cublasLtMatmulAlgo_t>,
}

impl Gemm {
    pub fn new(context: &Context) -> Result<Self> {
        context.bind()?;
        let handle = result::create_handle().map_err(|e| context.error("cuBLASLt", e))?;
        let mut gemm = Self { handle, workspace: None, plans: Mutex::default() };
        // What NVIDIA recommends: 32 MiB from Hopper on, 4 MiB before.
        let bytes = if context.limits.arch >= 90 { 32 << 20 } else { 4 << 20 };
        gemm.workspace = allocate(context, bytes)?;
        Ok(gemm)
    }

    /// Queues a product.
    ///
    /// # Safety
    /// Memory of the product's shapes and types is behind the addresses.
    pub unsafe fn run(&self, context: &Context, product: Product, at: Operands) -> Result<()> {
        if product.m == 0 || product.n == 0 {
            return Ok(());
        }
        context.bind()?;
        let describe = |e: CublasError| context.error(format!("cuBLASLt: {product:?}"), e);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(product) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Plan::new(product).map_err(describe)?)
            }
        };
        if product.bias {
            // SAFETY: the attribute is an address.
            unsafe { plan.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at.bias) }
                .map_err(describe)?;
        }
        let workspace = self.workspace.as_ref();
        let bytes = workspace.map_or(0, CudaSlice::len);
        let algorithm = plan.algorithm(self.handle, at, bytes).map_err(describe)?;
        let address = workspace.map_or(0, |w| w.device_ptr(context.main_stream()).0);
        let (one, of_skip) = (1.0f32, if product.skip { 1.0f32 } else { 0.0 });
        // SAFETY: the plan describes memory that the caller vouches for; the workspace is used by
        // this stream only.
        let queued = unsafe {
            result::matmul(
                self.handle,
                plan.product,
                (&raw const one).cast(),
                (&raw const of_skip).cast(),
                at.weight as *const c_void,
                plan.weight,
                at.x as *const c_void,
                plan.x,
                at.skip as *const c_void,
                plan.y,
                at.y as *mut c_void,
                plan.y,
                &algorithm,
                address as *mut c_void,
                bytes,
                context.stream().cast(),
            )
        };
        queued.map_err(describe)
    }
}

impl Drop for Gemm {
    fn drop(&mut self) {
        // SAFETY: nobody has the handle after this.
        unsafe { result::destroy_handle(self.handle) }.ok();
    }
}

impl Plan {
    fn new(of: Product) -> Result<Self, CublasError> {
        let Product { m, n, k, .. } = of;
        let half = cudaDataType::CUDA_R_16F;
        let out = if of.wide { cudaDataType::CUDA_R_32F } else { half };
        let mut plan = Self {
            product: std::ptr::null_mut(),
            weight: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            y: std::ptr::null_mut(),
            algorithms: HashMap::new(),
        };
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        plan.product = result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?;
        plan.weight = result::create_matrix_layout(half, k as u64, n as u64, k as i64)?;
        plan.x = result::create_matrix_layout(half, k as u64, m as u64, k as i64)?;
        plan.y = result::create_matrix_layout(out, n as u64, m as u64, n as i64)?;
        let epilogue = match (of.bias, of.gelu) {
            (false, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => Epilogue::CUBLASLT_EPILOGUE_GELU,
            (true, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        // SAFETY: the attributes are an i32 that says "transposed", and enums.
        unsafe {
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &1i32)?;
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            if of.bias {
                plan.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out)?;
            }
        }
        Ok(plan)
    }

    /// # Safety
    /// The attribute is of type `T`.
    unsafe fn set<T>(&self, attribute: Attribute, value: &T) -> Result<(), CublasError> {
        let value: *const T = value;
        // SAFETY: the description is alive; the caller vouches for the type.
        unsafe {
            result::set_matmul_desc_attribute(self.product, attribute, value.cast(), size_of::<T>())
        }
    }

    /// The algorithm that cuBLASLt thinks fastest for operands aligned as these.
    fn algorithm(
        &mut self,
        handle: cublasLtHandle_t,
        at: Operands,
        workspace: usize,
    ) -> Result<cublasLtMatmulAlgo_t, CublasError> {
        const MOST: u64 = 256;
        let alignment = |address: u64| (address | MOST) & (address | MOST).wrapping_neg();
        let [weight, x, skip, y] = [at.weight, at.x, at.skip, at.y].map(alignment);
        let key = weight | x << 16 | skip << 32 | y << 48;
        if let Some(algorithm) = self.algorithms.get(&key) {
            return Ok(*algorithm);
        }
        let preference = result::create_matmul_pref()?;
        let attributes = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, weight),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, skip),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y),
        ];
        // SAFETY: the descriptions are alive; the workspace's size is a usize, alignments are u32.
        let found = unsafe {
            let set = |attribute, value: *const c_void, bytes| {
                result::set_matmul_pref_attribute(preference, attribute, value, bytes)
            };
            set(
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )
            .and_then(|()| {
                attributes.into_iter().try_for_each(|(attribute, bytes)| {
                    let bytes = bytes as u32;
                    set(attribute, (&raw const bytes).cast(), size_of::<u32>())
                })
            })
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    handle,
                    self.product,
                    self.weight,
                    self.x,
                    self.y,
                    self.y,
                    preference,
                )
            })
        };
        // SAFETY: nobody has the preference after this.
        unsafe { result::destroy_matmul_pref(preference) }.ok();
        let algorithm = found?.algo;
        self.algorithms.insert(key, algorithm);
        Ok(algorithm)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: what was made is destroyed once, and nobody has it after this.
        unsafe {
            for layout in [self.weight, self.x, self.y] {
                if !layout.is_null() {
                    result::destroy_matrix_layout(layout).ok();
                }
            }
            if !self.product.is_null() {
                result::destroy_matmul_desc(self.product).ok();
            }
        }
    }
}
