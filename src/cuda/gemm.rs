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

/// A product of a linear layer from k to n features with m rows, all row-major, its operands fp16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub form: Form,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Whether the result is fp32 and not fp16; the bias is of the same type.
    pub wide: bool,
    /// Whether a bias (n) is added.
    pub bias: bool,
    /// What GELU (tanh) has to do with the result.
    pub gelu: Gelu,
    /// Whether a tensor like the result is added.
    pub skip: bool,
}

/// Which product of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// y (m, n) = x (m, k) · weight (n, k)ᵀ.
    Output,
    /// dx (m, k) = dy (m, n) · weight (n, k).
    InputGradient,
    /// dweight (n, k) = dy (m, n)ᵀ · x (m, k).
    WeightGradient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Gelu {
    None,
    /// It follows.
    Applied,
    /// It follows, and what it is applied to is kept.
    Kept,
    /// The result is multiplied by its slope at what was kept.
    Slope,
}

/// The addresses of a product.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// The weight, or x in a weight's gradient.
    pub left: u64,
    /// x or dy.
    pub right: u64,
    pub bias: u64,
    /// What GELU is applied to, like the result.
    pub kept: u64,
    /// What is added; the result itself where nothing is.
    pub skip: u64,
    pub result: u64,
}

/// A product as cuBLASLt knows it, in its column-major view: yᵀ = weight · xᵀ, dxᵀ = weightᵀ · dyᵀ or
/// dweightᵀ = xᵀ · dy.
struct Plan {
    product: cublasLtMatmulDesc_t,
    left: cublasLtMatrixLayout_t,
    right: cublasLtMatrixLayout_t,
    result: cublasLtMatrixLayout_t,
    /// For each alignment of the operands, the algorithm.
    algorithms: HashMap<u64, cublasLtMatmulAlgo_t>,
}

impl Gemm {
    pub fn new(context: &Context) -> Result<Self> {
        context.bind()?;
        let handle = result::create_handle().map_err(|e| context.error("cuBLASLt", e))?;
        let mut gemm = Self { handle, workspace: None, plans: Mutex::default() };
        gemm.workspace = allocate(context, Self::workspace_bytes(context.limits.arch))?;
        Ok(gemm)
    }

    /// What NVIDIA recommends for sm_`arch`: 32 MiB from Hopper on, 4 MiB before.
    pub fn workspace_bytes(arch: u32) -> usize {
        if arch >= 90 { 32 << 20 } else { 4 << 20 }
    }

    /// Queues a product.
    ///
    /// # Safety
    /// Memory of the product's shapes and types is behind the addresses.
    pub unsafe fn run(&self, context: &Context, product: Product, at: Operands) -> Result<()> {
        let Product { m, n, k, .. } = product;
        if m == 0 || n == 0 || k == 0 {
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
        if matches!(product.gelu, Gelu::Kept | Gelu::Slope) {
            // SAFETY: the attribute is an address.
            unsafe { plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &at.kept) }
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
                at.left as *const c_void,
                plan.left,
                at.right as *const c_void,
                plan.right,
                at.skip as *const c_void,
                plan.result,
                at.result as *mut c_void,
                plan.result,
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
            left: std::ptr::null_mut(),
            right: std::ptr::null_mut(),
            result: std::ptr::null_mut(),
            algorithms: HashMap::new(),
        };
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        plan.product = result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?;
        // Rows and columns of the operands and of the result, and whether operands are transposed.
        let (left, right, product, transposed) = match of.form {
            Form::Output => ([k, n], [k, m], [n, m], [1i32, 0]),
            Form::InputGradient => ([k, n], [n, m], [k, m], [0, 0]),
            Form::WeightGradient => ([k, m], [n, m], [k, n], [0, 1]),
        };
        let layout = |dtype, [rows, columns]: [usize; 2]| {
            result::create_matrix_layout(dtype, rows as u64, columns as u64, rows as i64)
        };
        plan.left = layout(half, left)?;
        plan.right = layout(half, right)?;
        plan.result = layout(out, product)?;
        let epilogue = match (of.bias, of.gelu) {
            (false, Gelu::None) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (true, Gelu::None) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (false, Gelu::Applied) => Epilogue::CUBLASLT_EPILOGUE_GELU,
            (true, Gelu::Applied) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
            (false, Gelu::Kept) => Epilogue::CUBLASLT_EPILOGUE_GELU_AUX,
            (true, Gelu::Kept) => Epilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            (_, Gelu::Slope) => Epilogue::CUBLASLT_EPILOGUE_DGELU,
        };
        // SAFETY: the attributes are i32s that say "transposed", enums, and an i64.
        unsafe {
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposed[0])?;
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &transposed[1])?;
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            if matches!(of.gelu, Gelu::Kept | Gelu::Slope) {
                let distance = product[0] as i64;
                plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &distance)?;
            }
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
        let [left, right, skip, y] = [at.left, at.right, at.skip, at.result].map(alignment);
        let key = left | right << 16 | skip << 32 | y << 48;
        if let Some(algorithm) = self.algorithms.get(&key) {
            return Ok(*algorithm);
        }
        let preference = result::create_matmul_pref()?;
        let attributes = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, left),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, right),
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
                    self.left,
                    self.right,
                    self.result,
                    self.result,
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
            for layout in [self.left, self.right, self.result] {
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
