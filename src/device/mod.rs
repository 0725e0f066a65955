//! What differs between the host and a GPU above single operations: how work is run again (replay), how a batch
//! is shared out (share), how parts of work overlap (overlapped), how numbers come and go (staging), and how much memory
//! there is and is taken ([`Plan`]).

mod memory;
mod overlapped;
mod plan;
mod replay;
mod share;
mod staging;

pub(crate) use memory::{free_memory, workspace_bytes};
pub(crate) use overlapped::overlapped;
pub use plan::{Allocate, Plan, Purpose};
pub(crate) use replay::{Key, Replay};
pub(crate) use share::{Share, Shared};
pub(crate) use staging::{Ahead, Readback, Upload};
