//! The lengths of a tensor's axes.

use std::fmt;
use std::ops::Deref;

use crate::error::{Error, Result};

/// The most axes a tensor can have.
pub const MAX_RANK: usize = 6;

/// The lengths of a tensor's axes, held inline so that views cost no allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

/// The most elements a tensor can have: what memory can be addressed, at 8 bytes each.
const MAX_ELEMENTS: usize = isize::MAX as usize / 8;

impl Shape {
    /// A shape with these axes, as the argument `shape` of `op`.
    ///
    /// No product of some of the axes overflows, also where another is 0.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more than [`MAX_RANK`] axes or too many elements.
    pub fn new(op: &'static str, dims: &[usize]) -> Result<Self> {
        let elements = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim.max(1)));
        if dims.len() > MAX_RANK || elements.is_none_or(|n| n > MAX_ELEMENTS) {
            let expected = format!("at most {MAX_RANK} axes and {MAX_ELEMENTS} elements");
            return Err(Error::shape(op, "shape", expected, dims));
        }
        let mut shape = Shape { dims: [0; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        Ok(shape)
    }

    /// One axis of `n` elements that exist.
    pub fn line(n: usize) -> Self {
        let mut dims = [0; MAX_RANK];
        dims[0] = n;
        Shape { dims, rank: 1 }
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
