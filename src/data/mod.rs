//! Data sets on disk and images.

mod dataset;
mod image;
mod inputs;
pub mod layouts;
mod mask;
mod sample;
mod synthetic;
mod write;

pub use self::dataset::Dataset;
pub use self::image::{decode_image, load_image};
pub use self::inputs::collect_inputs;
pub use self::mask::{Mask, load_mask};
pub use self::sample::{Category, Sample, Split, load_sample};
pub use self::synthetic::{DefectKind, paint_defect};
pub use self::write::{write_map, write_png};
