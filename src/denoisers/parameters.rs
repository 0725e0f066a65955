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
    /// How it is laid out.
    pub order: Order,
}

/// How a parameter is laid out, as against files of the method's reference implementation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// As there.
    #[default]
    Same,
    /// The weight of a convolution, (O, K, K, C): (O, C, K, K) there.
    Kernel,
    /// The rows of an attention's q, k and v are three thirds: there those of each head, q, k and v of `size` rows
    /// each, are together.
    Heads {
        /// Of a head.
        size: usize,
    },
}

impl Parameter {
    /// Its shape in files of the reference implementation.
    pub fn reference_shape(&self) -> Vec<usize> {
        match (self.order, &self.shape[..]) {
            (Order::Kernel, &[o, h, w, c]) => vec![o, c, h, w],
            (_, shape) => shape.to_vec(),
        }
    }

    /// Its numbers, of those of the reference implementation.
    ///
    /// # Panics
    /// If there are not [`len`](Self::len) of either.
    pub fn from_reference(&self, theirs: &[f32], ours: &mut [f32]) {
        assert_eq!([theirs.len(), ours.len()], [self.len(); 2], "{}", self.name);
        self.each(|our, their, n| ours[our..][..n].copy_from_slice(&theirs[their..][..n]));
    }

    /// Those of the reference implementation, of its own.
    ///
    /// # Panics
    /// If there are not [`len`](Self::len) of either.
    pub fn to_reference(&self, ours: &[f32], theirs: &mut [f32]) {
        assert_eq!([theirs.len(), ours.len()], [self.len(); 2], "{}", self.name);
        self.each(|our, their, n| theirs[their..][..n].copy_from_slice(&ours[our..][..n]));
    }

    /// Calls `run` with where runs of numbers that lie together begin here and there, and their length.
    fn each(&self, mut run: impl FnMut(usize, usize, usize)) {
        match (self.order, &self.shape[..]) {
            (Order::Kernel, &[outputs, height, width, channels]) => {
                let window = height * width;
                for i in 0..outputs * window * channels {
                    let (output, at, channel) =
                        (i / (window * channels), i / channels % window, i % channels);
                    run(i, (output * channels + channel) * window + at, 1);
                }
            }
            (Order::Heads { size }, &[rows, ..]) => {
                let (columns, heads) = (self.len() / rows, rows / (3 * size));
                for i in 0..rows / size {
                    let (part, head) = (i / heads, i % heads);
                    let n = size * columns;
                    run(i * n, (head * 3 + part) * n, n);
                }
            }
            _ => run(0, 0, self.len()),
        }
    }

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
        self.add_in(name, shape, Order::Same)
    }

    /// The same, laid out so.
    pub fn add_in(&mut self, name: impl Into<String>, shape: &[usize], order: Order) -> usize {
        let offset = self.len;
        let elements = shape.iter().fold(1usize, |n, axis| n.saturating_mul(*axis));
        self.len = self.len.saturating_add(elements);
        let (name, shape) = (name.into(), shape.to_vec());
        self.parameters.push(Parameter { name, shape, offset, order });
        offset
    }

    /// Adds `NAME.weight` (n, k) and `NAME.bias` (n).
    pub fn linear(&mut self, name: &str, n: usize, k: usize) -> Linear {
        self.linear_in(name, &[n, k], Order::Same)
    }

    /// The same, laid out so, with a weight whose second axis is written as several.
    pub(super) fn linear_in(&mut self, name: &str, shape: &[usize], order: Order) -> Linear {
        let offset = self.add_in(format!("{name}.weight"), shape, order);
        let of_bias = if order == Order::Kernel { Order::Same } else { order };
        self.add_in(format!("{name}.bias"), &shape[..1], of_bias);
        let k = shape[1..].iter().fold(1usize, |k, axis| k.saturating_mul(*axis));
        Linear { offset, n: shape[0], k }
    }
}
