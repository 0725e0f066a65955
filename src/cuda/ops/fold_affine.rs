//! `kernels/fold_affine.cu` and `kernels/fold_affine_backward.cu`.

use super::Op;
use crate::cuda::launch::{Launch, args};
use crate::error::Result;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// LayerNorms' weights and biases as part of the modulation, in f32.
pub(crate) fn fold_affine(
    table: TensorView,
    affine: TensorView,
    folded: TensorViewMut,
    [images, sites, width]: [usize; 3],
) -> Result<()> {
    let op = Op::new("fold_affine", "table", table.on_cuda())?;
    op.int("table", table.len())?;
    let table = op.read("table", table, DType::F32)?;
    let affine = op.read("affine", affine, DType::F32)?;
    let folded = op.write("folded", folded, DType::F32)?;
    let launch = Launch { grid: [width.div_ceil(256), sites, images], block: 256, shared: 0 };
    let args = args![table, affine, folded, op.int("affine", sites)?, op.int("affine", width)?];
    // SAFETY: table and folded have 3·sites − 1 rows of `width` numbers for each image, affine two for each site.
    unsafe { op.launch("fold_affine", &[], launch, &args) }
}

/// Its gradients, in f32.
pub(crate) fn fold_affine_backward(
    table: TensorView,
    affine: TensorView,
    dtable: TensorViewMut,
    daffine: TensorViewMut,
    [images, sites, width]: [usize; 3],
) -> Result<()> {
    let op = Op::new("fold_affine_backward", "table", table.on_cuda())?;
    op.int("table", table.len())?;
    let table = op.read("table", table, DType::F32)?;
    let affine = op.read("affine", affine, DType::F32)?;
    let dtable = op.write("dtable", dtable, DType::F32)?;
    let daffine = op.write("daffine", daffine, DType::F32)?;
    let launch = Launch { grid: [width.div_ceil(256), sites, 1], block: 256, shared: 0 };
    let (images, sites) = (op.int("table", images)?, op.int("affine", sites)?);
    let args = args![table, affine, dtable, daffine, images, sites, op.int("affine", width)?];
    // SAFETY: table and dtable have 3·sites − 1 rows of `width` numbers for each image, affine and daffine two for
    // each site.
    unsafe { op.launch("fold_affine_backward", &[], launch, &args) }
}
