//! Linear layers: where a forward pass takes their weights from, and their gradients.

use std::collections::HashMap;

use crate::denoisers::{Linear, Parameters};
use crate::error::Result;
use crate::ops::{self, Activation, PackedWeight, Weight};
use crate::tensor::{DType, Device, Tensor, TensorView, TensorViewMut};
use crate::types::{Precision, Products};

/// What evaluations read of the parameters, by where it is in the flat tensor.
#[derive(Default)]
pub(in crate::denoisers) struct PackedWeights {
    /// In the layout of the device's matrix product.
    layers: HashMap<usize, (PackedWeight, Tensor)>,
    /// In f32.
    tensors: HashMap<usize, Tensor>,
}

/// Parameters, which are on the CPU, on their way to a device.
pub(in crate::denoisers) struct Packing<'a> {
    parameters: &'a Tensor,
    /// Of an image, of the layers that come next.
    pub tokens: usize,
    device: Device,
    precision: Precision,
    packed: PackedWeights,
}

impl<'a> Packing<'a> {
    pub fn new(parameters: &'a Tensor, device: Device, precision: Precision) -> Self {
        Self { parameters, tokens: 1, device, precision, packed: PackedWeights::default() }
    }

    /// A layer within the network. The output of all has the precision's type.
    pub fn layer(&mut self, layer: &Linear) -> Result<()> {
        self.add(layer, self.precision.products())
    }

    /// The network's first or last layer, whose products are of that type, too.
    pub fn outer_layer(&mut self, layer: &Linear) -> Result<()> {
        self.add(layer, None)
    }

    fn add(&mut self, layer: &Linear, products: Option<Products>) -> Result<()> {
        let weight = layer.weight(self.parameters)?;
        let weight = match products {
            Some(products) => PackedWeight::with_products(self.device, products, weight)?,
            // An image's rows may be paired only with one another: scores do not depend on the batch.
            None if self.tokens.is_multiple_of(2) => PackedWeight::in_pairs(self.device, weight)?,
            None => PackedWeight::on(self.device, weight)?,
        };
        let bias = layer.bias(self.parameters)?.copied_to(self.device, self.precision.dtype())?;
        self.packed.layers.insert(layer.offset, (weight, bias));
        Ok(())
    }

    /// Something else of this shape.
    pub fn tensor(&mut self, offset: usize, shape: &[usize]) -> Result<()> {
        let tensor = self.parameters.view().part(offset, shape)?;
        self.packed.tensors.insert(offset, tensor.copied_to(self.device, DType::F32)?);
        Ok(())
    }

    pub fn done(self) -> PackedWeights {
        self.packed
    }
}

/// Where a forward pass takes its weights from.
pub(in crate::denoisers) enum Source<'a> {
    Arena(Parameters<'a>),
    Packed(&'a PackedWeights),
}

impl Source<'_> {
    /// The weight, and the bias for an output of this type.
    pub fn weights(&self, layer: &Linear, output: DType) -> Result<(Weight<'_>, TensorView<'_>)> {
        match self {
            Source::Arena(from) => Ok((from.weight(layer)?.into(), from.bias(layer, output)?)),
            Source::Packed(packed) => {
                let (weight, bias) = &packed.layers[&layer.offset];
                Ok((weight.into(), bias.view()))
            }
        }
    }

    /// Something else, in f32.
    pub fn tensor(&self, offset: usize, shape: &[usize]) -> Result<TensorView<'_>> {
        match self {
            Source::Arena(from) => from.full.view().part(offset, shape),
            Source::Packed(packed) => packed.tensors[&offset].view().part(0, shape),
        }
    }

    pub fn linear(&self, layer: &Linear, x: TensorView, y: TensorViewMut) -> Result<()> {
        let (w, b) = self.weights(layer, y.dtype())?;
        ops::linear(x, w, Some(b), Activation::None, None, y)
    }
}

/// A layer's gradients: those of its parameters are added to `gradients`, that of x is written where it is asked for.
pub(in crate::denoisers) fn backward(
    layer: &Linear,
    parameters: Parameters,
    dy: TensorView,
    x: TensorView,
    dx: Option<TensorViewMut>,
    gradients: &mut Tensor,
) -> Result<()> {
    let (dw, db) = layer.parts(gradients)?;
    ops::linear_backward_weight(dy, x, dw, Some(db))?;
    match dx {
        Some(dx) => ops::linear_backward_input(dy, parameters.weight(layer)?, None, dx),
        None => Ok(()),
    }
}

/// [`backward`] of whole tensors.
pub(in crate::denoisers) fn plain_backward(
    layer: &Linear,
    parameters: Parameters,
    dy: &Tensor,
    x: &Tensor,
    dx: Option<&mut Tensor>,
    gradients: &mut Tensor,
) -> Result<()> {
    backward(layer, parameters, dy.view(), x.view(), dx.map(Tensor::view_mut), gradients)
}
