//! Networks that were trained elsewhere: their parameters from files, and those of the method's reference implementation
//! whole.

use std::sync::Arc;

use super::{Denoiser, checked, kinds};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor};
use crate::weights::Weights;

/// How files of the method's reference implementation have the networks of a kind. Names are without the prefixes
/// `module.`, of parallel training, and `net.`.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// A tensor that all of them have, and those of other kinds have not.
    pub mark: &'static str,
    /// Layers that are in them and never get a gradient.
    pub unused: &'static [&'static str],
    /// The network that the shapes of tensors tell of, and what they do not tell.
    pub network: fn(&Weights, &Untold) -> Result<Arc<dyn Denoiser>>,
}

/// What the tensors of a network do not tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Untold {
    /// Side G of the grid of features, where the network has no positions.
    pub grid: usize,
    /// Attention heads, where their number is the same everywhere.
    pub heads: usize,
    /// Channels of an attention head, where that is the same everywhere.
    pub head_size: usize,
}

setters!(Untold { grid: usize, heads: usize, head_size: usize });

impl Default for Untold {
    /// What the reference implementation has: a grid of 16, 8 heads, heads of 64 channels.
    fn default() -> Self {
        Self { grid: 16, heads: 8, head_size: 64 }
    }
}

/// A network that was trained elsewhere.
#[derive(Debug)]
pub struct Imported {
    /// Its structure.
    pub denoiser: Arc<dyn Denoiser>,
    /// Its parameters, (len), f32 on the host.
    pub parameters: Tensor,
    /// The tensors that never got a gradient, and were left out.
    pub unused: Vec<String>,
}

/// The network of a file that the method's reference implementation has written (github.com/SkyShunsuke/InversionAD): a
/// state dictionary, the average of training or not, with `module.` before names or without.
///
/// Which kind it is of and its sizes are read from the names and shapes of its tensors, but for those of `untold`.
///
/// # Errors
/// [`Error::File`] if it is of no known kind, or that names the tensors that are missing, of another shape or left over;
/// [`Error::Argument`] if its sizes do not go together; [`Error::Io`] if it cannot be read.
pub fn import(weights: Weights, untold: &Untold) -> Result<Imported> {
    let weights = weights.without_prefixes(&["module.", "net."])?;
    let of_reference = |kind: &super::Kind| {
        kind.reference.is_some_and(|reference| weights.entry(reference.mark).is_some())
    };
    let Some(kind) = kinds().into_iter().find(of_reference) else {
        let kinds = kinds().into_iter().filter_map(|kind| Some((kind.name, kind.reference?.mark)));
        let marks: Vec<_> =
            kinds.clone().map(|(kind, mark)| format!("`{mark}` ({kind})")).collect();
        let below = kinds.filter_map(|(_, mark)| weights.key_above(&[mark])).next();
        let below = below.map(|key| {
            let key = key.trim_end_matches(".net").trim_end_matches(".module");
            format!("; is it what is below `{key}` (--below {key})?")
        });
        let reason = format!(
            "no denoiser of the reference implementation: it has none of {}; {}{}",
            marks.join(", "),
            weights.summary(),
            below.unwrap_or_default()
        );
        return Err(Error::file(weights.path(), reason));
    };
    let Some(Reference { unused, network, .. }) = kind.reference else {
        unreachable!("it was found by it")
    };
    let is_unused = |name: &str| {
        let of = |layer: &&str| name.strip_prefix(*layer).is_some_and(|s| s.starts_with('.'));
        unused.iter().any(of)
    };
    let names = weights.entries().map(|(name, _)| name.to_string());
    let unused: Vec<String> = names.filter(|name| is_unused(name)).collect();
    let weights = weights.renamed(|name| (!is_unused(name)).then(|| name.into()))?;
    let denoiser = checked(&kind, network(&weights, untold)?)?;
    let parameters = read_parameters(&*denoiser, &weights)?;
    Ok(Imported { denoiser, parameters, unused })
}

/// The parameters of a network from a file that has them by their names, laid out as the method's reference
/// implementation does ([`Parameter::order`](super::Parameter::order)), and nothing else: (len), f32 on the host.
///
/// # Errors
/// [`Error::File`] that names the tensors that are missing, of another shape or left over; [`Error::Io`] if it cannot be
/// read; [`Error::HostMemory`] if there is not enough.
pub fn read_parameters(denoiser: &dyn Denoiser, weights: &Weights) -> Result<Tensor> {
    let all = denoiser.parameters();
    weights.require_all(all.iter().map(|p| (p.name.clone(), p.reference_shape())))?;
    let mut flat = Tensor::zeros(&[denoiser.len()], DType::F32, Device::Cpu)?;
    let mut ours = Vec::new();
    for p in all {
        let theirs = weights.f32s(&p.name, &p.reference_shape())?;
        ours.resize(p.len(), 0.0);
        p.from_reference(&theirs, &mut ours);
        flat.view_mut().part(p.offset, &[p.len()])?.copy_from_slice(&ours)?;
    }
    Ok(flat)
}

/// A tensor's shape of so many axes.
pub(super) fn axes<const N: usize>(weights: &Weights, name: &str) -> Result<[usize; N]> {
    let fail = |reason: String| Error::file(weights.path(), reason);
    let entry = weights.entry(name).ok_or_else(|| fail(format!("there is no tensor `{name}`")))?;
    let shape = &entry.shape[..];
    shape.try_into().map_err(|_| fail(format!("`{name}` should have {N} axes, got {shape:?}")))
}

/// How many blocks there are whose names begin with `PREFIX.` and their number.
pub(super) fn count(weights: &Weights, prefix: &str) -> usize {
    let index = |name: &str| -> Option<usize> {
        let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
        rest.split_once('.')?.0.parse().ok()
    };
    let last = weights.entries().filter_map(|(name, _)| index(name)).max();
    last.map_or(0, |last| last.saturating_add(1))
}
