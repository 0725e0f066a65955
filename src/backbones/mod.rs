//! From images to features: frozen networks, by name.
//!
//! A backbone is a [`Backbone`] that is given to [`register`], or one of this crate's own; [`Loaded`] has one ready on a
//! device. `examples/custom_backbone.rs` has one of its own.

mod efficientnet;
mod loaded;
mod remembered;
mod spec;
mod vit;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::device::Allocate;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::tensor::{Device, TensorView, TensorViewMut};
use crate::types::Precision;
use crate::weights::{self, Fetched, Weights};

pub use efficientnet::EfficientNet;
pub(crate) use loaded::{Inputs, Place};
pub use loaded::{Loaded, Workspace};
pub use remembered::Remembered;
pub use spec::{BackboneSpec, Filter};
pub use vit::{Resampling, Vit, VitConfig, vit};

/// A frozen network that turns images into features, wherever it is to compute.
pub trait Backbone: fmt::Debug + Send + Sync {
    /// What it is, what it takes and what it makes of it.
    fn spec(&self) -> &BackboneSpec;

    /// Its weights on a device.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used;
    /// [`Error::OutOfMemory`] if it has not enough memory;
    /// [`Error::Argument`] if there it does not compute with this precision.
    fn pack(&self, device: Device, precision: Precision) -> Result<Arc<dyn Packed>>;
}

/// A backbone's weights on a device, shared by all who compute with them.
pub trait Packed: fmt::Debug + Send + Sync {
    /// Buffers for batches of `batch` images, memory on a device through `a`, whose device is the one it was packed
    /// for.
    ///
    /// # Errors
    /// Those of [`Allocate::zeros`].
    fn extractor(self: Arc<Self>, batch: usize, a: &mut dyn Allocate)
    -> Result<Box<dyn Extractor>>;
}

/// A backbone ready to compute features of batches of one size.
pub trait Extractor: Send {
    /// Queues or does the work of a batch.
    ///
    /// `rgb`: (B, S, S, 3) bytes ([`DType::U8`](crate::DType::U8)), not normalised, on the device; `features`: (B, G,
    /// G, C), written, f32 or on a GPU f16 or f32.
    ///
    /// The work is the same at every call: nothing is allocated on a device, copied to or from the host, or decided by
    /// numbers of a device, so that a GPU may record it. On a CPU the bits depend neither on the number of
    /// threads nor on what else is in the batch.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`] and
    /// [`Error::Device`] if the arguments are others; [`Error::Cuda`] if a
    /// GPU fails.
    fn extract(&mut self, rgb: TensorView<'_>, features: TensorViewMut<'_>) -> Result<()>;
}

static BACKBONES: Registry<Arc<dyn Backbone>> =
    Registry::new("backbone", &[("efficientnet-lite0", efficientnet::lite0)]);

/// The backbone of this name: one that the crate has weights of or that was registered, or a network of this crate
/// ([`EfficientNet::names`], [`VitConfig::NAMES`]) with the weights that [`weights::find`] finds under its name.
///
/// # Errors
/// [`Error::Argument`] if there is none; those of finding and reading the weights.
pub fn named(name: &str) -> Result<Arc<dyn Backbone>> {
    named_with(name, &mut |_| {})
}

/// As [`named`], and `progress` is told of weights that are fetched.
///
/// # Errors
/// As [`named`].
pub fn named_with(name: &str, progress: &mut dyn FnMut(Fetched)) -> Result<Arc<dyn Backbone>> {
    let mut found = || Weights::open(weights::find_with(name, progress)?);
    let unknown = match BACKBONES.named(name) {
        Err(unknown) => unknown,
        known => return known,
    };
    match OfFile::named(name) {
        Some(OfFile::EfficientNet(network)) => network.with_weights(name, found()?),
        Some(OfFile::Vit(config)) => vit(name, config, found()?),
        None => Err(match unknown {
            Error::Argument { op, arg, expected, got } => {
                let expected = format!("{expected}, or with the weights of a file {}", of_files());
                Error::Argument { op, arg, expected, got }
            }
            other => other,
        }),
    }
}

/// A network whose weights are those of a file.
enum OfFile {
    EfficientNet(EfficientNet),
    Vit(VitConfig),
}

impl OfFile {
    fn named(name: &str) -> Option<Self> {
        let efficientnet = EfficientNet::named(name).map(Self::EfficientNet);
        efficientnet.or_else(|_| VitConfig::named(name).map(Self::Vit)).ok()
    }
}

/// The names of all of them, but for those that need no file.
fn of_files() -> String {
    let all = EfficientNet::names().chain(VitConfig::NAMES);
    all.filter(|name| BACKBONES.named(name).is_err()).collect::<Vec<_>>().join(", ")
}

/// Writes the weights of the network of this name (those of [`named`] that need a file) to a file of safetensors: what it
/// needs of them in f32, under names that are the same wherever they come from, so that the same numbers are the
/// same bytes. As `NAME.safetensors` in a folder of weights it is what [`named`] finds.
///
/// Returns the names of the tensors that it does not need.
///
/// # Errors
/// [`Error::Argument`] if there is no such network; [`Error::File`] that names the tensors that are missing or have another
/// shape; [`Error::Io`] if a file cannot be read or written.
pub fn convert(name: &str, weights: Weights, to: impl AsRef<Path>) -> Result<Vec<String>> {
    let to = to.as_ref();
    match OfFile::named(name).filter(|_| BACKBONES.named(name).is_err()) {
        Some(OfFile::EfficientNet(network)) => network.convert(weights, to),
        Some(OfFile::Vit(config)) => config.convert(weights, to),
        None => {
            let expected = format!("one whose weights are in a file: {}", of_files());
            Err(Error::argument("convert", "backbone", expected, name))
        }
    }
}

/// The names of all backbones that there are, whether or not the weights of those that need a file are at hand.
pub fn known() -> Vec<String> {
    let of_files = EfficientNet::names().chain(VitConfig::NAMES).map(String::from);
    let mut all = names();
    for name in of_files {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// The names of all backbones that need no file, those of this crate first.
pub fn names() -> Vec<String> {
    BACKBONES.names()
}

/// Makes a backbone known by the name of its [`spec`](Backbone::spec), for the rest of the process: detectors that were
/// trained with it can then be loaded.
///
/// # Errors
/// [`Error::Argument`] if the name is taken.
pub fn register(backbone: Arc<dyn Backbone>) -> Result<()> {
    BACKBONES.register(backbone.spec().name.clone(), backbone, |_| Ok(()))
}
