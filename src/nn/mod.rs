//! Networks with explicit forward and backward passes.
