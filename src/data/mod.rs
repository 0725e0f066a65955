//! Data sets on disk and images.

mod dataset;
mod image;
mod inputs;
mod mask;
mod synthetic;
mod write;

pub use self::dataset::{Category, Dataset, TestImage, load_test};
pub use self::image::{decode_image, load_image};
pub use self::inputs::collect_inputs;
pub use self::mask::{Mask, load_mask};
pub use self::synthetic::{DefectKind, paint_defect};
pub use self::write::{write_map, write_png};
