//! The flat tensor that holds all parameters, and its parts.

use crate::error::Result;
use crate::ops;
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};

/// A network's parameters: the flat tensor in f32 and, for computing on a GPU, its copy in f16.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// In f32.
    pub full: &'a Tensor,
    /// In f16, which a GPU's matrix products read.
    pub half: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Parameters<'a> {
    fn from(full: &'a Tensor) -> Self {
        Self { full, half: None }
    }
}

impl<'a> From<&'a mut Tensor> for Parameters<'a> {
    fn from(full: &'a mut Tensor) -> Self {
        Self { full, half: None }
    }
}

impl<'a> Parameters<'a> {
    /// Whether they are the parameters of a network that has `len`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if they are not.
    pub fn check(&self, op: &'static str, len: usize) -> Result<()> {
        ops::expect_shape(op, "parameters", self.full.shape(), &[len])?;
        match self.half {
            Some(half) => ops::expect_shape(op, "half", half.shape(), &[len]),
            None => Ok(()),
        }
    }

    /// A layer's weight (n, k), of the type that matrix products read.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the layer is of another network.
    pub fn weight(&self, layer: &Linear) -> Result<TensorView<'a>> {
        layer.weight(self.half.unwrap_or(self.full))
    }

    /// A layer's bias (n), for an output of this type.
    ///
    /// # Errors
    /// As [`Parameters::weight`].
    pub fn bias(&self, layer: &Linear, output: DType) -> Result<TensorView<'a>> {
        match self.half {
            Some(half) if output == DType::F16 => layer.bias(half),
            _ => layer.bias(self.full),
        }
    }
}

/// A named parameter: a part of the flat tensor that holds them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in files: for a network of this crate that of the method's reference implementation, without the
    /// prefix `net.`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where it starts, in elements.
    pub offset: usize,
}

impl Parameter {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A linear layer's place: the weight (n, k), then the bias (n).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Where it starts, in elements.
    pub offset: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

impl Linear {
    /// Its weight (n, k) in a flat tensor of all parameters.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the tensor ends before.
    pub fn weight<'a>(&self, arena: &'a Tensor) -> Result<TensorView<'a>> {
        arena.view().part(self.offset, &[self.n, self.k])
    }

    /// Its bias (n) there.
    ///
    /// # Errors
    /// As [`Linear::weight`].
    pub fn bias<'a>(&self, arena: &'a Tensor) -> Result<TensorView<'a>> {
        arena.view().part(self.offset + self.n * self.k, &[self.n])
    }

    /// Both there, to be written.
    ///
    /// # Errors
    /// As [`Linear::weight`].
    pub fn parts<'a>(
        &self,
        arena: &'a mut Tensor,
    ) -> Result<(TensorViewMut<'a>, TensorViewMut<'a>)> {
        let len = self.n * self.k + self.n;
        arena.view_mut().part(self.offset, &[len])?.split(&[self.n, self.k])
    }
}

/// Parameters one behind the other, as they are added.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// All of them.
    pub parameters: Vec<Parameter>,
    /// Their elements.
    pub len: usize,
}

impl Layout {
    /// Adds a parameter; returns where it starts.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> usize {
        let offset = self.len;
        let elements = shape.iter().fold(1usize, |n, axis| n.saturating_mul(*axis));
        self.len = self.len.saturating_add(elements);
        self.parameters.push(Parameter { name: name.into(), shape: shape.to_vec(), offset });
        offset
    }

    /// Adds `NAME.weight` (n, k) and `NAME.bias` (n).
    pub fn linear(&mut self, name: &str, n: usize, k: usize) -> Linear {
        self.linear_shaped(name, &[n, k])
    }

    /// The same with a weight whose second axis is written as several.
    pub(super) fn linear_shaped(&mut self, name: &str, shape: &[usize]) -> Linear {
        let offset = self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
        Linear { offset, n: shape[0], k: shape[1..].iter().product() }
    }
}
