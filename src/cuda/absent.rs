//! What stands for the CUDA backend in a build without it: memory that cannot exist.

use std::convert::Infallible;
use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::types::{DType, Device};

/// Refuses the GPU `ordinal`.
pub(crate) fn context(ordinal: usize) -> Result<Infallible> {
    Err(Error::Unavailable {
        what: Device::Cuda(ordinal).to_string(),
        why: "invad was built without its `cuda` feature; use the device `cpu`".into(),
    })
}

/// Refuses the GPU `ordinal`.
pub(crate) fn free_memory(ordinal: usize) -> Result<usize> {
    match context(ordinal)? {}
}

/// Refuses the GPU `ordinal`.
pub(crate) fn reserve_scratch(ordinal: usize, _: usize) -> Result<()> {
    match context(ordinal)? {}
}

/// Nothing is taken on a GPU.
pub(crate) fn workspace_bytes(_: usize) -> usize {
    0
}

/// What is asked of operations on a GPU.
pub(crate) mod ops {
    use crate::error::Result;
    use crate::types::{DType, Device};

    pub const LARGEST_HEAD: usize = 0;
    pub const MOST_TOKENS: usize = 0;
    pub const WIDEST: usize = 0;
    pub const WIDEST_BACKWARD: usize = 0;
    pub const TIMESTEP_TABLE_BYTES: usize = 0;

    /// The weights of a block.
    pub enum Residual {}

    impl Residual {
        pub fn new<B>(_: &B, _: Device) -> Result<Self> {
            match super::context(0)? {}
        }

        pub fn device(&self) -> Device {
            match *self {}
        }

        pub fn squeezes(&self) -> bool {
            match *self {}
        }
    }

    /// What a block leaves between its convolutions.
    #[derive(Debug)]
    pub enum ResidualScratch {}

    impl ResidualScratch {
        pub fn new<S, T>(_: impl Iterator<Item = S>, _: usize, _: T) -> Result<Self> {
            match super::context(0)? {}
        }
    }

    pub fn adaln_zero_backward_scratch(_: usize, _: usize, _: usize) -> usize {
        0
    }

    pub fn attention_backward_scratch(_: usize, _: usize, _: usize, _: usize) -> usize {
        0
    }

    pub fn global_norm_scratch(_: usize) -> usize {
        0
    }

    pub fn group_norm_backward_scratch(_: usize, _: usize) -> usize {
        0
    }

    pub fn linear_backward_scratch(_: usize, _: usize, _: DType) -> usize {
        0
    }
}

#[derive(Debug)]
pub(crate) enum Graph {}

impl Graph {
    pub fn record(_: Device, _: impl FnMut() -> Result<()>) -> Result<Self> {
        match context(0)? {}
    }

    pub fn run(&mut self) -> Result<()> {
        match *self {}
    }
}

#[derive(Debug)]
pub(crate) enum Memory {}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice<'a>(Infallible, PhantomData<&'a ()>);

#[derive(Debug)]
pub(crate) struct SliceMut<'a>(Infallible, PhantomData<&'a mut ()>);

#[derive(Debug)]
pub(crate) enum Upload {}

pub(crate) enum Download {}

impl Memory {
    pub fn zeros(ordinal: usize, _: DType, _: usize) -> Result<Self> {
        match context(ordinal)? {}
    }

    pub fn from_f32(ordinal: usize, _: &[f32]) -> Result<Self> {
        match context(ordinal)? {}
    }

    pub fn try_clone(&self) -> Result<Self> {
        match *self {}
    }

    pub fn slice(&self) -> Slice<'_> {
        match *self {}
    }

    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        match *self {}
    }
}

impl Slice<'_> {
    pub fn dtype(&self) -> DType {
        match self.0 {}
    }

    pub fn device(&self) -> Device {
        match self.0 {}
    }

    pub fn address(&self) -> u64 {
        match self.0 {}
    }

    pub fn part(&self, _: usize, _: usize) -> Self {
        match self.0 {}
    }

    pub fn read(&self, _: &mut [f32]) -> Result<()> {
        match self.0 {}
    }
}

impl<'a> SliceMut<'a> {
    pub fn as_slice(&self) -> Slice<'_> {
        match self.0 {}
    }

    pub fn reborrow(&mut self) -> SliceMut<'_> {
        match self.0 {}
    }

    pub fn split(self, _: usize) -> (SliceMut<'a>, SliceMut<'a>) {
        match self.0 {}
    }

    pub fn write(&mut self, _: &[f32]) -> Result<()> {
        match self.0 {}
    }

    pub fn fill(&mut self, _: f32) -> Result<()> {
        match self.0 {}
    }
}

impl Upload {
    pub fn new(ordinal: usize, _: usize) -> Result<Self> {
        match context(ordinal)? {}
    }

    pub fn bytes(&mut self) -> Result<&mut [u8]> {
        match *self {}
    }

    pub fn send(&mut self, _: usize) -> Result<()> {
        match *self {}
    }

    pub fn read<T>(&mut self, _: impl FnOnce(Slice) -> Result<T>) -> Result<T> {
        match *self {}
    }

    pub fn copy_to(&mut self, _: &mut SliceMut) -> Result<()> {
        match *self {}
    }
}

impl Download {
    pub fn new(ordinal: usize, _: usize) -> Result<Self> {
        match context(ordinal)? {}
    }

    pub fn start(&mut self, _: &[Slice]) -> Result<()> {
        match *self {}
    }

    pub fn wait(&mut self) -> Result<&[f32]> {
        match *self {}
    }
}
