//! What everything that is registered has to hold, and what loops that run for every batch allocate.

use std::alloc::System;
use std::fs;
use std::sync::{Mutex, MutexGuard};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

mod allocations;
mod backbones;
mod denoisers;
#[path = "../support/mod.rs"]
mod support;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for all threads, so that one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Bytes that `f` allocates.
fn bytes(f: impl FnOnce()) -> (usize, usize) {
    let region = Region::new(ALLOCATOR);
    f();
    let change = region.change();
    (change.bytes_allocated, change.allocations)
}

/// Asserts that a call allocates less than `few` bytes (the median of several, after some to warm
/// up) beside what matrix products do.
#[track_caller]
fn assert_few(name: &str, few: usize, mut call: impl FnMut()) {
    (0..4).for_each(|_| call());
    let mut calls: Vec<_> = (0..7).map(|_| bytes(&mut call)).collect();
    calls.sort();
    let (bytes, allocations) = calls[3];
    println!("{name}: {allocations} allocations, {bytes} bytes");
    // The `gemm` crate packs operands in memory of its own, tens of KB a product; the activations of
    // a batch are larger by far. On AMX nothing is packed anew.
    let amx = fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains(" amx_bf16 "));
    let few = if amx { few } else { few + (10 << 20) };
    assert!(bytes < few, "{name}: {bytes} bytes in {allocations} allocations");
}

/// Lists of slices and rayon's jobs; no buffer of numbers is as small.
const LISTS: usize = 8 << 10;

/// Root mean square of the difference, in parts of that of `want`.
fn difference(got: &[f64], want: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum();
    (error / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}
