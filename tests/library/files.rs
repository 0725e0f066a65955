//! The right of one to write in a folder.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use invad::files::FolderLock;
use tempfile::tempdir;

/// The file of a lock goes with it, and one that waits for it meanwhile is not deceived.
#[test]
fn a_folder_is_of_one_at_a_time() {
    const THREADS: usize = 4;
    const TURNS: usize = 2000;
    let folder = tempdir().unwrap();
    let (inside, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let turns = || {
        let mut taken = 0;
        while taken < TURNS {
            let Ok(lock) = FolderLock::acquire(folder.path()) else {
                refused.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            thread::yield_now();
            assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
            drop(lock);
            taken += 1;
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(turns))));
    assert!(refused.into_inner() > 0, "they never met");
    assert!(!cfg!(unix) || fs::read_dir(folder.path()).unwrap().next().is_none());
}
