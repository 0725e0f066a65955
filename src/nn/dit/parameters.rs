//! The flat tensor that holds all parameters, and its parts.

use super::Dit;
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
    pub(super) fn check(&self, op: &'static str, dit: &Dit) -> Result<()> {
        ops::expect_shape(op, "parameters", self.full.shape(), &[dit.len])?;
        match self.half {
            Some(half) => ops::expect_shape(op, "half", half.shape(), &[dit.len]),
            None => Ok(()),
        }
    }

    pub(super) fn weight(&self, layer: &Linear) -> Result<TensorView<'a>> {
        layer.weight(self.half.unwrap_or(self.full))
    }

    /// The bias for an output of this type.
    pub(super) fn bias(&self, layer: &Linear, output: DType) -> Result<TensorView<'a>> {
        match self.half {
            Some(half) if output == DType::F16 => layer.bias(half),
            _ => layer.bias(self.full),
        }
    }
}

/// A named parameter: a part of the flat tensor that holds them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the method's reference implementation, without the prefix `net.`.
    pub name: String,
    /// Its shape there.
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
pub(super) struct Linear {
    pub offset: usize,
    pub n: usize,
    pub k: usize,
}

impl Linear {
    pub(super) fn weight<'a>(&self, arena: &'a Tensor) -> Result<TensorView<'a>> {
        arena.view().part(self.offset, &[self.n, self.k])
    }

    pub(super) fn bias<'a>(&self, arena: &'a Tensor) -> Result<TensorView<'a>> {
        arena.view().part(self.offset + self.n * self.k, &[self.n])
    }

    pub(super) fn parts<'a>(
        &self,
        arena: &'a mut Tensor,
    ) -> Result<(TensorViewMut<'a>, TensorViewMut<'a>)> {
        let len = self.n * self.k + self.n;
        arena.view_mut().part(self.offset, &[len])?.split(&[self.n, self.k])
    }
}

/// Parameters one behind the other.
#[derive(Default)]
pub(super) struct Layout {
    pub parameters: Vec<Parameter>,
    pub len: usize,
}

impl Layout {
    pub fn add(&mut self, name: String, shape: &[usize]) -> usize {
        let offset = self.len;
        self.len += shape.iter().product::<usize>();
        self.parameters.push(Parameter { name, shape: shape.to_vec(), offset });
        offset
    }

    pub fn linear(&mut self, name: &str, n: usize, k: usize) -> Linear {
        self.linear_shaped(name, &[n, k])
    }

    pub fn linear_shaped(&mut self, name: &str, shape: &[usize]) -> Linear {
        let offset = self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
        Linear { offset, n: shape[0], k: shape[1..].iter().product() }
    }
}
