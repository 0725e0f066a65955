//! What a pass through the network keeps, and where the backward pass puts its results.

use super::config::{GROUPS, Grid};
use super::layers::{Layer, Layers};
use crate::denoisers::{FeatureShape, Recompute};
use crate::device::{Allocate, Purpose};
use crate::error::Result;
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};
use crate::types::Precision;

/// One tensor for each of several places, or fewer, each as large as the largest that takes a turn in it.
#[derive(Debug)]
pub(super) struct Slots {
    tensors: Vec<Tensor>,
    /// Of each place, which tensor it is in and its shape.
    places: Vec<(usize, Vec<usize>)>,
}

impl Slots {
    /// Of places that have these shapes.
    fn new(
        a: &mut dyn Allocate,
        purpose: Purpose,
        places: Vec<(usize, Vec<usize>)>,
        dtype: DType,
    ) -> Result<Self> {
        let mut lengths = Vec::new();
        for (tensor, shape) in &places {
            let len: usize = shape.iter().product();
            lengths.resize(lengths.len().max(tensor + 1), 0);
            lengths[*tensor] = len.max(lengths[*tensor]);
        }
        let tensors = lengths.into_iter().map(|len| a.zeros(purpose, &[len], dtype));
        Ok(Self { tensors: tensors.collect::<Result<_>>()?, places })
    }

    /// What is in place i.
    pub fn view(&self, i: usize) -> Result<TensorView<'_>> {
        let (tensor, shape) = &self.places[i];
        self.tensors[*tensor].view().part(0, shape)
    }

    pub fn view_mut(&mut self, i: usize) -> Result<TensorViewMut<'_>> {
        let (tensor, shape) = &self.places[i];
        self.tensors[*tensor].view_mut().part(0, shape)
    }

    /// Place i to be written, and the one before it, which lies in another tensor.
    pub fn step(&mut self, i: usize) -> Result<(Option<TensorView<'_>>, TensorViewMut<'_>)> {
        let (tensor, shape) = &self.places[i];
        let Some((before, shape_before)) = i.checked_sub(1).map(|i| &self.places[i]) else {
            return Ok((None, self.tensors[*tensor].view_mut().part(0, shape)?));
        };
        let [now, before] = self
            .tensors
            .get_disjoint_mut([*tensor, *before])
            .expect("a layer does not write where it reads");
        Ok((Some(before.view().part(0, shape_before)?), now.view_mut().part(0, shape)?))
    }
}

/// Takes slots; how many depends on what is computed again.
struct Lists<'a> {
    a: &'a mut dyn Allocate,
    /// Of a training; evaluations keep nothing.
    recompute: Option<Recompute>,
}

impl Lists<'_> {
    fn list(&mut self, keep: bool, shapes: Vec<Vec<usize>>, dtype: DType) -> Result<Slots> {
        let turns = !keep && shapes.len() > 1 && self.recompute.is_some();
        let purpose = if turns { Purpose::Recomputed } else { Purpose::Activations };
        let places =
            shapes.into_iter().enumerate().map(|(i, shape)| (if keep { i } else { 0 }, shape));
        Slots::new(self.a, purpose, places.collect(), dtype)
    }

    /// What layers compute on the way to their outputs.
    fn of_layers(&mut self, shapes: Vec<Vec<usize>>, dtype: DType) -> Result<Slots> {
        let keep = matches!(self.recompute, Some(Recompute::Nothing | Recompute::Normalisation));
        self.list(keep, shapes, dtype)
    }

    /// What is cheap to compute.
    fn of_normalisations(&mut self, shapes: Vec<Vec<usize>>, dtype: DType) -> Result<Slots> {
        self.list(self.recompute == Some(Recompute::Nothing), shapes, dtype)
    }
}

/// The buffers of a forward pass: for training what the backward pass reads or computes again, for inference what one
/// layer needs.
#[derive(Debug)]
pub(in crate::denoisers) struct Activations {
    pub(super) batch: usize,
    pub(super) recompute: Recompute,
    /// The input in the precision's type.
    pub(super) x: Tensor,
    /// Of each layer.
    pub(super) outputs: Slots,
    /// Outputs and the skips beside them.
    pub(super) joined: Slots,
    pub(super) inner: Inner,
}

/// What layers compute on the way to their outputs.
#[derive(Debug)]
pub(super) struct Inner {
    pub normed: Slots,
    /// Means and deviations of normalisations.
    pub stats: Vec<Tensor>,
    /// After the first convolution of residual blocks.
    pub hidden: Slots,
    pub qkv: Slots,
    /// None in evaluations.
    pub lse: Option<Slots>,
    pub attended: Slots,
    /// The input of a residual block as it is added to its output.
    pub projected: Tensor,
    /// What a convolution reads, (B, cells, 9·C), or the gradient of it.
    pub patches: Tensor,
}

impl Activations {
    /// For `batch` images; `recompute` of a training.
    pub(super) fn new(
        a: &mut dyn Allocate,
        layers: &Layers,
        features: FeatureShape,
        batch: usize,
        precision: Precision,
        recompute: Option<Recompute>,
    ) -> Result<Self> {
        let half = precision.dtype();
        let mut lists = Lists { a, recompute };
        let sizes = Sizes::new(layers, features, batch);
        let outputs = match recompute {
            Some(_) => (0..layers.steps.len()).collect(),
            None => outputs_in_turn(layers),
        };
        let outputs = outputs.into_iter().zip(&layers.steps);
        let outputs = outputs.map(|(tensor, step)| (tensor, step.output.of(batch).to_vec()));
        let outputs = Slots::new(lists.a, Purpose::Activations, outputs.collect(), half)?;
        let stats = if recompute.is_some() { sizes.normed.len() } else { 1 };
        let lse = match recompute {
            Some(_) => Some(lists.of_layers(sizes.lse, DType::F32)?),
            None => None,
        };
        Ok(Self {
            batch,
            recompute: recompute.unwrap_or_default(),
            outputs,
            joined: lists.of_normalisations(sizes.joined, half)?,
            inner: Inner {
                normed: lists.of_normalisations(sizes.normed, half)?,
                hidden: lists.of_layers(sizes.hidden, half)?,
                qkv: lists.of_layers(sizes.qkv, half)?,
                attended: lists.of_layers(sizes.attended, half)?,
                lse,
                stats: lists.a.many(
                    stats,
                    Purpose::Activations,
                    &[batch, GROUPS, 2],
                    DType::F32,
                )?,
                projected: lists.a.zeros(Purpose::Activations, &[sizes.projected], half)?,
                patches: lists.a.zeros(Purpose::Activations, &[sizes.patches], half)?,
            },
            x: lists.a.zeros(Purpose::Activations, &features.of(batch), half)?,
        })
    }
}

/// The buffers of a backward pass.
#[derive(Debug)]
pub(super) struct Gradients {
    /// Of a layer's output, and of its input, in turn; as large as the largest.
    pub stream: [Tensor; 2],
    /// Of what is joined later on, by the number of the join.
    pub skips: Slots,
    /// Of a normalisation's output, and of what attention has gathered.
    pub normed: Tensor,
    pub hidden: Tensor,
    pub qkv: Tensor,
}

impl Gradients {
    /// For `batch` images.
    pub fn new(
        a: &mut dyn Allocate,
        layers: &Layers,
        features: FeatureShape,
        batch: usize,
        precision: Precision,
    ) -> Result<Self> {
        let sizes = Sizes::new(layers, features, batch);
        let largest =
            |shapes: &[Vec<usize>]| shapes.iter().map(|s| s.iter().product()).max().unwrap_or(0);
        let grids = layers.steps.iter().flat_map(|step| [step.input, step.output]);
        let stream = grids.map(|grid| grid.of(batch).iter().product()).max().unwrap_or(0);
        let joins = layers.steps.iter().filter_map(|step| step.join);
        let skips = joins.map(|j| (j.index, layers.steps[j.from].output.of(batch).to_vec()));
        let skips = skips.collect();
        let mut take = |len, dtype| a.zeros(Purpose::ActivationGradients, &[len], dtype);
        Ok(Self {
            stream: [take(stream, DType::F32)?, take(stream, DType::F32)?],
            normed: take(largest(&sizes.normed), precision.dtype())?,
            hidden: take(largest(&sizes.hidden), precision.dtype())?,
            qkv: take(largest(&sizes.qkv), precision.dtype())?,
            skips: Slots::new(a, Purpose::ActivationGradients, skips, DType::F32)?,
        })
    }
}

/// Shapes of what layers compute.
struct Sizes {
    joined: Vec<Vec<usize>>,
    normed: Vec<Vec<usize>>,
    hidden: Vec<Vec<usize>>,
    qkv: Vec<Vec<usize>>,
    lse: Vec<Vec<usize>>,
    attended: Vec<Vec<usize>>,
    projected: usize,
    patches: usize,
}

impl Sizes {
    fn new(layers: &Layers, features: FeatureShape, batch: usize) -> Self {
        let of = |grid: Grid| grid.of(batch).to_vec();
        let patches = |from: usize, to: Grid| batch * to.cells() * 9 * from;
        let end = layers.end();
        let mut sizes = Self {
            joined: Vec::new(),
            normed: Vec::new(),
            hidden: Vec::new(),
            qkv: Vec::new(),
            lse: Vec::new(),
            attended: Vec::new(),
            projected: 0,
            patches: patches(end.channels, end.with(features.channels)),
        };
        for step in &layers.steps {
            let (input, output) = (step.input, step.output);
            if step.join.is_some() {
                sizes.joined.push(of(input));
            }
            match step.layer {
                Layer::Conv(_) => {
                    sizes.patches = sizes.patches.max(patches(input.channels, output));
                }
                Layer::Res(res) => {
                    sizes.normed.extend([of(input), of(output)]);
                    sizes.hidden.push(of(output));
                    let widest = input.channels.max(output.channels);
                    sizes.patches = sizes.patches.max(patches(widest, output));
                    if res.projection.is_some() {
                        let len = output.of(batch).iter().product();
                        sizes.projected = sizes.projected.max(len);
                    }
                }
                Layer::Attention(attention) => {
                    let (cells, heads) = (input.cells(), attention.heads);
                    sizes.normed.push(of(input));
                    sizes.qkv.push(vec![batch, cells, 3, heads, input.channels / heads]);
                    sizes.lse.push(vec![batch, heads, cells]);
                    sizes.attended.push(vec![batch, cells, input.channels]);
                }
            }
        }
        sizes.normed.push(of(end));
        sizes
    }
}

/// Which tensor holds each layer's output where only skips are kept: two take turns beside those.
fn outputs_in_turn(layers: &Layers) -> Vec<usize> {
    let kept: Vec<usize> = layers.steps.iter().filter_map(|s| s.join.map(|j| j.from)).collect();
    let mut turn = 0;
    let tensor = |i: usize| match kept.iter().position(|&from| from == i) {
        Some(skip) => 2 + skip,
        None => {
            turn = 1 - turn;
            turn
        }
    };
    (0..layers.steps.len()).map(tensor).collect()
}
