//! Networks that predict what was added to noised features, each behind [`Denoiser`].
//!
//! A denoiser is a folder here and a line in this file's registry; one from outside of the crate is added by
//! [`register`]. What trains, inverts and keeps files knows only the traits.

mod adaln;
pub mod dit;
mod id;
mod import;
pub mod mlp;
mod parameters;
mod parts;
pub mod unet;
mod unpacked;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use dit::{Dit, DitConfig};
pub use id::DenoiserId;
pub use import::{Imported, Reference, Untold, import, read_parameters};
pub use mlp::{Mlp, MlpConfig};
pub use parameters::{Layout, Linear, Order, Parameter, Parameters};
pub use unet::{Unet, UnetConfig};
pub use unpacked::unpacked;

use crate::device::Allocate;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::tensor::{Device, Shape, Tensor, TensorView, TensorViewMut};
pub use crate::types::FeatureShape;
use crate::types::Precision;

/// What a network is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Use {
    /// Evaluations alone.
    Inference,
    /// Forward and backward passes.
    Training,
}

/// How a network is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// What it computes with.
    pub precision: Precision,
    /// What its backward pass computes again.
    pub recompute: Recompute,
}

/// What a backward pass computes again instead of having it kept, from the fastest to the smallest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// The outputs of normalisations and of activation functions.
    Normalisation,
    /// Everything but the residual stream between blocks: each block's forward pass.
    Blocks,
}

impl Recompute {
    /// All of them, each smaller and slower than the one before.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Normalisation, Self::Blocks];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Normalisation => "normalisation",
            Self::Blocks => "blocks",
        }
    }
}

/// A network F(x, t) over grids of features: its structure, without parameters and buffers.
///
/// Each forward and backward pass and each evaluation does the same work at every call with the same addresses, so
/// that a GPU can record it: it allocates nothing, copies nothing between host and device, and decides nothing on
/// the host by a device's numbers. On the CPU the bits do not depend on the number of threads, and those of an image
/// not on the images beside it; on a GPU they do not with `INVAD_LINEAR=own`.
pub trait Denoiser: fmt::Debug + Send + Sync {
    /// What a file says of it: what [`Kind::read`] makes the same network of.
    fn id(&self) -> DenoiserId;

    /// The features that it takes and returns.
    fn features(&self) -> FeatureShape;

    /// The parameters in the order of the flat tensor that holds them, one behind the other.
    fn parameters(&self) -> &[Parameter];

    /// The number of parameters, in elements.
    fn len(&self) -> usize {
        self.parameters().last().map_or(0, |last| last.offset + last.len())
    }

    /// Whether there are no parameters.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands over the numbers of fresh parameters, in their order. The same seed gives the same. What is never trained
    /// here need not have it.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Unavailable`] without an implementation.
    fn init_each(
        &self,
        _seed: u64,
        _each: &mut dyn FnMut(&Parameter, &[f32]) -> Result<()>,
    ) -> Result<()> {
        Err(not_trained(self.id()))
    }

    /// Fresh parameters on a device: a flat tensor in f32.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device cannot be used.
    fn init(&self, seed: u64, device: Device) -> Result<Tensor> {
        let mut values = vec![0.0f32; self.len()];
        self.init_each(seed, &mut |p, numbers| {
            values[p.offset..][..p.len()].copy_from_slice(numbers);
            Ok(())
        })?;
        Tensor::from_f32(values, &[self.len()], device)
    }

    /// Whether a device can be used, and can compute this network so.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be used; [`Error::Argument`] if it cannot compute the network.
    fn require(&self, device: Device, _purpose: Use, precision: Precision) -> Result<()> {
        device.require()?;
        precision.require("denoiser", device)
    }

    /// What its backward pass can compute again, from the fastest to the smallest; at least one.
    fn recompute(&self) -> &'static [Recompute] {
        &[Recompute::Nothing]
    }

    /// Forward and backward passes over `batch` images at once, with memory of `a`'s device. What is never trained here
    /// need not have them.
    ///
    /// # Errors
    /// Those of `a`; those of [`Denoiser::require`]; [`Error::Unavailable`] without an implementation.
    fn trainable(
        &self,
        _batch: usize,
        _how: Training,
        _a: &mut dyn Allocate,
    ) -> Result<Box<dyn Trainable>> {
        Err(not_trained(self.id()))
    }

    /// The network ready for evaluations at `timesteps` on a device; `parameters`, (len), are f32 on the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if `parameters` has another shape; [`Error::OutOfMemory`] if the device has not enough
    /// memory; those of [`Denoiser::require`].
    fn pack(
        &self,
        parameters: &Tensor,
        timesteps: &[usize],
        device: Device,
        precision: Precision,
    ) -> Result<Arc<dyn Packed>>;
}

fn not_trained(id: DenoiserId) -> Error {
    Error::Unavailable {
        what: format!("training of {id}"),
        why: "its kind is for evaluations alone".into(),
    }
}

/// A network's forward and backward passes, and the memory for them.
pub trait Trainable: Send {
    /// out = F(x, t), keeping what [`Trainable::backward`] needs.
    ///
    /// `x`: (B, G, G, C), f32; `t`: (B), f32; `out`: (B, G, G, C), of the precision's type.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    fn forward(
        &mut self,
        parameters: Parameters<'_>,
        x: TensorView<'_>,
        t: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()>;

    /// The gradients for the last forward pass, once for each: `gradients` += those of the parameters,
    /// and `dx` = that of x where it is asked for.
    ///
    /// `dout`, `dx`: (B, G, G, C), of the precision's type; `gradients`: as the parameters, f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    fn backward(
        &mut self,
        parameters: Parameters<'_>,
        dout: TensorView<'_>,
        gradients: &mut Tensor,
        dx: Option<TensorViewMut<'_>>,
    ) -> Result<()>;
}

/// A network ready for evaluations at fixed timesteps, shared between threads.
pub trait Packed: fmt::Debug + Send + Sync {
    /// Evaluations of `batch` images at once, with memory of `a`'s device, which is the one that it was packed for.
    ///
    /// # Errors
    /// Those of `a`.
    fn evaluator(self: Arc<Self>, batch: usize, a: &mut dyn Allocate)
    -> Result<Box<dyn Evaluator>>;
}

/// A network's evaluations, and the memory for them.
pub trait Evaluator: Send {
    /// out = F(x, t), t the timestep of index `timestep` among those that the network was packed for.
    ///
    /// `x`: (B, G, G, C), f32; `out`: (B, G, G, C), of the precision's type.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit; [`Error::Argument`] if there is no such timestep.
    fn evaluate(
        &mut self,
        timestep: usize,
        x: TensorView<'_>,
        out: TensorViewMut<'_>,
    ) -> Result<()>;
}

/// Makes a network for features of a shape.
pub type Make = fn(FeatureShape) -> Result<Arc<dyn Denoiser>>;

/// A kind of networks.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Kind {
    /// Its name, which [`Denoiser::id`] has.
    pub name: &'static str,
    /// Makes a network of what [`Denoiser::id`] says of it.
    pub read: fn(&DenoiserId) -> Result<Arc<dyn Denoiser>>,
    /// The smallest network of the kind that has all its parts, to try the kind with.
    pub smallest: Make,
    /// Sizes that have a name of their own.
    pub presets: &'static [(&'static str, Make)],
    /// How files of the method's reference implementation have it, if they do.
    pub reference: Option<Reference>,
}

impl Kind {
    /// Without presets, and not of the reference implementation.
    pub const fn new(
        name: &'static str,
        read: fn(&DenoiserId) -> Result<Arc<dyn Denoiser>>,
        smallest: Make,
    ) -> Self {
        Self { name, read, smallest, presets: &[], reference: None }
    }

    /// The same with these presets, by their names.
    #[must_use]
    pub const fn with_presets(self, presets: &'static [(&'static str, Make)]) -> Self {
        Self { presets, ..self }
    }
}

static REGISTRY: Registry<Kind> = Registry::new(
    "denoiser",
    &[("dit", || Ok(dit::KIND)), ("mlp", || Ok(mlp::KIND)), ("unet", || Ok(unet::KIND))],
);

/// Adds a kind of networks to those that this program knows.
///
/// # Errors
/// [`Error::Argument`] if its name or that of a preset is taken.
pub fn register(kind: Kind) -> Result<()> {
    let own: Vec<&str> = REGISTRY.own().flat_map(|kind| kind.presets).map(|p| p.0).collect();
    REGISTRY.register(kind.name.into(), kind, |others| {
        let others = others.iter().flat_map(|(_, kind)| kind.presets).map(|(name, _)| *name);
        let mut taken: BTreeSet<&str> = own.into_iter().chain(others).collect();
        match kind.presets.iter().find(|(name, _)| !taken.insert(name)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Error::argument("denoiser", "preset", "one that is not taken", name))
            }
        }
    })
}

/// The kinds of networks that this program knows.
pub fn kinds() -> Vec<Kind> {
    REGISTRY.names().iter().filter_map(|name| REGISTRY.named(name).ok()).collect()
}

/// The names of the presets of all kinds.
pub fn presets() -> Vec<&'static str> {
    let kinds = kinds();
    kinds.iter().flat_map(|kind| kind.presets).map(|(name, _)| *name).collect()
}

/// The network of a preset's name for features of a shape.
///
/// # Errors
/// [`Error::Argument`] if there is no such preset, or it cannot have such features.
pub fn preset(name: &str, features: FeatureShape) -> Result<Arc<dyn Denoiser>> {
    let kinds = kinds();
    for kind in &kinds {
        if let Some((_, make)) = kind.presets.iter().find(|(known, _)| *known == name) {
            return checked(kind, make(features)?);
        }
    }
    Err(Error::argument("denoiser", "preset", presets().join(", "), name))
}

/// The network that a file speaks of.
///
/// # Errors
/// [`Error::Argument`] if its kind is not known, or there is no network of it of these sizes.
pub fn read(id: &DenoiserId) -> Result<Arc<dyn Denoiser>> {
    let kind = REGISTRY.named(&id.kind)?;
    checked(&kind, (kind.read)(id)?)
}

/// What is taken for granted of a network, and only promised by one from outside of the crate.
fn checked(kind: &Kind, denoiser: Arc<dyn Denoiser>) -> Result<Arc<dyn Denoiser>> {
    let refused = |arg, expected: &str, got: String| {
        Err(Error::argument(kind.name, arg, expected.to_string(), got))
    };
    let FeatureShape { grid, channels } = denoiser.features();
    if ![grid, channels].iter().all(|n| (1..=1 << 14).contains(n)) {
        return refused(
            "features",
            "a grid and channels in 1..=16384",
            format!("{grid}, {channels}"),
        );
    }
    let id = denoiser.id();
    if id.kind != kind.name || id.sizes.contains_key("kind") {
        return refused("id", "of its kind, with no size of the name `kind`", format!("{id:?}"));
    }
    if denoiser.recompute().is_empty() {
        return refused("recompute", "at least one way", "none".into());
    }
    let (mut end, mut names) = (Some(0usize), BTreeSet::new());
    for p in denoiser.parameters() {
        let Ok(shape) = Shape::new("denoiser", &p.shape) else {
            return refused("parameters", "of shapes that a tensor can have", format!("{p:?}"));
        };
        if end != Some(p.offset) || !names.insert(&p.name) {
            let expected = "one behind the other, each with a name of its own";
            return refused("parameters", expected, format!("{p:?}"));
        }
        end = shape.elements().checked_add(p.offset);
    }
    match end {
        Some(len) => Shape::new("denoiser", &[len]).map(|_| denoiser),
        None => refused("parameters", "as many as can be addressed", "more".into()),
    }
}
