//! Matrix products, by cuBLASLt. What describes a product is made once per shape and kept.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::mem::zeroed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t,
    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulAlgoCheck, cublasLtMatmulAlgoGetHeuristic,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulHeuristicResult_t as Found, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayout_t, cublasLtReductionScheme_t, cublasStatus_t, cudaDataType,
};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::context::Context;
use super::memory::allocate;
use super::tuning::{self, Choices};
use crate::error::Result;

/// cuBLASLt on one GPU.
pub(crate) struct Gemm {
    handle: cublasLtHandle_t,
    workspace: Option<CudaSlice<u8>>,
    plans: Mutex<HashMap<Product, Plan>>,
    /// What was measured on this GPU.
    choices: Mutex<Choices>,
    /// What is being measured, if anything is.
    measuring: Mutex<Option<Choices>>,
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

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Product { form, m, n, k, wide, bias, gelu, skip } = *self;
        let form = match form {
            Form::Output => "output",
            Form::InputGradient => "gradient of the input",
            Form::WeightGradient => "gradient of the weight",
        };
        write!(f, "{form}, m {m}, n {n}, k {k}, {}", if wide { "f32" } else { "f16" })?;
        f.write_str(if bias { ", bias" } else { "" })?;
        f.write_str(match gelu {
            Gelu::None => "",
            Gelu::Applied => ", GELU",
            Gelu::Kept => ", GELU of what is kept",
            Gelu::Slope => ", GELU's slope",
        })?;
        f.write_str(if skip { ", added" } else { "" })
    }
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

/// What the addresses of left, right, skip and result are multiples of, at most [`Alignments::MOST`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Alignments([u32; 4]);

impl Alignments {
    /// What memory that was taken as a whole is aligned to.
    const MOST: u32 = 256;

    fn of(at: Operands) -> Self {
        let of = |address: u64| 1 << (address | u64::from(Self::MOST)).trailing_zeros();
        Self([at.left, at.right, at.skip, at.result].map(of))
    }
}

impl fmt::Display for Alignments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([left, right, skip, result]) = self;
        match self.0.iter().all(|of| *of == Self::MOST) {
            true => Ok(()),
            false => write!(f, ", aligned to {left}, {right}, {skip}, {result} bytes"),
        }
    }
}

/// A product as cuBLASLt knows it, in its column-major view: yᵀ = weight · xᵀ, dxᵀ = weightᵀ · dyᵀ or
/// dweightᵀ = xᵀ · dy.
struct Plan {
    product: cublasLtMatmulDesc_t,
    left: cublasLtMatrixLayout_t,
    right: cublasLtMatrixLayout_t,
    result: cublasLtMatrixLayout_t,
    algorithms: HashMap<Alignments, Algorithm>,
}

impl Gemm {
    pub fn new(context: &Context) -> Result<Self> {
        context.bind()?;
        let handle = result::create_handle().map_err(|e| context.error("cuBLASLt", e))?;
        let mut gemm = Self {
            handle,
            workspace: None,
            plans: Mutex::default(),
            choices: Mutex::new(tuning::read(context)),
            measuring: Mutex::default(),
        };
        gemm.workspace = allocate(context, Self::workspace_bytes(context.limits.arch))?;
        Ok(gemm)
    }

    /// Does `work`, and for each of its products measures what cuBLASLt suggests; from then on products are computed by
    /// what was fastest.
    pub fn measure(&self, work: impl FnOnce() -> Result<()>) -> Result<Choices> {
        *lock(&self.measuring) = Some(Choices::new());
        lock(&self.plans).clear();
        let done = work();
        let measured = lock(&self.measuring).take().unwrap_or_default();
        done?;
        lock(&self.choices).extend(measured.clone());
        Ok(measured)
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
        let mut plans = lock(&self.plans);
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
        let alignments = Alignments::of(at);
        let algorithm = match plan.algorithms.get(&alignments) {
            Some(algorithm) => *algorithm,
            None => {
                // SAFETY: by this function's contract.
                let chosen = unsafe { self.choose(context, plan, product, at)? };
                plan.algorithms.insert(alignments, chosen);
                chosen
            }
        };
        // SAFETY: by this function's contract.
        unsafe { self.queue(context, plan, product, at, &algorithm) }.map_err(describe)
    }

    /// The algorithm of a product: the one that was measured to be the fastest, or cuBLASLt's first suggestion.
    ///
    /// # Safety
    /// As [`Gemm::run`].
    unsafe fn choose(
        &self,
        context: &Context,
        plan: &Plan,
        product: Product,
        at: Operands,
    ) -> Result<Algorithm> {
        /// How many suggestions are measured.
        const MOST: usize = 24;
        let alignments = Alignments::of(at);
        let name = format!("{product}{alignments}");
        let suggested = |most| {
            let suggested = plan.suggested(self.handle, alignments, self.workspace_len(), most);
            suggested.map_err(|e| context.error(format!("cuBLASLt: {product:?}"), e))
        };
        let mut measuring = lock(&self.measuring);
        if let Some(measured) = &mut *measuring
            && !context.is_recording()
        {
            let suggested = suggested(MOST)?;
            let choice = tuning::fastest(context, &suggested, |algorithm| {
                // SAFETY: by this function's contract.
                let queued = unsafe { self.queue(context, plan, product, at, algorithm) };
                queued.map_err(|e| context.error(format!("cuBLASLt: {product:?}"), e))
            })?;
            let algorithm = Algorithm { data: choice.algorithm };
            measured.insert(name, choice);
            return Ok(algorithm);
        }
        let chosen = lock(&self.choices).get(&name).map(|choice| choice.algorithm);
        if let Some(data) = chosen {
            let algorithm = Algorithm { data };
            if plan.accepts(self.handle, &algorithm, self.workspace_len()) {
                return Ok(algorithm);
            }
            log::warn!(
                "cuBLASLt refuses what was measured for: {name}; run the example tune again"
            );
        }
        Ok(suggested(1)?[0])
    }

    fn workspace_len(&self) -> usize {
        self.workspace.as_ref().map_or(0, CudaSlice::len)
    }

    /// # Safety
    /// As [`Gemm::run`].
    unsafe fn queue(
        &self,
        context: &Context,
        plan: &Plan,
        product: Product,
        at: Operands,
        algorithm: &Algorithm,
    ) -> Result<(), CublasError> {
        let workspace = self.workspace.as_ref();
        let address = workspace.map_or(0, |w| w.device_ptr(context.main_stream()).0);
        let (one, of_skip) = (1.0f32, if product.skip { 1.0f32 } else { 0.0 });
        // SAFETY: the plan describes memory that the caller vouches for; the workspace is used by
        // this stream only.
        unsafe {
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
                algorithm,
                address as *mut c_void,
                self.workspace_len(),
                context.stream().cast(),
            )
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The algorithms that cuBLASLt suggests for operands aligned as these: at least one, the first of which it thinks
    /// fastest, and no more than `most`.
    fn suggested(
        &self,
        handle: cublasLtHandle_t,
        Alignments(alignments): Alignments,
        workspace: usize,
        most: usize,
    ) -> Result<Vec<Algorithm>, CublasError> {
        let preference = result::create_matmul_pref()?;
        let names = [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        // Partial sums are not to be rounded to the result's type. cuBLASLt's first suggestion is left to it.
        let reduction = match most {
            1 => cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_MASK,
            _ => cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
        } as u32;
        // SAFETY: results are plain numbers, of which any bits are some.
        let mut found: Vec<Found> = vec![unsafe { zeroed() }; most];
        let mut count: c_int = 0;
        // SAFETY: the descriptions are alive; the workspace's size is a usize, the others are u32; there is room for
        // `most` results.
        let asked = unsafe {
            let set = |attribute, value: *const c_void, bytes| {
                result::set_matmul_pref_attribute(preference, attribute, value, bytes)
            };
            set(
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )
            .and_then(|()| {
                set(
                    Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                    (&raw const reduction).cast(),
                    size_of::<u32>(),
                )
            })
            .and_then(|()| {
                names.into_iter().zip(alignments).try_for_each(|(attribute, bytes)| {
                    set(attribute, (&raw const bytes).cast(), size_of::<u32>())
                })
            })
            .and_then(|()| {
                cublasLtMatmulAlgoGetHeuristic(
                    handle,
                    self.product,
                    self.left,
                    self.right,
                    self.result,
                    self.result,
                    preference,
                    most as c_int,
                    found.as_mut_ptr(),
                    &mut count,
                )
                .result()
            })
        };
        // SAFETY: nobody has the preference after this.
        unsafe { result::destroy_matmul_pref(preference) }.ok();
        asked?;
        found.truncate(count as usize);
        found.retain(|found| found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        match found.is_empty() {
            true => Err(CublasError(cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)),
            false => Ok(found.into_iter().map(|found| found.algo).collect()),
        }
    }

    /// Whether cuBLASLt can compute the product by an algorithm of a file.
    fn accepts(&self, handle: cublasLtHandle_t, algorithm: &Algorithm, workspace: usize) -> bool {
        // SAFETY: the result is plain numbers; the descriptions are alive, and what is not an algorithm is refused.
        unsafe {
            let mut found: Found = zeroed();
            let (c, d) = (self.result, self.result);
            let checked = cublasLtMatmulAlgoCheck(
                handle,
                self.product,
                self.left,
                self.right,
                c,
                d,
                algorithm,
                &mut found,
            );
            checked.result().is_ok() && found.workspaceSize <= workspace
        }
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
