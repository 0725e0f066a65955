//! Work in two halves, of which one is begun while the other ends.

use crate::error::Result;

/// Has `finish` take what `begin` makes of each part, in order and on this thread, while the pool's threads begin the
/// next part. An error ends it.
///
/// # Errors
/// Those of `begin` and `finish`.
pub(crate) fn overlapped<P: Send, T: Send>(
    parts: impl IntoIterator<Item = P>,
    begin: impl Fn(P) -> Result<T> + Sync,
    mut finish: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let begin = &begin;
    let mut begun = None;
    for part in parts.into_iter().map(Some).chain([None]) {
        let mut next = None;
        rayon::in_place_scope(|scope| {
            if let Some(part) = part {
                scope.spawn(|_| next = Some(begin(part)));
            }
            begun.take().map_or(Ok(()), &mut finish)
        })?;
        begun = next.transpose()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::error::Error;

    fn on_threads(threads: usize, run: impl FnOnce() + Send) {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    }

    #[test]
    fn in_order_and_one_ahead() {
        for threads in [1, 2, 3] {
            on_threads(threads, || {
                let begun = AtomicUsize::new(0);
                let mut finished = Vec::new();
                let begin = |part: usize| Ok((part, begun.fetch_add(1, SeqCst)));
                let finish = |(part, order)| {
                    assert_eq!(part, order);
                    assert!(begun.load(SeqCst) <= part + 2, "further ahead than one part");
                    finished.push(part);
                    Ok(())
                };
                overlapped(0..7, begin, finish).unwrap();
                assert_eq!(finished, (0..7).collect::<Vec<_>>());
            });
        }
        overlapped([0; 0], |_| -> Result<()> { panic!("nothing to begin") }, |()| panic!())
            .unwrap();
    }

    #[test]
    fn errors_of_both_halves_end_it() {
        let error = |half| Error::argument("overlapped", half, "4", 5);
        let mut finished = 0;
        let count = |_| {
            finished += 1;
            Ok(())
        };
        let begin = |part| if part == 3 { Err(error("begin")) } else { Ok(part) };
        assert!(overlapped(0..9, begin, count).unwrap_err().to_string().contains("begin"));
        assert_eq!(finished, 3);
        let begun = AtomicUsize::new(0);
        let begin = |part: usize| Ok((part, begun.fetch_add(1, SeqCst)));
        let finish = |(part, _)| if part == 3 { Err(error("finish")) } else { Ok(()) };
        assert!(overlapped(0..9, begin, finish).unwrap_err().to_string().contains("finish"));
        assert_eq!(begun.load(SeqCst), 5);
    }
}
