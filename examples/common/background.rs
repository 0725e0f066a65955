//! Work that must not hold up scoring, such as writing pictures.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use invad::{Error, Result};

type Task<'t> = Box<dyn FnOnce() -> Result<()> + Send + 't>;

/// Threads that take tasks.
pub struct Background<'a, 't> {
    tasks: SyncSender<Task<'t>>,
    failure: &'a Mutex<Option<Error>>,
}

/// Runs `program` with threads beside it, and returns when all tasks are done, with the first error
/// of any of them.
pub fn in_background<'t, R>(program: impl FnOnce(&Background<'_, 't>) -> Result<R>) -> Result<R> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    let failure = Mutex::new(None);
    // Few wait at a time, so that memory does not grow with the number of tasks.
    let (tasks, waiting) = sync_channel::<Task>(threads);
    let waiting = Mutex::new(waiting);
    let result = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let task = lock(&waiting).recv();
                    let Ok(task) = task else { break };
                    if lock(&failure).is_some() {
                        continue;
                    }
                    if let Err(e) = task() {
                        lock(&failure).get_or_insert(e);
                    }
                }
            });
        }
        program(&Background { tasks, failure: &failure })
    });
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(e) => Err(e),
        None => result,
    }
}

impl<'t> Background<'_, 't> {
    /// Hands over a task; waits while many wait already. Fails if an earlier task has.
    pub fn spawn(&self, task: impl FnOnce() -> Result<()> + Send + 't) -> Result<()> {
        // The first failure is that of the whole run; what is left waits for no one.
        if let Some(e) = lock(self.failure).take() {
            return Err(e);
        }
        self.tasks.send(Box::new(task)).map_err(|_| Error::Unavailable {
            what: "a thread".into(),
            why: "all of them have ended".into(),
        })
    }
}

/// What a mutex holds, whoever panicked with it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
