//! Memory of large images.

/// From how many bytes on memory is on large pages: what is smaller is mostly memory that was used before.
const LARGE: usize = 8 << 20;

/// Zeros, on large pages where the system has such. Memory comes a page at a time, when it is first written; a photograph
/// of 12 megapixels has 9000 of the usual size, which take as long as half of its decoding.
pub(super) fn zeros(len: usize) -> Vec<u8> {
    let zeros = vec![0; len];
    if len >= LARGE {
        on_large_pages(&zeros);
    }
    zeros
}

#[cfg(all(target_os = "linux", not(miri)))]
fn on_large_pages(memory: &[u8]) {
    use rustix::mm::{Advice, madvise};
    use rustix::param::page_size;

    let (page, start) = (page_size(), memory.as_ptr().addr());
    let first = start.next_multiple_of(page) - start;
    let whole = memory.len().saturating_sub(first) / page * page;
    if whole > 0 {
        let pages = memory[first..].as_ptr().cast_mut().cast();
        // SAFETY: the pages lie within the memory, and the advice changes nothing of what they hold.
        let advised = unsafe { madvise(pages, whole, Advice::LinuxHugepage) };
        // Without large pages it is as slow as it was.
        advised.ok();
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn on_large_pages(_: &[u8]) {}
