//! Operations on a GPU, one file each under the name of the operation. Shapes have been checked by
//! [`crate::ops`]; here are checked devices, types, alignment, and what the kernels cannot do.

use std::cell::OnceCell;
use std::sync::MutexGuard;

use super::context::Context;
use super::gemm::{Operands, Product};
use super::launch::{Arg, Define, Launch};
use super::memory::{Slice, SliceMut};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::tensor::{DType, Device, TensorView, TensorViewMut};

mod adaln_zero;
mod adamw;
mod add;
mod add_noise;
mod add_position;
mod attention;
mod channel_gate;
mod channel_mean;
mod column_sums;
mod concat;
mod denoising_loss;
mod depthwise_conv2d;
mod fold_affine;
mod gather_features;
mod gather_patches;
mod gather_tokens;
mod gelu;
mod group_norm;
mod inversion_step;
mod inverted_residual;
mod linear;
mod linear_quantised;
mod mahalanobis;
mod normal;
mod normalise;
mod patchify;
mod quantise;
mod resize_bilinear;
mod score;
mod silu;
mod squeeze_excite;
mod stem_conv;
mod timestep_embedding;

pub(crate) use adaln_zero::{
    WIDEST, WIDEST_BACKWARD, adaln_zero, adaln_zero_backward, adaln_zero_backward_scratch,
};
pub(crate) use adamw::{adamw, global_norm, global_norm_scratch};
pub(crate) use add::add;
pub(crate) use add_noise::add_noise;
pub(crate) use add_position::{add_position, add_position_backward};
pub(crate) use attention::{
    LARGEST_HEAD, MOST_TOKENS, attention, attention_backward, attention_backward_scratch,
};
pub(crate) use channel_gate::channel_gate;
pub(crate) use channel_mean::channel_mean;
pub(crate) use concat::{concat, concat_backward};
pub(crate) use denoising_loss::denoising_loss;
pub(crate) use depthwise_conv2d::depthwise_conv2d;
pub(crate) use fold_affine::{fold_affine, fold_affine_backward};
pub(crate) use gather_features::gather_features;
pub(crate) use gather_patches::{gather_patches, gather_patches_backward};
pub(crate) use gather_tokens::gather_tokens;
pub(crate) use gelu::gelu;
pub(crate) use group_norm::{group_norm, group_norm_backward, group_norm_backward_scratch};
pub(crate) use inversion_step::inversion_step;
pub(crate) use inverted_residual::{Residual, ResidualScratch, inverted_residual};
pub(crate) use linear::{
    linear, linear_backward_input, linear_backward_scratch, linear_backward_weight,
};
pub(crate) use linear_quantised::{linear as linear_of_codes, linear_quantised};
pub(crate) use mahalanobis::mahalanobis;
pub(crate) use normal::normal;
pub(crate) use normalise::{factors, normalise};
pub(crate) use patchify::{patchify, unpatchify};
pub(crate) use quantise::quantise;
pub(crate) use resize_bilinear::resize_bilinear;
pub(crate) use score::score;
pub(crate) use silu::{silu, silu_backward};
pub(crate) use squeeze_excite::squeeze_excite;
pub(crate) use stem_conv::stem_conv;
pub(crate) use timestep_embedding::{TIMESTEP_TABLE_BYTES, timestep_embedding};

/// An operation on the GPU of its first argument.
struct Op<'a> {
    name: &'static str,
    context: &'a Context,
    /// Held from the first kernel on that is queued, since those of an operation may leave scratch memory to each
    /// other. Before, others do not wait while a kernel is compiled.
    queueing: OnceCell<MutexGuard<'a, ()>>,
}

impl<'a> Op<'a> {
    /// The operation `name` on the GPU that `first` is on.
    fn new(name: &'static str, arg: &'static str, first: Option<Slice<'a>>) -> Result<Self> {
        match first {
            Some(slice) => Ok(Self { name, context: slice.context(), queueing: OnceCell::new() }),
            None => {
                Err(Error::Device { op: name, arg, expected: Device::Cuda(0), got: Device::Cpu })
            }
        }
    }

    /// The address of an argument that must hold this type.
    fn read(&self, arg: &'static str, view: TensorView, dtype: DType) -> Result<u64> {
        self.address(arg, view.on_cuda(), dtype)
    }

    /// The address of an output that must hold this type.
    fn write(&self, arg: &'static str, view: TensorViewMut, dtype: DType) -> Result<u64> {
        self.address(arg, view.into_cuda().map(SliceMut::into_slice), dtype)
    }

    fn address(&self, arg: &'static str, slice: Option<Slice>, dtype: DType) -> Result<u64> {
        let (op, expected) = (self.name, self.context.device());
        match slice {
            Some(slice) if slice.device() == expected => match slice.dtype() {
                got if got != dtype => Err(Error::DType { op, arg, expected: dtype, got }),
                // Work on another stream would not be in order with this.
                _ if !std::ptr::eq(slice.context(), self.context) => {
                    let expected = "on the stream of the other arguments";
                    Err(Error::argument(op, arg, expected, "memory of another stream"))
                }
                _ => slice.address_of_work(),
            },
            _ => {
                let got = slice.map_or(Device::Cpu, |slice| slice.device());
                Err(Error::Device { op, arg, expected, got })
            }
        }
    }

    /// Checks that an address suits copies of 16 bytes.
    fn aligned(&self, arg: &'static str, address: u64) -> Result<u64> {
        match address % 16 {
            0 => Ok(address),
            rest => Err(Error::argument(
                self.name,
                arg,
                "a part that begins at a multiple of 16 bytes, on a GPU",
                format!("{rest} bytes more"),
            )),
        }
    }

    /// The type of an argument that may be f32 or f16.
    fn float(&self, arg: &'static str, got: DType) -> Result<DType> {
        match got {
            DType::F32 | DType::F16 => Ok(got),
            _ => Err(Error::DType { op: self.name, arg, expected: DType::F16, got }),
        }
    }

    /// A size as kernels take it.
    fn int(&self, arg: &'static str, value: usize) -> Result<i32> {
        let expected = "small enough to be counted in 32 bits on a GPU; lower the batch size";
        i32::try_from(value).map_err(|_| Error::argument(self.name, arg, expected, value))
    }

    /// An activation as kernels of convolutions are told.
    fn activation(&self, arg: &'static str, activation: Activation) -> Result<i32> {
        match activation {
            Activation::None => Ok(0),
            Activation::Relu6 => Ok(1),
            Activation::Silu => Ok(2),
            Activation::Gelu | Activation::GeluErf => {
                let expected = "no activation, ReLU6 or SiLU on a GPU";
                Err(Error::argument(self.name, arg, expected, format!("{activation:?}")))
            }
        }
    }

    /// Loads a kernel that follows another of the operation.
    fn load(&self, kernel: &'static str, defines: &[Define]) -> Result<()> {
        debug_assert!(self.queueing.get().is_none(), "{kernel} is loaded late");
        self.context.kernels.get(self.context, kernel, defines).map(drop)
    }

    /// Queues a kernel. One that follows another should have been loaded before ([`Self::load`]).
    ///
    /// # Safety
    /// As [`super::launch::Kernel::launch`].
    unsafe fn launch(
        &self,
        kernel: &'static str,
        defines: &[Define],
        launch: Launch,
        args: &[Arg],
    ) -> Result<()> {
        let kernel = self.context.kernels.get(self.context, kernel, defines)?;
        self.queueing.get_or_init(|| self.context.queueing());
        // SAFETY: the caller vouches for it.
        unsafe { kernel.launch(self.context, launch, args) }
    }

    /// Queues a matrix product.
    ///
    /// # Safety
    /// As [`Gemm::run`](super::gemm::Gemm::run).
    unsafe fn product(&self, product: Product, operands: Operands) -> Result<()> {
        let gemm = self.context.gemm()?;
        self.queueing.get_or_init(|| self.context.queueing());
        // SAFETY: the caller vouches for it.
        unsafe { gemm.run(self.context, product, operands) }
    }
}

/// Whether a type that may be f32 or f16 is f16, as kernels are told.
fn is_f16(dtype: DType) -> i32 {
    i32::from(dtype == DType::F16)
}
